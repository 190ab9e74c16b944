"""How a command ends: its exit code, errors as one sentence, and one interrupt that counts."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

import typer

from harness.errors import HarnessError

NOTHING_SUCCEEDED, INTERRUPTED = 1, 130
"""Exit codes beside those of the errors."""


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def guarded(command: Callable[[], int]) -> None:
    """Run a command; errors that are the user's print as one or two lines, with their own exit code."""
    try:
        with _interrupted_once():
            code = command()
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    raise typer.Exit(code)


@contextlib.contextmanager
def _interrupted_once() -> Iterator[None]:
    """Treat SIGTERM, which schedulers send, and SIGHUP, which a closed terminal does, like Ctrl-C.

    The first signal ends the command; others that follow while it records what it has are ignored. What was ignored
    when the command began stays ignored: `nohup` wants that, and so does a shell whose script runs it beside others.
    """
    heard = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]

    def interrupt(signum: int, frame: object) -> None:
        for number in heard:
            signal.signal(number, signal.SIG_IGN)
        if signum == signal.SIGHUP:
            _leave_the_terminal()
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, interrupt)) for number in heard]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler or signal.SIG_DFL)


def _leave_the_terminal() -> None:
    """Write nowhere what would go to a terminal that is gone: it would raise before what was measured is recorded."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if os.isatty(stream):
            os.dup2(nowhere, stream)
    os.close(nowhere)
