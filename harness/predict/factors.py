"""Factors: what a machine was measured to take, over what the closed form says of it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.predict.shape import Number


@dataclass(frozen=True)
class Factors:
    """Measured over closed form, of each part of a step."""

    compute: Number = 1.0
    tensor: Number = 1.0
    update: Number = 1.0
    exchange: Number = 1.0
    overlap: Number = 1.0
    """Share of the communication that the closed form hides which is hidden; what was measured beside computation has
    none."""
    ends: Number = 0.0
    """Layers whose tensor-parallel collectives those of the embedding and of the loss are worth, where they count."""
