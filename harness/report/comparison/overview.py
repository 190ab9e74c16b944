"""Across workloads: which strategy wins, never how fast, because different workloads are unequal work."""

from __future__ import annotations

from dataclasses import dataclass

from harness.labels import kind
from harness.report import format as fmt
from harness.report.comparison.comparison_view import Comparison
from harness.report.panels.panel import Fragment


@dataclass(frozen=True)
class Found:
    """One workload in one place."""

    workload: str
    workload_id: str
    place: str
    kind: str
    plan: str
    against_ddp: float | None
    """Speed over that of the best ddp plan of the same workload and place."""
    memory_against_ddp: float | None


@dataclass(frozen=True)
class Overview:
    """A line for each workload and place."""

    lines: tuple[Found, ...]
    reading: str


def data(comparison: Comparison) -> Overview | None:
    """Winners by workload; None with a single workload."""
    if len(comparison.contests) < 2:
        return None
    lines = []
    for contest in comparison.contests:
        for entry in contest.entries:
            row, ddp = entry.winner.row, entry.best().get("ddp")
            lines.append(
                Found(
                    contest.name,
                    contest.workload_id,
                    contest.place_names[entry.place],
                    kind(row),
                    contest.plan_names[row["plan_id"]],
                    _ratio(row["tokens_per_s"], ddp.row["tokens_per_s"] if ddp else None),
                    _ratio(row["peak_memory_bytes"], ddp.row["peak_memory_bytes"] if ddp else None),
                )
            )
    return Overview(tuple(lines), _reading(lines, len(comparison.contests)))


def draw(overview: Overview) -> Fragment:
    """A table."""
    return Fragment(template="overview.html", reading=overview.reading, context={"overview": overview})


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _reading(lines: list[Found], workloads: int) -> str:
    kinds = sorted({line.kind for line in lines})
    head = f"{fmt.count(workloads, 'workload')}; their speeds are unequal work and are not compared"
    if len(kinds) == 1:
        return f"{head}. {kinds[0]} wins everywhere."
    return f"{head}. Winners: {fmt.listed(kinds, 8)}."
