"""Throughput against memory: which plans no other plan beats on both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from harness.labels import Named, Row, kind
from harness.report import format as fmt
from harness.report.figures import figure, limit_line, text
from harness.report.panels.panel import Chart, Table
from harness.report.sweep_view import SweepView


@dataclass(frozen=True, kw_only=True)
class Point(Named):
    """One ok trial."""

    trial_id: str
    kind: str
    peak_memory_bytes: float
    tokens_per_s: float
    on_front: bool
    winner: bool


@dataclass(frozen=True)
class Pareto:
    """Every ok trial with a known peak, and the front from the leanest to the fastest."""

    points: tuple[Point, ...]
    front: tuple[Point, ...]
    memory_limit_bytes: float | None
    unit: str
    reading: str


def front(view: SweepView) -> tuple[Row, ...]:
    """The ok trials that no other beats in memory without losing throughput, from the leanest to the fastest."""
    rows = [r for r in view.ranked if r["peak_memory_bytes"] is not None and r["tokens_per_s"] is not None]
    best, kept = 0.0, []
    for row in sorted(rows, key=lambda r: (r["peak_memory_bytes"], -r["tokens_per_s"])):
        if row["tokens_per_s"] > best:
            best = row["tokens_per_s"]
            kept.append(row)
    return tuple(kept)


def data(view: SweepView) -> Pareto | None:
    """Points and front; None if no ok trial has a recorded peak."""
    on_front = {row["trial_id"] for row in front(view)}
    points = [
        Point(
            **vars(view.named(row)),
            trial_id=row["trial_id"],
            kind=kind(row),
            peak_memory_bytes=row["peak_memory_bytes"],
            tokens_per_s=row["tokens_per_s"],
            on_front=row["trial_id"] in on_front,
            winner=row is view.winner,
        )
        for row in view.ranked
        if row["peak_memory_bytes"] is not None and row["tokens_per_s"] is not None
    ]
    if not points:
        return None
    best = tuple(sorted((p for p in points if p.on_front), key=lambda p: p.peak_memory_bytes))
    return Pareto(tuple(points), best, view.memory_limit, view.unit, _reading(len(points), best))


def draw(pareto: Pareto) -> Chart:
    """A scatter plot, a step line for the front, a vertical line for the limit."""
    scale, unit = fmt.byte_scale(max(point.peak_memory_bytes for point in pareto.points))
    drawn = figure(f"peak memory ({unit})", pareto.unit, height=460)
    drawn.add_scatter(
        x=[p.peak_memory_bytes / scale for p in pareto.front],
        y=[p.tokens_per_s for p in pareto.front],
        mode="lines",
        name="Pareto front",
        line={"shape": "hv", "color": "var(--muted)", "width": 1.5, "dash": "dash"},
        hoverinfo="skip",
        showlegend=len(pareto.front) > 1,
    )
    winner = [point for point in pareto.points if point.winner]
    _add(drawn, "winner", winner, _marks(winner, size=18, symbol="star"), scale)
    for name in sorted({point.kind for point in pareto.points}):
        members = [point for point in pareto.points if point.kind == name and not point.winner]
        _add(drawn, name, members, _marks(members), scale)
    if pareto.memory_limit_bytes:
        limit_line(drawn, pareto.memory_limit_bytes / scale, f"limit {fmt.size(pareto.memory_limit_bytes)}")
    return Chart(figure=drawn, reading=pareto.reading, table=_table(pareto))


def _table(pareto: Pareto) -> Table:
    columns = ("plan", "peak memory B", pareto.unit, "on the front")
    rows = ((p.label, p.peak_memory_bytes, p.tokens_per_s, "yes" if p.on_front else "no") for p in pareto.points)
    return Table(columns=columns, rows=tuple(rows))


def _add(drawn: go.Figure, name: str, points: Sequence[Point], marks: Mapping[str, Any], scale: float) -> None:
    drawn.add_scatter(
        x=[point.peak_memory_bytes / scale for point in points],
        y=[point.tokens_per_s for point in points],
        mode="markers",
        name=text(name),
        marker=marks,
        customdata=[point.at for point in points],
        showlegend=bool(points),
    )


def _marks(points: Sequence[Point], size: int = 9, symbol: str = "circle") -> dict[str, Any]:
    """Those on the front are larger; the others are paler."""
    return {
        "color": [point.colour for point in points],
        "size": [size + 2 * point.on_front for point in points],
        "symbol": symbol,
        "opacity": [1 if point.on_front or point.winner else 0.6 for point in points],
        "line": {"width": 1, "color": "var(--card)"},
    }


def _reading(number: int, best: tuple[Point, ...]) -> str:
    fast, lean = best[-1], best[0]
    if len(best) == 1:
        return f"{fast.short} is the fastest and needs the least memory, so nothing has to be traded."
    slower = fmt.percent(1 - lean.tokens_per_s / fast.tokens_per_s)
    less = fmt.percent(1 - lean.peak_memory_bytes / fast.peak_memory_bytes)
    return (
        f"{len(best):,} of {fmt.count(number, 'plan')} are on the front, from {fast.short} (fastest) to "
        f"{lean.short}, which needs {less} less memory and is {slower} slower."
    )
