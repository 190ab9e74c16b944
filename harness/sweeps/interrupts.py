"""One interrupt that counts: it ends what runs, and those that follow do not disturb what is then recorded."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def once(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Have the first of these signals raise KeyboardInterrupt, and ignore others until the block has ended.

    What was ignored before stays ignored: `nohup` wants that, and so does a shell whose script runs a command beside
    others. In a thread other than the main one, which no signal interrupts, nothing changes.

    Raises:
        KeyboardInterrupt: one of the signals came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]

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
