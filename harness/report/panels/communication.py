"""What the ranks of the finalists send each other in a step, and how much of that time computing hides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from harness.labels import Named, Row
from harness.report import format as fmt
from harness.report.figures import row_figure, text
from harness.report.panels.panel import TOP, Chart, Table, top_note
from harness.report.sweep_view import SweepView


@dataclass(frozen=True, kw_only=True)
class Sent(Named):
    """One plan."""

    exposed_s: float
    """Time in which a rank communicates and computes nothing."""
    hidden_s: float
    """Time in which it does both."""
    step_time_s: float | None
    bytes_per_step: float | None
    """That the busiest rank sends."""
    collectives: str
    """Bytes and calls by collective, in words."""


@dataclass(frozen=True)
class Communication:
    """The best plans, in the order of the ranking."""

    plans: tuple[Sent, ...]
    reading: str
    note: str


def data(view: SweepView) -> Communication | None:
    """Communication of the best plans; None if no time was recorded."""
    plans = tuple(
        Sent(
            **vars(view.named(row)),
            exposed_s=row["comm_exposed_s"],
            hidden_s=max(0.0, (row["comm_s"] or 0.0) - row["comm_exposed_s"]),
            step_time_s=row["step_time_s"],
            bytes_per_step=row["comm_bytes_per_step"],
            collectives=_collectives(row),
        )
        for row in view.ranked[:TOP]
        if row["comm_exposed_s"] is not None
    )
    return Communication(plans, _reading(plans), top_note(len(view.ranked))) if plans else None


def draw(communication: Communication) -> Chart:
    """Stacked bars: exposed and hidden time of one profiled step."""
    plans = communication.plans
    figure = row_figure("time in one profiled step (ms)", [p.label for p in plans], [p.short for p in plans], extra=30)
    parts: Sequence[tuple[str, str, list[float]]] = (
        ("exposed", "var(--bad)", [p.exposed_s for p in plans]),
        ("hidden by computing", "var(--activations)", [p.hidden_s for p in plans]),
    )
    for name, colour, seconds in parts:
        figure.add_bar(
            orientation="h",
            x=[1e3 * value for value in seconds],
            y=list(range(len(plans))),
            name=name,
            customdata=[p.at for p in plans],
            marker={"color": colour},
            hovertext=[
                f"<b>{text(p.label)}</b><br>{name}: {fmt.duration(value)}<br>{text(p.collectives)}"
                for p, value in zip(plans, seconds, strict=True)
            ],
            hoverinfo="text",
        )
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    return Chart(figure=figure, reading=communication.reading, note=communication.note, table=_table(plans))


def _table(plans: Sequence[Sent]) -> Table:
    return Table(
        columns=("plan", "exposed s", "hidden s", "step time s", "sent B/step", "by collective"),
        rows=tuple((p.label, p.exposed_s, p.hidden_s, p.step_time_s, p.bytes_per_step, p.collectives) for p in plans),
    )


def _collectives(row: Row) -> str:
    try:
        found = json.loads(row["comm_by_collective"] or "{}")
        parts = [f"{name} {fmt.size(entry['bytes'])} in {entry['calls']:,}" for name, entry in found.items()]
    except (ValueError, TypeError, KeyError):
        parts = []
    return ", ".join(parts) or "nothing recorded"


def _reading(plans: Sequence[Sent]) -> str:
    if not plans:
        return ""
    first = plans[0]
    share = f", {fmt.percent(first.exposed_s / first.step_time_s)} of a step" if first.step_time_s else ""
    said = (
        f"A rank of {first.short} waits {fmt.duration(first.exposed_s)} for others{share}; it sends {first.collectives}"
    )
    least = min(plans, key=lambda plan: plan.exposed_s)
    if least is first:
        return f"{said}. No other plan shown waits less."
    return f"{said}. {least.short} waits least, {fmt.duration(least.exposed_s)}."
