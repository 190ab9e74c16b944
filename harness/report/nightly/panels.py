"""The panels of a night's page, top to bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from harness.report import format as fmt
from harness.report.figures import INK, figure, row_figure, text
from harness.report.nightly.nights_view import URGENT, Judged, NightlyView, Point, date, labels
from harness.report.panels.panel import Chart, Fragment, Panel, Table

COLOURS = {
    "CONFIRMED": "var(--bad)",
    "ENV_CHANGE": "var(--zero2)",
    "NOT_MEASURED": "var(--muted)",
    "SUSPECT": "var(--other1)",
    "IMPROVED": "var(--accent)",
    "INSUFFICIENT": "var(--activations)",
    "PASS": "var(--good)",
}
DRAWN = 40
"""Series that can be chosen; the most urgent come first."""
SHOWN_NIGHTS = 120
"""Nights in the map."""
TICKS = 6
"""Nights that an axis names: as many as a narrow screen has room for."""


# -- verdicts


def verdicts(view: NightlyView) -> NightlyView:
    """Everything is shown."""
    return view


def draw_verdicts(view: NightlyView) -> Fragment:
    """A table, the most urgent first."""
    urgent = [line for line in view.judged if line.verdict in ("CONFIRMED", "ENV_CHANGE", "NOT_MEASURED")]
    reading = f"{view.headline}."
    if urgent:
        reading += f" First: {urgent[0].plan} {urgent[0].metric}, {urgent[0].why}."
    return Fragment(template="verdicts.html", reading=reading, context={"view": view, "colours": COLOURS, "date": date})


# -- series


@dataclass(frozen=True)
class Series:
    """One metric of one plan, with what was said of it tonight."""

    judged: Judged
    points: tuple[Point, ...]
    accepted: tuple[tuple[str, str], ...]
    """(night, why)."""


def series(view: NightlyView) -> tuple[Series, ...] | None:
    """The series that have a night, the most urgent first; None if there is none."""
    found = []
    for judged in view.judged:
        points = view.series.get((judged.plan, judged.metric), ())
        if points:
            notes = tuple(
                (entry.night, entry.because)
                for entry in view.accepted
                if entry.plan in (judged.plan, "*") and entry.metric in (judged.metric, "*")
            )
            found.append(Series(judged, points, notes))
    return tuple(found[:DRAWN]) or None


def draw_series(found: Sequence[Series]) -> Chart:
    """A figure for each series: nights with their launches, the baseline's band, change, acknowledgements."""
    figures = {f"{s.judged.plan} · {s.judged.metric}": _nights(s) for s in found}
    (name, first), *others = figures.items()
    rows = [
        (s.judged.plan, s.judged.metric, date(p.night), p.value, p.verdict, len(p.launches))
        for s in found
        for p in s.points
    ]
    return Chart(
        figure=first,
        name=name,
        others=dict(others),
        choice="Metric",
        reading=_reading(found[0]),
        note=f"The {DRAWN} most urgent are drawn." if len(found) == DRAWN else "",
        table=Table(columns=("plan", "metric", "night (UTC)", "value", "verdict", "launches"), rows=tuple(rows)),
    )


def _nights(found: Series) -> go.Figure:
    scale, unit = _scale(found)
    drawn = figure("night (UTC)", f"{found.judged.metric.rsplit('_', 1)[0].replace('_', ' ')}{unit}", height=400)
    named = labels([point.night for point in found.points])
    dates = [named[point.night] for point in found.points]
    judged = found.judged
    if judged.low is not None and judged.high is not None:
        drawn.add_hrect(
            y0=judged.low / scale,
            y1=judged.high / scale,
            fillcolor="var(--ran)",
            opacity=0.4,
            line_width=0,
            layer="below",
        )
    if judged.baseline is not None:
        drawn.add_hline(y=judged.baseline / scale, line={"color": INK, "width": 1, "dash": "dot"})
    launches = [(at, value) for at, point in zip(dates, found.points, strict=True) for value in point.launches]
    drawn.add_scatter(
        x=[at for at, _ in launches],
        y=[value / scale for _, value in launches],
        mode="markers",
        name="a launch",
        marker={"size": 4, "color": "var(--activations)"},
        hoverinfo="skip",
    )
    drawn.add_scatter(
        x=dates,
        y=[point.value / scale for point in found.points],
        mode="lines+markers",
        name="night",
        line={"color": "var(--muted)", "width": 1},
        marker={"size": 9, "color": [COLOURS.get(point.verdict, INK) for point in found.points]},
        hovertext=[
            f"{date(p.night)}: {fmt.by_name(judged.metric, p.value)}<br>{p.verdict or 'not judged'}"
            for p in found.points
        ],
        hoverinfo="text",
    )
    if judged.since is not None:
        _mark(drawn, named, judged.since, "seems to begin here", "var(--bad)")
    for night, why in found.accepted:
        _mark(drawn, named, night, f"accepted: {why[:40]}", "var(--accent)")
    drawn.update_xaxes(type="category", nticks=TICKS)
    return drawn


