"""How the search went: every launch, and the best so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from harness.labels import Row, kind
from harness.report import format as fmt
from harness.report.figures import INK, figure, text
from harness.report.panels.panel import Chart, Table
from harness.report.sweep_view import SweepView
from harness.store.records import Outcome, Role
from harness.store.standings import USABLE, score


@dataclass(frozen=True)
class Try:
    """One launch of the search."""

    at: int | None
    """Number of its line in the ranked table."""
    label: str
    kind: str
    colour: str
    number: int
    """From 1, in the order of the launches."""
    seconds: float
    """From the first launch of the sweep to the end of this one."""
    value: float | None
    """The objective as it is shown; None if the launch failed."""
    best: float | None
    """The best value until here."""


@dataclass(frozen=True)
class Progress:
    """The launches of the search, in order."""

    tries: tuple[Try, ...]
    objective: str
    """What is drawn, with its unit."""
    reading: str


def data(view: SweepView) -> Progress | None:
    """The launches that the search asked for; None if none succeeded, or if objectives of several workloads mix."""
    if len(view.rankings) != 1:
        return None
    launched = [r for r in view.rows if r["role"] not in (Role.FINAL, Role.RUN) and r["outcome"] != Outcome.INFEASIBLE]
    objective = "memory" if view.objective == "memory" else view.objective
    begin = view.rows[0]["started_at"]
    tries: list[Try] = []
    best = -math.inf
    for number, row in enumerate(launched, start=1):
        usable = row["outcome"] in USABLE and not view.over_limit(row)
        worth = score(row, objective) if usable else -math.inf
        best = max(best, worth)
        end = (row["started_at"] - begin).total_seconds() + _length(row)
        tries.append(
            Try(
                view.at(row),
                view.label(row),
                kind(row),
                view.colour(row),
                number,
                end,
                abs(worth) if math.isfinite(worth) else None,
                abs(best) if math.isfinite(best) else None,
            )
        )
    if not math.isfinite(best):
        return None
    titles = {"memory": "peak memory (B)", "time-to-loss": "time to the target loss (s)"}
    return Progress(tuple(tries), titles.get(objective, view.unit), _reading(view, tries))


def draw(progress: Progress) -> Chart:
    """Points for the launches, a step line for the best so far; over launches or over time."""
    return Chart(
        figure=_figure(progress, "launch", [float(t.number) for t in progress.tries]),
        name="by launch",
        others={
            "by seconds": _figure(progress, "time since the first launch (s)", [t.seconds for t in progress.tries])
        },
        choice="Draw",
        reading=progress.reading,
        table=Table(
            columns=("launch", "end s", "plan", progress.objective, "best so far"),
            rows=tuple((t.number, t.seconds, t.label, t.value, t.best) for t in progress.tries),
        ),
    )


def _figure(progress: Progress, title: str, places: Sequence[float]) -> go.Figure:
    drawn = figure(title, progress.objective, height=380)
    drawn.add_scatter(
        x=places,
        y=[t.best for t in progress.tries],
        mode="lines",
        name="best so far",
        line={"shape": "hv", "color": INK, "width": 1.5},
        hoverinfo="skip",
    )
    for name in sorted({t.kind for t in progress.tries}):
        members = [
            (x, t) for x, t in zip(places, progress.tries, strict=True) if t.kind == name and t.value is not None
        ]
        drawn.add_scatter(
            x=[x for x, _ in members],
            y=[t.value for _, t in members],
            mode="markers",
            name=text(name),
            customdata=[t.at for _, t in members],
            marker={"size": 8, "color": members[0][1].colour if members else INK, "opacity": 0.8},
            showlegend=bool(members),
        )
    return drawn


def _length(row: Row) -> float:
    parts = ("launch_s", "setup_s", "warmup_s", "measure_s", "teardown_s")
    return float(sum(row.get(name) or 0.0 for name in parts))


def _reading(view: SweepView, tries: Sequence[Try]) -> str:
    first = next(t for t in tries if t.best is not None)
    last = tries[-1]
    assert first.best is not None
    assert last.best is not None
    found = next(t for t in tries if t.best == last.best)
    gain = max(last.best, first.best) / min(last.best, first.best) if min(last.best, first.best) > 0 else 1.0
    better = f", {fmt.percent(gain - 1)} better than the first that succeeded" if gain > 1.005 else ""
    after = len(tries) - found.number
    if not after:
        return f"The best launch of the search was the last of {len(tries):,}{better}: searching longer may find more."
    nothing = f"the {fmt.count(after, 'launch', 'launches')} after it found nothing better"
    return (
        f"The best launch of the search was number {found.number:,} of {len(tries):,}, after "
        f"{fmt.duration(found.seconds)}{better}; {nothing}."
    )
