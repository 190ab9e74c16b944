"""How a command ends: its exit code, errors as one sentence, and one interrupt that counts."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import typer

from harness.errors import HarnessError
from harness.sweeps import interrupts

NOTHING_SUCCEEDED, INTERRUPTED = 1, 130
"""Exit codes beside those of the errors."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGTERM, which schedulers send, and SIGHUP, which a closed terminal does, count like Ctrl-C."""


def guarded(command: Callable[[], int]) -> None:
    """Run a command; errors that are the user's print as one or two lines, with their own exit code."""
    try:
        with interrupts.once(ENDING):
            code = command()
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    raise typer.Exit(code)