def _mark(drawn: go.Figure, named: Mapping[str, str], night: str, label: str, colour: str) -> None:
    """A line at a night, or at the first after it that the series has."""
    nights = sorted(named)
    at = next((number for number, known in enumerate(nights) if known >= night), None)
    if at is None:
        return
    # Shapes on a category axis take no annotation of their own.
    drawn.add_vline(x=named[nights[at]], line={"color": colour, "width": 1.5, "dash": "dash"})
    drawn.add_annotation(
        x=named[nights[at]],
        y=1,
        yref="paper",
        yanchor="bottom",
        text=text(label),
        showarrow=False,
        font={"color": colour},
        xanchor="left" if at < len(nights) / 2 else "right",
    )


def _scale(found: Series) -> tuple[float, str]:
    largest = max(point.value for point in found.points)
    if found.judged.metric.endswith("_bytes"):
        scale, unit = fmt.byte_scale(largest)
        return scale, f" ({unit})"
    if found.judged.metric.endswith("_s") and not found.judged.metric.endswith("per_s") and largest < 1:
        return 1e-3, " (ms)"
    return 1.0, " (s)" if found.judged.metric.endswith("_s") else ""


def _reading(first: Series) -> str:
    judged = first.judged
    if judged.baseline is None or judged.value is None:
        return f"{judged.plan} {judged.metric}: {judged.why}."
    change = fmt.signed_percent(judged.value / judged.baseline - 1, 1)
    return (
        f"{judged.plan} {judged.metric} is {fmt.by_name(judged.metric, judged.value)} tonight, {change} against the "
        f"baseline of {fmt.count(judged.nights, 'night')}: {judged.verdict}."
    )


# -- the map


@dataclass(frozen=True)
class Map:
    """Verdicts of plans and metrics over nights."""

    rows: tuple[str, ...]
    short: tuple[str, ...]
    """Their names on a narrow screen."""
    nights: tuple[str, ...]
    verdicts: dict[tuple[str, str], str]
    """(row, night) -> verdict."""
    reading: str


def verdict_map(view: NightlyView) -> Map | None:
    """The map; None with a single night."""
    nights = view.nights[-SHOWN_NIGHTS:]
    if len(nights) < 2:
        return None
    said = {(f"{plan} · {metric}", night): verdict for (plan, metric, night), verdict in view.said.items()}
    short = {f"{plan} · {metric}": _short(plan, metric) for plan, metric, _ in view.said}
    rows = tuple(sorted({row for row, _ in said}))
    bad = sum(verdict == "CONFIRMED" for (_, night), verdict in said.items() if night in nights)
    total = sum(night in nights for _, night in said)
    reading = f"Of {total:,} verdicts in {fmt.count(len(nights), 'night')}, {bad:,} were confirmed regressions."
    return Map(rows, tuple(short[row] for row in rows), nights, said, reading)


def _short(plan: str, metric: str) -> str:
    """A row's name on a narrow screen."""
    return f"{plan if len(plan) < 10 else plan[:8] + '…'} {metric.rsplit('_', 1)[0].replace('_', ' ')}"


def draw_map(found: Map) -> Chart:
    """A field for each night, coloured by verdict."""
    numbers = {verdict: at for at, verdict in enumerate(URGENT)}
    drawn = row_figure("night (UTC)", found.rows, found.short, extra=60)
    named = labels(found.nights)
    drawn.add_heatmap(
        x=[named[night] for night in found.nights],
        y=list(range(len(found.rows))),
        z=[[numbers.get(found.verdicts.get((row, night), "")) for night in found.nights] for row in found.rows],
        zmin=-0.5,
        zmax=len(URGENT) - 0.5,
        colorscale=[(at / len(URGENT), COLOURS[v]) for n, v in enumerate(URGENT) for at in (n, n + 1)],
        hovertext=[
            [
                f"<b>{text(row)}</b><br>{date(night)}<br>{found.verdicts.get((row, night), 'not run')}"
                for night in found.nights
            ]
            for row in found.rows
        ],
        hoverinfo="text",
        xgap=1 if len(found.nights) <= 60 else 0,
        ygap=2,
        showscale=False,
    )
    drawn.update_xaxes(type="category", nticks=TICKS, showgrid=False)
    for verdict in URGENT:
        if verdict in found.verdicts.values():
            marker = {"symbol": "square", "size": 12, "color": COLOURS[verdict]}
            drawn.add_scatter(x=[None], y=[None], mode="markers", name=verdict, marker=marker)
    rows = tuple((row, date(night), found.verdicts[row, night]) for row, night in sorted(found.verdicts))
    return Chart(
        figure=drawn, reading=found.reading, table=Table(columns=("metric", "night (UTC)", "verdict"), rows=rows)
    )


# -- what changed, how to repeat


def changed(view: NightlyView) -> NightlyView:
    """Everything is shown."""
    return view


def draw_changed(view: NightlyView) -> Fragment:
    """The environment's differences, the commands, and what could not be read."""
    if view.changed:
        reading = f"Since the baseline: {fmt.listed([name for name, _, _ in view.changed], 8)}."
    else:
        reading = "Nothing that is known of the environment has changed since the baseline."
    return Fragment(template="changed.html", reading=reading, context={"view": view})


PANELS: tuple[Panel[Any, Any], ...] = (
    Panel(key="verdicts", title="Verdicts", data=verdicts, draw=draw_verdicts),
    Panel(key="series", title="Night by night", data=series, draw=draw_series),
    Panel(key="map", title="Plans against nights", data=verdict_map, draw=draw_map),
    Panel(key="changed", title="What changed, and how to repeat it", data=changed, draw=draw_changed),
)
