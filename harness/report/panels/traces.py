"""Every step of every rank of a launch: who waits for whom, and whether the machine changed meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from harness.labels import Named
from harness.report import format as fmt
from harness.report.figures import GRID, MUTED, figure, text
from harness.report.panels.panel import Chart, Table
from harness.report.sweep_view import SweepView

DRAWN = 10
"""Plans that can be chosen."""
MOST_RANKS = 16
"""Ranks of which a line is drawn; of more, those that took longest in all."""
_COLOURS = ("var(--ddp)", "var(--zero2)", "var(--zero1)", "var(--zero3)", "var(--tensor)", "var(--pipeline)")


@dataclass(frozen=True, kw_only=True)
class Trace(Named):
    """One launch."""

    steps: tuple[int, ...]
    warmup: int
    """Steps that do not count."""
    ranks: dict[int, tuple[float, ...]]
    """Rank -> time of each step, in s."""

    @property
    def slowest(self) -> int:
        """The rank whose counted steps took longest in all."""
        return max(self.ranks, key=lambda rank: sum(self.ranks[rank][self.warmup :]))


@dataclass(frozen=True)
class Traces:
    """The best plans' launches, in the order of the ranking."""

    traces: tuple[Trace, ...]
    reading: str


def data(view: SweepView) -> Traces | None:
    """Step times by rank of the best plans; None if no step of them is recorded."""
    by_trial = dict(tuple(view.steps.groupby("trial_id")))
    traces = []
    for row in view.ranked[:DRAWN]:
        steps = by_trial.get(row["trial_id"])
        if steps is None:
            continue
        wide = steps.pivot(index="step", columns="rank", values="step_time_s").dropna()
        warmup = int(steps[steps["phase"] == "warmup"]["step"].nunique())
        ranks = {int(rank): tuple(map(float, wide[rank])) for rank in wide.columns}
        if not wide.empty:
            numbers = tuple(int(step) for step in wide.index)
            traces.append(Trace(**vars(view.named(row)), steps=numbers, warmup=warmup, ranks=ranks))
    return Traces(tuple(traces), _reading(traces)) if traces else None


def draw(traces: Traces) -> Chart:
    """A line for each rank; one figure for each plan."""
    figures = {trace.label: _figure(trace) for trace in traces.traces}
    (name, first), *others = figures.items()
    return Chart(
        figure=first,
        name=name,
        others=dict(others),
        choice="Plan",
        reading=traces.reading,
        note=f"Of more than {MOST_RANKS} ranks the slowest are drawn." if _many(traces) else "",
        table=_table(traces.traces),
    )


def _figure(trace: Trace) -> go.Figure:
    drawn = figure("step", "step time (ms)", height=360)
    ranks = sorted(trace.ranks, key=lambda rank: -sum(trace.ranks[rank]))[:MOST_RANKS]
    for rank in sorted(ranks):
        drawn.add_scatter(
            x=trace.steps,
            y=[1e3 * seconds for seconds in trace.ranks[rank]],
            mode="lines",
            name=f"rank {rank}",
            line={"width": 1.5, "color": _COLOURS[rank % len(_COLOURS)]},
            hovertemplate=f"rank {rank}, step %{{x}}: %{{y:.4g}} ms<extra></extra>",
        )
    if trace.warmup:
        drawn.add_vrect(
            x0=trace.steps[0] - 0.5,
            x1=trace.steps[0] + trace.warmup - 0.5,
            fillcolor=GRID,
            opacity=0.5,
            line_width=0,
            layer="below",
            annotation={"text": text("warm-up"), "font": {"color": MUTED}, "showarrow": False},
            annotation_position="top left",
        )
    drawn.update_yaxes(rangemode="tozero")
    return drawn


def _table(traces: Sequence[Trace]) -> Table:
    rows = (
        (trace.label, rank, step, "warm-up" if at < trace.warmup else "measured", seconds)
        for trace in traces
        for rank, times in trace.ranks.items()
        for at, (step, seconds) in enumerate(zip(trace.steps, times, strict=True))
    )
    return Table(columns=("plan", "rank", "step", "phase", "step time s"), rows=tuple(rows))


def _many(traces: Traces) -> bool:
    return any(len(trace.ranks) > MOST_RANKS for trace in traces.traces)


def _reading(traces: Sequence[Trace]) -> str:
    if not traces:
        return ""
    first = traces[0]
    totals = {rank: sum(times[first.warmup :]) for rank, times in first.ranks.items()}
    if len(totals) == 1:
        return f"{first.short} runs on one rank, so nobody waits."
    slow, fast = max(totals.values()), min(totals.values())
    if fast <= 0 or slow / fast - 1 < 0.005:
        return (
            f"The ranks of {first.short} keep in step: over the window their times differ by less than 0.5{fmt.NBSP}%."
        )
    longer = fmt.percent(slow / fast - 1)
    return f"Over the window rank {first.slowest} of {first.short} takes {longer} longer than the fastest."
