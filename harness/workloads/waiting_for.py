"""What those who wait for data to be prepared are told.

Preparation lies deep below what has a terminal, and a workload of another package prepares without an argument: so
whoever wants to be told says so around it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Listener = Callable[[str, int, int | None, str], None]
"""(what is prepared, how much is done, of how much if that is known, of what: "bytes", "rows" or "pictures")."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def told(listener: Listener) -> Iterator[None]:
    """Have the listener told of all that is prepared meanwhile."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(what: str, done: int, total: int | None, unit: str) -> None:
    """Tell whoever listens."""
    listener = _listener.get()
    if listener is not None:
        listener(what, done, total, unit)
