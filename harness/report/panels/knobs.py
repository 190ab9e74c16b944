"""What each knob does: which ones set the best plans apart, and what each value reached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from harness.labels import Row, kind, settings
from harness.report import format as fmt
from harness.report.figures import INK, row_figure, text
from harness.report.panels.panel import Chart, Table
from harness.report.sweep_view import SweepView
from harness.search.importance import classes, importance
from harness.store.standings import score

SLICES = 8
"""Knobs whose values are drawn."""


@dataclass(frozen=True)
class Dot:
    """One ranked plan in a slice."""

    at: int | None
    """Number of its line in the ranked table."""
    label: str
    kind: str
    colour: str
    value: float
    """The objective."""


@dataclass(frozen=True)
class Knobs:
    """The knobs that have more than one value among the ranked plans, the most important first."""

    importance: Mapping[str, float]
    """Knob -> share; they add up to 1."""
    slices: Mapping[str, Mapping[str, tuple[Dot, ...]]]
    """Knob -> value as text -> plans with it."""
    unit: str
    reading: str


def data(view: SweepView) -> Knobs | None:
    """Importance and slices over the plans of the first ranking; None if they say nothing of knobs."""
    if not view.rankings:
        return None
    rows = [row for row in view.rankings[0] if row["tokens_per_s"] is not None]
    plans = [settings(row) for row in rows]
    shares = importance(plans, [score(row, view.objective) for row in rows])
    if not shares:
        return None
    unit = {"memory": "peak memory (B)", "time-to-loss": "time to the target loss (s)"}.get(view.objective, view.unit)
    slices = {name: _slice(view, rows, plans, name) for name in list(shares)[:SLICES]}
    return Knobs(shares, slices, unit, _reading(shares, slices, view.objective))


def draw(knobs: Knobs) -> Chart:
    """First the shares, then a strip of plans for each value of a knob."""
    others = {name: _strip(found, knobs.unit) for name, found in knobs.slices.items()}
    rows = [
        (name, share, value, dot.label, dot.value)
        for name, share in knobs.importance.items()
        for value, dots in knobs.slices.get(name, {}).items()
        for dot in dots
    ]
    return Chart(
        figure=_bars(knobs.importance),
        name="importance of every knob",
        others=others,
        choice="Show",
        reading=knobs.reading,
        note="Importance by PED-ANOVA: what sets the best quarter of the plans apart from all of them.",
        table=Table(columns=("knob", "importance", "value", "plan", knobs.unit), rows=tuple(rows)),
    )


def _slice(
    view: SweepView, rows: Sequence[Row], plans: Sequence[Mapping[str, Any]], name: str
) -> Mapping[str, tuple[Dot, ...]]:
    found: dict[str, list[Dot]] = defaultdict(list)
    for row, text_of in zip(rows, classes([plan.get(name) for plan in plans]), strict=True):
        value = abs(score(row, view.objective))
        found[text_of].append(Dot(view.at(row), view.label(row), kind(row), view.colour(row), value))
    return {value: tuple(found[value]) for value in sorted(found, key=_natural)}


def _bars(shares: Mapping[str, float]) -> go.Figure:
    names = [name.replace("_", " ") for name in shares]
    drawn = row_figure("importance (%)", names, names)
    drawn.add_bar(
        orientation="h",
        x=[100 * share for share in shares.values()],
        y=list(range(len(names))),
        marker={"color": "var(--accent)"},
        hovertext=[
            f"<b>{text(name)}</b>: {fmt.percent(share)}" for name, share in zip(names, shares.values(), strict=True)
        ],
        hoverinfo="text",
        showlegend=False,
    )
    return drawn


def _strip(values: Mapping[str, Sequence[Dot]], unit: str) -> go.Figure:
    drawn = row_figure(unit, list(values), list(values), extra=40)
    dots = [(y, dot) for y, members in enumerate(values.values()) for dot in members]
    for name in sorted({dot.kind for _, dot in dots}):
        members = [(y, dot) for y, dot in dots if dot.kind == name]
        drawn.add_scatter(
            x=[dot.value for _, dot in members],
            y=[y for y, _ in members],
            mode="markers",
            name=text(name),
            customdata=[dot.at for _, dot in members],
            marker={"size": 9, "color": members[0][1].colour, "opacity": 0.75},
        )
    drawn.add_scatter(
        x=[_median([dot.value for dot in members]) for members in values.values()],
        y=list(range(len(values))),
        mode="markers",
        name="median",
        marker={"symbol": "line-ns", "size": 18, "line": {"width": 2, "color": INK}},
        hoverinfo="skip",
    )
    return drawn


def _natural(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value.partition(" ")[0]), value
    except ValueError:
        return True, 0.0, value


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _reading(shares: Mapping[str, float], slices: Mapping[str, Mapping[str, Sequence[Dot]]], objective: str) -> str:
    first = next(iter(shares))
    medians = {value: _median([dot.value for dot in dots]) for value, dots in slices[first].items()}
    choose = max if objective in ("throughput", "pareto") else min
    best = choose(medians, key=lambda value: medians[value])
    second = f", then {list(shares)[1].replace('_', ' ')}" if len(shares) > 1 else ""
    name = first.replace("_", " ")
    return (
        f"What sets the best plans apart most is {name} ({fmt.percent(shares[first])}){second}; "
        f"by their medians the plans {'without it' if best == 'without' else f'with {name} {best}'} are best."
    )
