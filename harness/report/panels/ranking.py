"""Every trial in one table, best first, those that are not ok at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.labels import Row
from harness.report import format as fmt
from harness.report.panels.panel import Fragment
from harness.report.sweep_view import SweepView
from harness.store.records import Outcome

SHOWN = 200
"""Lines that are shown at first; the rest is in the page too."""


@dataclass(frozen=True)
class Column:
    """One numeric column."""

    name: str
    unit: str
    value: Callable[[Row], float | None]
    """In the unit of the column."""
    show: Callable[[float | None], str]
    meaning: str
    detail: bool = False
    """Whether a narrow screen leaves it out at first."""


@dataclass(frozen=True)
class Cell:
    """What is shown, and the number by which the column is sorted."""

    text: str
    key: float | None
    interval: str = ""
    """Its 95 % interval."""


@dataclass(frozen=True)
class Line:
    """One trial."""

    trial_id: str
    place: int | None
    tied: bool
    label: str
    colour: str
    problem: str
    """The outcome if it is not ok, or that the memory limit is broken; else empty."""
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Ranking:
    """The table: columns and lines in the same order."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    sweep: str
    reading: str


def data(view: SweepView) -> Ranking:
    """The ranked table; a column that has no value in any trial is left out."""
    columns = tuple(c for c in _columns(view) if any(c.value(row) is not None for row in view.lines))
    ties = {row["trial_id"] for row in view.ties}
    lines = tuple(_line(view, row, columns, ties) for row in view.lines)
    return Ranking(columns, lines, view.sweep, _reading(view))


def draw(ranking: Ranking) -> Fragment:
    """The table as HTML; its headers sort it."""
    context = {"ranking": ranking, "shown": SHOWN}
    return Fragment(template="ranking.html", reading=ranking.reading, context=context)


def _line(view: SweepView, row: Row, columns: tuple[Column, ...], ties: set[str]) -> Line:
    cells = tuple(Cell(c.show(value), value, _interval(view, row, c)) for c in columns for value in (c.value(row),))
    return Line(
        trial_id=row["trial_id"],
        place=view.places.get(row["trial_id"]),
        tied=row["trial_id"] in ties,
        label=view.label(row),
        colour=view.colour(row),
        problem=_problem(view, row),
        cells=cells,
    )


def _interval(view: SweepView, row: Row, column: Column) -> str:
    if column.name == "throughput" and row["tokens_per_s_low"] is not None:
        _, low, high = view.interval(row)
        return fmt.span(low, high)
    difference = view.difference(row) if column.name == "to winner" else None
    if difference is None:
        return ""
    _, low, high = difference
    return f"{fmt.signed_percent(low, 1)} to {fmt.signed_percent(high, 1)}"


def _problem(view: SweepView, row: Row) -> str:
    if row["outcome"] != Outcome.OK:
        return str(row["outcome"])
    if row["disturbed"]:
        return "disturbed"
    return "over the limit" if view.over_limit(row) else ""


def _reading(view: SweepView) -> str:
    if not view.ranked:
        return f"No trial of {len(view.rows):,} is ok."
    order = {"memory": "least peak memory", "time-to-loss": "shortest time to the target loss"}
    best = order.get(view.objective, "most throughput")
    if len(view.rankings) > 1:
        alone = "what computes something else" if view.is_script else "each global batch"
        best = f"{alone} ranked for itself, {best}"
    tied = f" ≈ marks the {fmt.count(len(view.ties), 'plan')} tied with the winner." if view.ties else ""
    trials = fmt.count(len(view.rows), "trial")
    return f"{fmt.count(len(view.ranked), 'plan')} ranked from {trials}, {best} first.{tied}"


def _columns(view: SweepView) -> tuple[Column, ...]:
    mib = 1024.0**2

    def get(name: str, scale: float = 1.0) -> Callable[[Row], float | None]:
        return lambda row: None if row.get(name) is None else row[name] / scale

    def against_winner(row: Row) -> float | None:
        best = (view.winner_of(row) or {}).get("tokens_per_s")
        return None if not best or row["tokens_per_s"] is None else row["tokens_per_s"] / best - 1

    number = fmt.significant
    return (
        Column("launches", "", get("launches"), _whole, "that count, each a fresh start of every rank", detail=True),
        Column("throughput", view.unit, get("tokens_per_s"), fmt.rate, "median, with its 95 % interval"),
        Column(
            "to winner", "", against_winner, lambda v: fmt.signed_percent(v, 1), "difference of throughput", detail=True
        ),
        Column("time to loss", "s", get("time_to_loss_s"), number, "time to the target loss", detail=True),
        Column("step time", "ms", get("step_time_s", 1e-3), number, "median over steps of the slowest rank"),
        Column("peak memory", "MiB", get("peak_memory_bytes", mib), number, "of the worst rank"),
        Column(
            "sent",
            "MiB/step",
            get("comm_bytes_per_step", mib),
            number,
            "bytes that the busiest rank sends",
            detail=True,
        ),
        Column("exposed", "ms/step", get("comm_exposed_s", 1e-3), number, "time a rank waits for others", detail=True),
        Column("MFU", "%", get("mfu", 0.01), number, "model FLOPs utilisation"),
        Column("accuracy", "%", get("accuracy_last", 0.01), number, "on the last step's batch", detail=True),
        Column(
            "numerics",
            "",
            get("numerics_max_rel_error"),
            fmt.relative_error,
            f"largest difference to {'the baseline' if view.is_script else 'fp32'}",
            detail=True,
        ),
        Column(
            "energy",
            f"{view.unit.removesuffix('/s')}/J",
            get("tokens_per_j"),
            number,
            "of the measured window",
            detail=True,
        ),
        Column("set-up", "s", _setup, number, "launch and set-up, before the first step", detail=True),
    )


def _whole(value: float | None) -> str:
    return fmt.MISSING if value is None else f"{value:.0f}"


def _setup(row: Row) -> float | None:
    parts = [row["launch_s"], row["setup_s"]]
    return None if None in parts else sum(parts)
