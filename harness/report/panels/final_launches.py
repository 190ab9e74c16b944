"""The launches that decided between the best plans: how far fresh launches of one plan lie apart."""

from __future__ import annotations

from dataclasses import dataclass

from harness.labels import Named
from harness.report import format as fmt
from harness.report.figures import INK, row_figure, text
from harness.report.panels.panel import Chart, Table
from harness.report.sweep_view import SweepView
from harness.store.records import Role


@dataclass(frozen=True, kw_only=True)
class Finalist(Named):
    """One plan that was launched again."""

    rates: tuple[float, ...]
    """Tokens per second of each final launch that counts, in order."""
    searched: float | None
    """The rate of the launch that brought the plan here; it does not count."""
    middle: float
    low: float
    high: float
    """The rate of all launches together, with its 95 % interval."""
    tied: bool


@dataclass(frozen=True)
class Finals:
    """The finalists in the order of the ranking."""

    finalists: tuple[Finalist, ...]
    unit: str
    reading: str


def data(view: SweepView) -> Finals | None:
    """Launches of the finalists; None if none was launched again."""
    ties = {row["trial_id"] for row in view.ties}
    finalists = []
    for _, plans in view.places_of_plans:
        for plan in plans:
            if not plan.decided:
                continue
            row = plan.row
            first = [
                r["tokens_per_s"]
                for r in view.rows
                if (r["plan_id"], r["workload_id"]) == (row["plan_id"], row["workload_id"])
                and r["role"] != Role.FINAL
                and r["tokens_per_s"] is not None
            ]
            middle, low, high = view.interval(row)
            finalists.append(
                Finalist(
                    **vars(view.named(row)),
                    rates=tuple(launch["tokens_per_s"] for launch in plan.launches),
                    searched=first[-1] if first else None,
                    middle=middle or 0.0,
                    low=low or 0.0,
                    high=high or 0.0,
                    tied=row["trial_id"] in ties,
                )
            )
    return Finals(tuple(finalists), view.unit, _reading(finalists)) if finalists else None


def draw(finals: Finals) -> Chart:
    """A row for each finalist: its launches as dots, the interval of their level over all rounds as a bar."""
    plans = finals.finalists
    figure = row_figure(finals.unit, [p.label for p in plans], [p.short for p in plans], extra=40)
    rows = list(range(len(plans)))
    figure.add_scatter(
        x=[p.middle for p in plans],
        y=rows,
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [p.high - p.middle for p in plans],
            "arrayminus": [p.middle - p.low for p in plans],
            "color": INK,
            "thickness": 1.5,
        },
        mode="markers",
        name="all launches, 95 % interval",
        marker={"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": INK}},
        customdata=[p.at for p in plans],
        hovertext=[f"<b>{text(p.label)}</b><br>{fmt.rate(p.middle)} ({fmt.span(p.low, p.high)})" for p in plans],
        hoverinfo="text",
    )
    launches = [(rate, y, p, at) for y, p in enumerate(plans) for at, rate in enumerate(p.rates, start=1)]
    figure.add_scatter(
        x=[rate for rate, *_ in launches],
        y=[y for _, y, *_ in launches],
        mode="markers",
        name="a launch",
        customdata=[p.at for _, _, p, _ in launches],
        marker={"size": 9, "color": [p.colour for _, _, p, _ in launches]},
        hovertext=[f"<b>{text(p.label)}</b><br>launch {at}: {fmt.rate(rate)}" for rate, _, p, at in launches],
        hoverinfo="text",
    )
    searched = [(p.searched, y, p) for y, p in enumerate(plans) if p.searched is not None]
    figure.add_scatter(
        x=[rate for rate, *_ in searched],
        y=[y for _, y, _ in searched],
        mode="markers",
        name="in the search, not counted",
        customdata=[p.at for *_, p in searched],
        marker={"symbol": "circle-open", "size": 9, "color": [p.colour for *_, p in searched]},
        hovertext=[f"<b>{text(p.label)}</b><br>in the search: {fmt.rate(rate)}" for rate, _, p in searched],
        hoverinfo="text",
    )
    return Chart(figure=figure, reading=finals.reading, table=_table(finals))


def _table(finals: Finals) -> Table:
    lines = [(p.label, str(at), rate) for p in finals.finalists for at, rate in enumerate(p.rates, start=1)]
    lines += [(p.label, "in the search", p.searched) for p in finals.finalists if p.searched is not None]
    lines += [
        (p.label, end, v)
        for p in finals.finalists
        for end, v in (("all rounds", p.middle), ("low", p.low), ("high", p.high))
    ]
    return Table(columns=("plan", "launch", finals.unit), rows=tuple(lines))


def _reading(finalists: list[Finalist]) -> str:
    first, *others = finalists
    tied = [plan.short for plan in others if plan.tied]
    if not others:
        return f"{first.short} was launched again {fmt.count(len(first.rates), 'time')}; there was no other to compare."
    if tied:
        return f"{first.short} cannot be told apart from {fmt.listed(tied)}: choose by memory, or measure longer."
    gap = fmt.percent(first.middle / others[0].middle - 1)
    return f"{first.short} is faster than {others[0].short} by {gap}, more than launches differ by chance."
