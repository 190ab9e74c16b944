"""Loss curves of the trials over the fp32 reference: they trained the same thing if the curves lie on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from harness.labels import Named, Row, layout
from harness.report import format as fmt
from harness.report.figures import GRID, INK, figure, text
from harness.report.panels.panel import TOP, Chart, Table, top_note
from harness.report.sweep_view import SweepView
from harness.store.standings import step_tokens

if TYPE_CHECKING:
    import pandas as pd

AXES = {"step": "step", "tokens": "tokens", "wall time": "time in steps (s)"}
"""What the losses can be drawn over: name -> title of the axis."""


@dataclass(frozen=True, kw_only=True)
class Curve(Named):
    """Loss by step."""

    steps: tuple[int, ...]
    tokens: tuple[float, ...]
    """Seen until the end of each step, by all ranks."""
    seconds: tuple[float, ...]
    """From the beginning of the first step to the end of each, by the slowest rank."""
    loss: tuple[float, ...]
    """Mean over the ranks that see a loss."""
    difference: tuple[float | None, ...]
    """|loss / reference - 1|; None beyond the end of the reference."""

    def over(self, axis: str) -> Sequence[float]:
        """Where the losses stand on one of AXES."""
        return {"step": self.steps, "tokens": self.tokens, "wall time": self.seconds}[axis]


@dataclass(frozen=True)
class Losses:
    """The curves of the best trials and of their workloads' references."""

    curves: tuple[Curve, ...]
    references: tuple[Curve, ...]
    unit: str
    """Of what is counted as tokens."""
    to: str
    """What a difference is a difference to, in two words."""
    reading: str
    note: str


def data(view: SweepView) -> Losses | None:
    """Curves of the best ok trials; None if no step of them has a loss."""
    seen = view.steps.dropna(subset=["loss"])
    if seen.empty:
        return None
    by_step = view.steps.groupby(["trial_id", "step"]).agg(
        loss=("loss", "mean"), tokens=("tokens", "first"), seconds=("step_time_s", "max")
    )
    known = set(seen["trial_id"])
    references = {name: dict(zip(c["step"], c["loss"], strict=True)) for name, c in view.references.items()}
    curves = [
        _curve(view.named(row), by_step.loc[row["trial_id"]], references.get(row["workload_id"], {}))
        for row in view.ranked[:TOP]
        if row["trial_id"] in known
    ]
    if not curves:
        return None
    bands = _bands(view, view.ranked[:TOP])
    return Losses(
        curves=tuple(curves),
        references=bands,
        unit=view.unit.removesuffix("/s"),
        to="the baseline" if view.is_script else "fp32",
        reading=_reading(curves, _reference(view)),
        note=top_note(len(view.ranked)),
    )


def _reference(view: SweepView) -> str:
    """What the curves are compared with, in a sentence."""
    if view.is_script:
        return "the script as it stood"
    agreed = any(view.agreed(row["workload_id"]) is not None for row in view.ranked[:TOP])
    return "a plan that others agree with: no process trained it alone" if agreed else "the fp32 reference"


def draw(losses: Losses) -> Chart:
    """The losses, and under them the relative difference to the reference on a logarithmic axis."""
    titles = AXES | {"tokens": losses.unit}
    figures = {f"by {name}": _figure(losses, name, titles[name]) for name in AXES}
    (name, first), *others = figures.items()
    return Chart(
        figure=first,
        name=name,
        others=dict(others),
        choice="Draw",
        reading=losses.reading,
        note=losses.note,
        table=_table(losses),
    )


def _figure(losses: Losses, axis: str, title: str) -> go.Figure:
    compared = any(value for curve in losses.curves for value in curve.difference)
    drawn = figure(title, "loss", height=560 if compared else 400)
    for curve in losses.curves:
        _add(drawn, curve, axis, curve.loss, "y")
        if compared:
            # Zero has no place on a logarithmic axis; None leaves a gap.
            _add(drawn, curve, axis, [value or None for value in curve.difference], "y2")
    for curve in losses.references:
        drawn.add_scatter(
            x=curve.over(axis),
            y=curve.loss,
            mode="lines",
            name=text(curve.label),
            line={"color": INK, "width": 3, "dash": "dot"},
        )
    if compared:
        drawn.update_layout(
            yaxis={"domain": [0.42, 1]},
            yaxis2={
                "domain": [0, 0.34],
                "type": "log",
                "exponentformat": "power",
                "gridcolor": GRID,
                "automargin": True,
                "title": {"text": f"difference to {losses.to}", "standoff": 10},
                "dtick": 1,
            },
            xaxis={"anchor": "y2"},
        )
    drawn.update_layout(showlegend=bool(losses.references), hovermode="closest")
    return drawn


