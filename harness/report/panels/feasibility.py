"""Which combinations ran, did not fit, cannot be, or failed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import plotly.graph_objects as go

from harness.labels import Row, layout
from harness.report import format as fmt
from harness.report.figures import row_figure, text
from harness.report.panels.panel import Chart, Table
from harness.report.sweep_view import SweepView
from harness.store.records import Outcome
from harness.store.standings import USABLE


class State(IntEnum):
    """What became of the plans of one combination; the largest that occurred is shown."""

    CANNOT = 0
    FAILED = 1
    TOO_LARGE = 2
    RAN = 3


_WORDS = {State.CANNOT: "cannot be", State.FAILED: "failed", State.TOO_LARGE: "did not fit", State.RAN: "ran"}
_COLOURS = {
    State.CANNOT: "var(--grid)",
    State.FAILED: "var(--failed)",
    State.TOO_LARGE: "var(--large)",
    State.RAN: "var(--ran)",
}
AXES: Mapping[str, Callable[[Row], str]] = {
    "micro-batch size": lambda row: f"mb {row['micro_batch_size']}",
    "precision": lambda row: str(row["precision"]),
    "activation checkpointing": lambda row: str(row["activation_checkpoint"]),
    "quantization": lambda row: str(row["quantization"]),
}
"""What stands beside the layout: name -> value of a trial."""


@dataclass(frozen=True)
class Field:
    """The plans of one combination."""

    state: State
    ran: int
    tried: int
    reasons: tuple[str, ...]
    """Why those that did not run did not, the most frequent first."""


@dataclass(frozen=True)
class Grid:
    """Layouts against one other setting; combinations that nobody tried are absent."""

    columns: tuple[str, ...]
    fields: Mapping[tuple[str, str], Field]
    """(layout, column) -> what became of it."""


@dataclass(frozen=True)
class Feasibility:
    """One grid for each of AXES on which the sweep has more than one value."""

    rows: tuple[str, ...]
    grids: Mapping[str, Grid]
    reading: str


def state(row: Row) -> State:
    """What became of one trial."""
    outcome = Outcome(row["outcome"])
    if outcome in USABLE:
        return State.RAN
    if outcome in (Outcome.OOM_DEVICE, Outcome.OOM_HOST):
        return State.TOO_LARGE
    return State.CANNOT if outcome is Outcome.INFEASIBLE else State.FAILED


def data(view: SweepView) -> Feasibility | None:
    """The grids; None if only one combination was tried."""
    rows = [row for row in view.rows if row["outcome"] not in (Outcome.INTERRUPTED, Outcome.PREEMPTED)]
    layouts = tuple(sorted({layout(row) for row in rows}))
    grids = {name: grid for name, of in AXES.items() if len((grid := _grid(rows, of)).columns) > 1}
    if not grids or len(rows) < 2 or view.is_script:
        return None
    return Feasibility(layouts, grids, _reading(rows))


def draw(feasibility: Feasibility) -> Chart:
    """A field for each combination, coloured by its state, with the number that ran of those tried."""
    figures = {name: _figure(feasibility.rows, grid) for name, grid in feasibility.grids.items()}
    (name, first), *others = figures.items()
    rows = (
        (axis, row, column, _WORDS[field.state], field.ran, field.tried, "; ".join(field.reasons))
        for axis, grid in feasibility.grids.items()
        for (row, column), field in grid.fields.items()
    )
    columns = ("beside", "layout", "value", "state", "ran", "tried", "reasons")
    return Chart(
        figure=first,
        name=name,
        others=dict(others),
        choice="Beside the layout",
        reading=feasibility.reading,
        table=Table(columns=columns, rows=tuple(rows)),
    )


def _grid(rows: Sequence[Row], of: Callable[[Row], str]) -> Grid:
    members: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        members[layout(row), of(row)].append(row)
    columns = sorted({column for _, column in members}, key=_natural)
    return Grid(tuple(columns), {key: _field(found) for key, found in members.items()})


def _natural(name: str) -> tuple[str, int]:
    digits = "".join(filter(str.isdigit, name))
    return name.rstrip("0123456789"), int(digits or 0)


def _field(rows: Sequence[Row]) -> Field:
    reasons = Counter(str(row["outcome_reason"] or row["outcome"]) for row in rows if state(row) is not State.RAN)
    return Field(
        max(map(state, rows)),
        sum(state(row) is State.RAN for row in rows),
        len(rows),
        tuple(reason for reason, _ in reasons.most_common(3)),
    )


def _figure(rows: Sequence[str], grid: Grid) -> go.Figure:
    drawn = row_figure("", rows, rows, extra=40)
    fields = [[grid.fields.get((row, column)) for column in grid.columns] for row in rows]
    drawn.add_heatmap(
        x=list(range(len(grid.columns))),
        y=list(range(len(rows))),
        z=[[None if field is None else int(field.state) for field in line] for line in fields],
        zmin=-0.5,
        zmax=len(State) - 0.5,
        colorscale=_scale(),
        text=[["" if field is None else f"{field.ran}/{field.tried}" for field in line] for line in fields],
        texttemplate="%{text}",
        textfont={"color": "var(--ink)"},
        hovertext=[[_hover(row, column, grid.fields.get((row, column))) for column in grid.columns] for row in rows],
        hoverinfo="text",
        xgap=3,
        ygap=3,
        showscale=False,
    )
    for value in reversed(State):
        marker = {"symbol": "square", "size": 12, "color": _COLOURS[value]}
        drawn.add_scatter(x=[None], y=[None], mode="markers", name=_WORDS[value], marker=marker)
    names = [text(column) for column in grid.columns]
    drawn.update_xaxes(tickvals=list(range(len(names))), ticktext=names, showgrid=False, zeroline=False)
    return drawn


def _scale() -> list[tuple[float, str]]:
    steps = len(State)
    return [(at / steps, _COLOURS[value]) for value in State for at in (value, value + 1)]


def _hover(row: str, column: str, field: Field | None) -> str:
    head = f"<b>{text(row)} · {text(column)}</b><br>"
    if field is None:
        return f"{head}not tried"
    lines = [f"{field.ran} of {field.tried} ran", *(text(_short(reason)) for reason in field.reasons)]
    return head + "<br>".join(lines)


def _short(reason: str) -> str:
    return reason if len(reason) <= 110 else reason[:109] + "…"


def _reading(rows: Sequence[Row]) -> str:
    states = Counter(state(row) for row in rows)
    parts = [f"{states[value]:,} {_WORDS[value]}" for value in reversed(State) if states[value]]
    reasons = Counter(str(row["outcome_reason"]) for row in rows if state(row) is not State.RAN)
    often = f" The most frequent reason: {reasons.most_common(1)[0][0].rstrip('.')}." if reasons else ""
    return f"Of {fmt.count(len(rows), 'launch or refusal', 'launches and refusals')} {fmt.listed(parts)}.{often}"
