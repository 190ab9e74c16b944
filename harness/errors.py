"""The harness's own errors.

HarnessError                 one or two sentences for the user: the rule, the values, what to do next
├── InputError               bad input, nothing was started                         (exit code 2)
│   └── UnknownNameError     a name that is not registered; lists the valid ones
├── StoreError               a recorded file cannot be read or written              (exit code 2)
└── MeasurementError         started, but nothing could be measured                 (exit code 3)

The command line prints the message alone, without a traceback, and exits with `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Base of every error that is the user's to mend."""

    exit_code = 2


class InputError(HarnessError):
    """An option, file or combination that cannot work; nothing was started or written."""


class UnknownNameError(InputError):
    """A name nobody registered.

    Args:
        kind: what was being looked up, in the user's words ("strategy", "sampler").
        name: what was given.
        valid: every name that would have worked.
    """

    def __init__(self, kind: str, name: str, valid: Iterable[str]) -> None:
        options = sorted(valid)
        close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        listed = f"valid are {', '.join(options)}" if options else "there is none yet"
        super().__init__(f"unknown {kind} {name!r}: {hint}{listed}")
        self.kind, self.name, self.valid = kind, name, tuple(options)


class StoreError(HarnessError):
    """A file of the results folder is unreadable, or the folder cannot be written."""


class MeasurementError(HarnessError):
    """The harness started but could not measure anything."""

    exit_code = 3


class TooLargeError(MeasurementError):
    """A reference does not fit into the memory of one process."""


def no_temporary_folder(error: OSError) -> StoreError:
    """For when no process can even be started, because there is nowhere to write."""
    return StoreError(
        f"no folder for temporary files can be written: {error.strerror or error}; set TMPDIR to one that can"
    )
