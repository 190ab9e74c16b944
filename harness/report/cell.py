"""What a notebook shows of a sweep: the verdict, the best plans and two plots, as plain HTML and SVG of a few KiB.

Every text is escaped by Jinja; there is no script, and nothing is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.report import format as fmt
from harness.report.document import templates
from harness.report.panels import pareto, ranking, strategies, verdict
from harness.report.sweep_view import SweepView

SHOWN = 5
"""Plans in the table; the page has all."""
COLUMNS = ("throughput", "to winner", "step time", "peak memory")
WIDTH, HEIGHT, EDGE = 360.0, 200.0, 12.0
"""Of the scatter plot, and the space between its frame and the outermost points, in px."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A plan in the scatter plot."""

    x: float
    """From the left, in px."""
    y: float
    """From the top, in px."""
    text: str
    """Shown where the mouse rests on it."""
    winner: bool


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The best plan of a strategy."""

    name: str
    text: str
    share: float
    """Of the longest bar, 0 to 1."""


def render(view: SweepView, page: str, stopped: str) -> str:
    """The HTML of one sweep.

    Args:
        view: what was recorded.
        page: path of its page.
        stopped: why the search ended.
    """
    table = ranking.data(view)
    at = [index for index, column in enumerate(table.columns) if column.name in COLUMNS]
    return (
        templates()
        .get_template("cell.html")
        .render(
            verdict=verdict.data(view),
            columns=[table.columns[index] for index in at],
            lines=[(line, [line.cells[index] for index in at]) for line in table.lines[:SHOWN]],
            left=len(table.lines) - len(table.lines[:SHOWN]),
            marks=marks(view),
            bars=bars(view),
            unit=view.unit,
            trials=fmt.count(len(view.rows), "trial"),
            stopped=stopped,
            sweep=view.sweep,
            page=page,
            width=WIDTH,
            height=HEIGHT,
        )
    )


def marks(view: SweepView) -> tuple[Mark, ...]:
    """Throughput (upwards) against peak memory (to the right) of the ranked plans, the winner last and so on top."""
    found = pareto.data(view)
    if found is None:
        return ()
    memory, speed = [p.peak_memory_bytes for p in found.points], [p.tokens_per_s for p in found.points]
    made = [
        Mark(
            x=EDGE + _share(p.peak_memory_bytes, memory) * (WIDTH - 2 * EDGE),
            y=HEIGHT - EDGE - _share(p.tokens_per_s, speed) * (HEIGHT - 2 * EDGE),
            text=f"{p.label}: {fmt.rate(p.tokens_per_s)} {view.unit}, {fmt.size(p.peak_memory_bytes)}",
            winner=p.winner,
        )
        for p in found.points
    ]
    return tuple(sorted(made, key=lambda mark: mark.winner))


def bars(view: SweepView) -> tuple[Bar, ...]:
    """The best plan of each strategy, the fastest first."""
    found = strategies.data(view)
    if found is None:
        return ()
    longest = max(bar.tokens_per_s for bar in found.bars) or 1.0
    return tuple(
        Bar(
            name=bar.strategy,
            text=f"{fmt.rate(bar.tokens_per_s)} {bar.against_ddp}".strip(),
            share=bar.tokens_per_s / longest,
        )
        for bar in found.bars
    )


def _share(value: float, values: list[float]) -> float:
    low, high = min(values), max(values)
    return 0.5 if high == low else (value - low) / (high - low)
