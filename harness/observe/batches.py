"""What a batch of a script's holds: shapes, samples, tokens."""

from __future__ import annotations

from typing import Any

MOST, DEEPEST = 8, 3
"""Tensors of a batch that are told of, and levels of nesting that are looked into."""
MASK = "attention_mask"
MASK_ELEMENTS = 1 << 20
"""Masks above this are not summed: it would take longer than a step may be disturbed."""


def tensors(value: Any, kind: type, name: str = "", depth: int = 0) -> dict[str, Any]:
    """The first tensors of a batch by where they lie in it.

    Args:
        value: a tensor, or mappings and sequences of them.
        kind: the class of tensors.
        name: of the value.
        depth: at which it lies.
    """
    if isinstance(value, kind):
        return {name or "0": value}
    found: dict[str, Any] = {}
    if depth < DEEPEST:
        pairs: Any
        if isinstance(value, (list, tuple)):  # one with names may have one that is called items
            pairs = enumerate(value[:MOST])
        else:
            pairs = value.items() if callable(getattr(value, "items", None)) else ()
        for key, each in pairs:
            if len(found) < MOST:
                found.update(tensors(each, kind, f"{name}.{key}".strip("."), depth + 1))
    return found


def samples(found: dict[str, Any]) -> int:
    """First dimension of the first tensor that has one."""
    return next((int(tensor.shape[0]) for tensor in found.values() if tensor.dim()), 0)


def tokens(found: dict[str, Any]) -> int:
    """Elements of a first tensor that is a matrix of integers, those that a mask leaves out not counted; else 0."""
    first = found.get("input_ids", next(iter(found.values()), None))
    if first is None or first.dim() != 2 or first.is_floating_point() or first.is_complex():
        return 0
    mask = found.get(MASK)
    if mask is not None and mask.device.type == "cpu" and mask.shape == first.shape and mask.numel() <= MASK_ELEMENTS:
        return int(mask.sum())
    return int(first.numel())
