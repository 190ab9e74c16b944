"""What if the cluster, the micro-batch or the degrees were others: the best predicted plan of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.errors import InputError
from harness.plan import Plan
from harness.predict.cluster_plans import Question, Ranked, plans, rank, settings

NODES = (0.25, 0.5, 1, 2, 4)
"""Multiples of the nodes that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One answer."""

    at: float
    """World size, or micro-batch size."""
    tokens_per_s: float | None
    """None where no plan fits."""
    needed_bytes: float
    memory_bytes: float
    """What a device has."""
    said: str
    """The plan in its settings."""


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """The answers of one question."""

    worlds: tuple[Point, ...]
    """The best plan at other numbers of devices, with the same global batch."""
    micro_batches: tuple[Point, ...]
    """The best plan with other micro-batches."""
    degrees: tuple[tuple[int, int, float | None], ...]
    """(tp, pp, tokens per second of the best plan that fits, None if there is none)."""


def what_if(question: Question) -> WhatIf:
    """Everything that the page shows beside the ranking."""
    found = plans(question)
    best = rank(question, found, 1)[0]
    return WhatIf(
        worlds=tuple(point for factor in NODES if (point := _world(question, factor)) is not None),
        micro_batches=_micro_batches(question, found, best.plan),
        degrees=_degrees(question, found),
    )


def _world(question: Question, factor: float) -> Point | None:
    nodes = question.cluster.nodes * factor
    if nodes < 1 or nodes != int(nodes):
        return None
    asked = replace(question, cluster=replace(question.cluster, nodes=int(nodes)))
    try:
        best = rank(asked, plans(asked), 1)[0]
    except InputError:  # the global batch cannot be divided over so many
        return None
    return _point(asked, asked.cluster.devices, best)


def _micro_batches(question: Question, found: Sequence[Plan], best: Plan) -> tuple[Point, ...]:
    """The same plan with every micro-batch that it can have."""
    same = [p for p in found if {**p, "micro_batch_size": 0} == {**best, "micro_batch_size": 0}]
    ranked = rank(question, same)
    points = [_point(question, int(one.plan["micro_batch_size"]), one) for one in ranked]
    return tuple(sorted(points, key=lambda point: point.at))


def _degrees(question: Question, found: Sequence[Plan]) -> tuple[tuple[int, int, float | None], ...]:
    best: dict[tuple[int, int], float | None] = {}
    for one in rank(question, found):
        key = int(one.plan["tp"]), int(one.plan["pp"])
        if key not in best:
            best[key] = one.tokens_per_s if one.fits else None
    return tuple((tp, pp, rate) for (tp, pp), rate in sorted(best.items()))


def _point(question: Question, at: float, one: Ranked) -> Point:
    said = ", ".join(f"{name}={value}" for name, value in settings(one.plan).items())
    return Point(
        at=at,
        tokens_per_s=one.tokens_per_s if one.fits else None,
        needed_bytes=one.needed_bytes,
        memory_bytes=question.cluster.device.memory_bytes,
        said=said,
    )
