"""Loss curves of the trials over the fp32 reference: they trained the same thing if the curves lie on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from harness.report import format as fmt
from harness.report.figures import GRID, INK, figure, palette, text
from harness.report.labels import Row, kind
from harness.report.panels.base import TOP, Chart, top_note
from harness.report.view import SweepView


@dataclass(frozen=True)
class Curve:
    """Loss by step."""

    label: str
    short: str
    colour: str
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    """Mean over the ranks that see a loss."""
    difference: tuple[float | None, ...]
    """|loss / reference - 1|; None beyond the end of the reference."""


@dataclass(frozen=True)
class Losses:
    """The curves of the best trials and of their workloads' references."""

    curves: tuple[Curve, ...]
    references: tuple[Curve, ...]
    reading: str
    note: str


def data(view: SweepView) -> Losses | None:
    """Curves of the best ok trials; None if no step of them has a loss."""
    colours = palette(view.kinds)
    means = view.steps.dropna(subset=["loss"]).groupby(["trial_id", "step"])["loss"].mean()
    known = set(means.index.get_level_values(0))
    references = {name: dict(zip(c["step"], c["loss"], strict=True)) for name, c in view.references.items()}
    curves = []
    for row in view.ranked[:TOP]:
        if row["trial_id"] in known:
            loss = {int(step): float(value) for step, value in means.loc[row["trial_id"]].items()}
            curves.append(
                _curve(
                    view.numbered(row),
                    view.short(row),
                    colours[kind(row)],
                    loss,
                    references.get(row["workload_id"], {}),
                )
            )
    if not curves:
        return None
    bands = _bands(view.ranked[:TOP], references)
    return Losses(tuple(curves), bands, _reading(curves), top_note(len(view.ranked)))


def draw(losses: Losses) -> Chart:
    """The losses, and under them the relative difference to the reference on a logarithmic axis."""
    compared = any(value for curve in losses.curves for value in curve.difference)
    drawn = figure("step", "loss", height=560 if compared else 400)
    for curve in losses.curves:
        _add(drawn, curve, curve.loss, "y")
        if compared:
            # Zero has no place on a logarithmic axis; None leaves a gap.
            _add(drawn, curve, [value or None for value in curve.difference], "y2")
    for curve in losses.references:
        drawn.add_scatter(
            x=curve.steps,
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
                "title": {"text": "difference to fp32", "standoff": 10},
                "dtick": 1,
            },
            xaxis={"anchor": "y2"},
        )
    drawn.update_layout(showlegend=bool(losses.references), hovermode="closest")
    return Chart(figure=drawn, reading=losses.reading, note=losses.note)


def _add(drawn: go.Figure, curve: Curve, values: Sequence[float | None], axis: str) -> None:
    what = "loss" if axis == "y" else "relative difference"
    drawn.add_scatter(
        x=curve.steps,
        y=values,
        yaxis=axis,
        mode="lines+markers",
        name=text(curve.label),
        legendgroup=text(curve.label),
        showlegend=False,
        opacity=0.8,
        line={"color": curve.colour, "width": 1.5},
        marker={"size": 4},
        hovertemplate=f"<b>%{{meta}}</b><br>step %{{x}}: {what} %{{y:.4g}}<extra></extra>",
        meta=text(curve.label),
    )


def _curve(label: str, short: str, colour: str, loss: dict[int, float], reference: dict[int, float]) -> Curve:
    differences = (abs(v / reference[s] - 1) if reference.get(s) else None for s, v in loss.items())
    return Curve(label, short, colour, tuple(loss), tuple(loss.values()), tuple(differences))


def _bands(rows: Sequence[Row], references: dict[str, dict[int, float]]) -> tuple[Curve, ...]:
    """The reference of each workload among `rows`, named by its batch where there are several."""
    batches = {row["workload_id"]: row["global_batch_size"] for row in rows if row["workload_id"] in references}
    curves = []
    for workload, batch in batches.items():
        name = "fp32 reference, one process" + (f", batch {batch}" if len(batches) > 1 else "")
        curves.append(_curve(name, name, INK, references[workload], references[workload]))
    return tuple(curves)


def _reading(curves: Sequence[Curve]) -> str:
    worst = {c.short: max((d for d in c.difference if d is not None), default=None) for c in curves}
    found = {label: value for label, value in worst.items() if value is not None}
    if not found:
        return f"{fmt.count(len(curves), 'loss curve')}; the workload has no recorded fp32 reference to compare with."
    label = max(found, key=lambda name: found[name])
    whose = f"The curve of {label} stays" if len(found) == 1 else f"The {len(found)} curves stay"
    where = "" if len(found) == 1 else f"; the farthest is {label}"
    return f"{whose} within {fmt.relative_error(found[label])} (relative) of the fp32 reference{where}."
