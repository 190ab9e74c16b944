"""Where the wall time of the sweep went: every launch with its phases, in a lane for each kind of plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.labels import kind
from harness.report import format as fmt
from harness.report.figures import figure, text
from harness.report.panels.panel import Cell, Chart, Table
from harness.report.sweep_view import SweepView
from harness.store.records import Outcome

PAUSE_S = 120.0
"""A gap between launches that is longer is a pause between two runs of the sweep, and drawn short."""
DRAWN_PAUSE_S = 5.0
PHASES = {
    "launch and set-up": ("launch_s", "setup_s"),
    "warm-up": ("warmup_s",),
    "measured": ("measure_s",),
    "teardown": ("teardown_s",),
}
_COLOURS = ("var(--grads)", "var(--activations)", "var(--ddp)", "var(--buffers)")


@dataclass(frozen=True)
class Span:
    """One launch."""

    at: int | None
    """Number of its line in the ranked table."""
    label: str
    lane: str
    outcome: str
    begin_s: float
    """Since the first launch, pauses left out."""
    phases_s: tuple[float, ...]
    """In the order of PHASES."""


@dataclass(frozen=True)
class Timeline:
    """Every launch, oldest first."""

    spans: tuple[Span, ...]
    lanes: tuple[str, ...]
    reading: str
    note: str


def data(view: SweepView) -> Timeline | None:
    """The launches; None if there was none, or none lived to see its ranks run."""
    launched = [r for r in view.rows if r["outcome"] != Outcome.INFEASIBLE and r.get("launch_s") is not None]
    if not launched:
        return None
    spans: list[Span] = []
    shift, pauses, end = 0.0, 0, 0.0
    origin = launched[0]["started_at"]
    for row in launched:
        begin = (row["started_at"] - origin).total_seconds() - shift
        if begin - end > PAUSE_S:
            shift += begin - end - DRAWN_PAUSE_S
            begin, pauses = end + DRAWN_PAUSE_S, pauses + 1
        phases = tuple(float(sum(row.get(name) or 0.0 for name in names)) for names in PHASES.values())
        spans.append(Span(view.at(row), view.label(row), kind(row), str(row["outcome"]), begin, phases))
        end = max(end, begin + sum(phases))
    lanes = tuple(dict.fromkeys(span.lane for span in spans))
    note = f"{fmt.count(pauses, 'pause')} between runs of the sweep {'is' if pauses == 1 else 'are'} drawn short."
    return Timeline(tuple(spans), lanes, _reading(spans, end, pauses), note if pauses else "")


def draw(timeline: Timeline) -> Chart:
    """Bars along time, coloured by phase."""
    lanes = {lane: number for number, lane in enumerate(timeline.lanes)}
    drawn = figure("time since the first launch (s)", height=110 + 34 * len(lanes))
    for at, (phase, colour) in enumerate(zip(PHASES, _COLOURS, strict=True)):
        spans = [span for span in timeline.spans if span.phases_s[at] > 0]
        drawn.add_bar(
            orientation="h",
            base=[round(span.begin_s + sum(span.phases_s[:at]), 3) for span in spans],
            x=[round(span.phases_s[at], 3) for span in spans],
            y=[lanes[span.lane] for span in spans],
            width=0.7,
            name=phase,
            customdata=[span.at for span in spans],
            marker={"color": colour, "line": {"width": 0}},
        )
    drawn.update_yaxes(
        tickvals=list(lanes.values()),
        ticktext=[text(lane) for lane in lanes],
        range=[len(lanes) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
    )
    drawn.update_layout(barmode="overlay", legend={"traceorder": "normal"})
    rows: list[tuple[Cell, ...]] = [(s.begin_s, s.label, s.outcome, *s.phases_s) for s in timeline.spans]
    columns = ("begin s", "plan", "outcome", *(f"{phase} s" for phase in PHASES))
    return Chart(
        figure=drawn,
        reading=timeline.reading,
        note=timeline.note,
        table=Table(columns=columns, rows=tuple(rows)),
    )


def _reading(spans: Sequence[Span], end: float, pauses: int) -> str:
    totals = dict(zip(PHASES, map(sum, zip(*(span.phases_s for span in spans), strict=True)), strict=True))
    between = max(0.0, end - pauses * DRAWN_PAUSE_S - sum(totals.values()))
    whole = sum(totals.values()) + between
    shares = [f"{fmt.percent(seconds / whole)} {phase}" for phase, seconds in totals.items() if seconds / whole > 0.005]
    rest = f", {fmt.percent(between / whole)} between launches" if between / whole > 0.005 else ""
    return f"Of {fmt.duration(whole)} in {fmt.count(len(spans), 'launch', 'launches')}: {', '.join(shares)}{rest}."
