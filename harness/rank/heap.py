"""Memory that a rank has freed and the C library still holds.

A rank of ZeRO-3 makes each tensor whole, keeps its share and frees the rest. Shares that stay lie between holes into
which the next whole tensor does not fit: without these functions the heap grows to the size of the whole model.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache

import torch

from strategies.training import Initial

EVERY_BYTES = 256 << 20
"""How much is made before holes are given back."""


def give_back() -> None:
    """Return the pages of holes to the system; nothing where the C library has no malloc_trim (it is glibc's)."""
    trim = _trim()
    if trim is not None:
        trim(0)


def sparing(initial: Initial) -> Initial:
    """Initial values as before, with holes given back now and then."""
    made = 0

    def value(name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        nonlocal made
        found = initial(name, shape, device)
        made += found.nbytes
        if made >= EVERY_BYTES:
            made = 0
            give_back()
        return found

    return value


@lru_cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
