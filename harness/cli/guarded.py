"""How a command ends: its exit code, errors as one sentence, and one interrupt that counts."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator

import typer

from harness.errors import HarnessError

NOTHING_SUCCEEDED, INTERRUPTED = 1, 130
"""Exit codes beside those of the errors."""


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
    """Treat SIGTERM, which schedulers send, like Ctrl-C. The first signal ends the command; others that follow while
    it records what it has are ignored."""
    both = (signal.SIGINT, signal.SIGTERM)

    def interrupt(signum: int, frame: object) -> None:
        for number in both:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, interrupt)) for number in both]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler or signal.SIG_DFL)
