"""Putting a function into the place of another one."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable
from typing import Any


def instead(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace owner.name by what `make` makes of it; it keeps the names by which people and pickles know it."""
    old = getattr(owner, name)
    new = make(old)
    # Not functools.wraps: Dynamo reads meanings into other attributes.
    for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(new, attribute, getattr(old, attribute, None))
    with contextlib.suppress(TypeError, ValueError):  # some ask which arguments there are
        new.__signature__ = inspect.signature(old)
    setattr(owner, name, new)


def remembering(old: Any) -> Any:
    """A scaler's `scale` whose result knows what was scaled."""

    def scale(scaler: Any, outputs: Any) -> Any:
        out = old(scaler, outputs)
        if isinstance(out, sys.modules["torch"].Tensor) and out is not outputs:
            out._harness_before_scaling = outputs
        return out

    return scale