def _add(drawn: go.Figure, curve: Curve, axis: str, values: Sequence[float | None], where: str) -> None:
    what = "loss" if where == "y" else "relative difference"
    drawn.add_scatter(
        x=curve.over(axis),
        y=values,
        yaxis=where,
        mode="lines+markers",
        name=text(curve.label),
        legendgroup=text(curve.label),
        showlegend=False,
        opacity=0.8,
        line={"color": curve.colour, "width": 1.5},
        marker={"size": 4},
        hovertemplate=f"<b>%{{fullData.name}}</b><br>{axis} %{{x:,.4~g}}: {what} %{{y:.4g}}<extra></extra>",
        meta={"trial": curve.at, "opacity": 0.8},
    )


def _table(losses: Losses) -> Table:
    lines = (
        (c.label, step, tokens, seconds, loss, difference)
        for c in (*losses.references, *losses.curves)
        for step, tokens, seconds, loss, difference in zip(
            c.steps, c.tokens, c.seconds, c.loss, c.difference, strict=True
        )
    )
    columns = ("plan", "step", losses.unit, "time in steps s", "loss", f"difference to {losses.to}")
    return Table(columns=columns, rows=tuple(lines))


def _curve(named: Named, steps: pd.DataFrame, reference: Mapping[int, float]) -> Curve:
    whole = steps.assign(tokens=steps["tokens"].cumsum(), seconds=steps["seconds"].cumsum()).dropna(subset=["loss"])
    loss = {int(step): float(value) for step, value in whole["loss"].items()}
    differences = (abs(v / reference[s] - 1) if reference.get(s) else None for s, v in loss.items())
    return Curve(
        **vars(named),
        steps=tuple(loss),
        tokens=tuple(map(float, whole["tokens"])),
        seconds=tuple(map(float, whole["seconds"])),
        loss=tuple(loss.values()),
        difference=tuple(differences),
    )


def _bands(view: SweepView, rows: Sequence[Row]) -> tuple[Curve, ...]:
    """The reference of each workload among `rows`, named by its batch where there are several."""
    sizes = {row["workload_id"]: row for row in rows if row["workload_id"] in view.references}
    curves = []
    for workload, row in sizes.items():
        batch = row["global_batch_size"]
        name = _made(view, row) + (f", batch {batch}" if len(sizes) > 1 else "")
        curve = view.references[workload]
        steps = curve.rename(columns={"step_time_s": "seconds"}).assign(tokens=step_tokens(row)).set_index("step")
        named = Named(at=None, label=name, short=name, colour=INK)
        curves.append(_curve(named, steps, {int(step): float(loss) for step, loss in steps["loss"].items()}))
    return tuple(curves)


def _made(view: SweepView, row: Row) -> str:
    """What the reference of a trial is."""
    if view.is_script:
        return "the script as it stood"
    plan = view.agreed(row["workload_id"])
    return "fp32 reference, one process" if plan is None else f"{layout(plan)} in {plan['precision']}, compared with"


def _reading(curves: Sequence[Curve], reference: str) -> str:
    worst = {c.short: max((d for d in c.difference if d is not None), default=None) for c in curves}
    found = {label: value for label, value in worst.items() if value is not None}
    if not found:
        return f"{fmt.count(len(curves), 'loss curve')}; the workload has no recorded reference to compare with."
    label = max(found, key=lambda name: found[name])
    whose = f"The curve of {label} stays" if len(found) == 1 else f"The {len(found)} curves stay"
    where = "" if len(found) == 1 else f"; the farthest is {label}"
    return f"{whose} within {fmt.relative_error(found[label])} (relative) of {reference}{where}."
