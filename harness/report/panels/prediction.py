"""What was predicted before each launch against what was measured, and what was not launched for it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from harness.labels import Named, Row, kind
from harness.report import format as fmt
from harness.report.figures import figure, text
from harness.report.panels.panel import Chart, Table
from harness.report.sweep_view import SweepView
from harness.store.records import Outcome
from harness.store.standings import USABLE

CATEGORIES = ("params", "grads", "optimizer", "buffers", "activations")


@dataclass(frozen=True, kw_only=True)
class Pair(Named):
    """One trial that was predicted and measured."""

    kind: str
    predicted_s: float
    measured_s: float
    predicted_bytes: float | None
    measured_bytes: float | None
    parts: tuple[tuple[float | None, float | None], ...]
    """(predicted, measured) bytes by category."""

    @property
    def error(self) -> float:
        """Relative error of the step time."""
        return self.predicted_s / self.measured_s - 1

    @property
    def memory_error(self) -> float | None:
        """Relative error of the peak."""
        if not self.predicted_bytes or not self.measured_bytes:
            return None
        return self.predicted_bytes / self.measured_bytes - 1


@dataclass(frozen=True)
class Prediction:
    """Every such trial, in the order in which they were launched, and what was refused."""

    pairs: tuple[Pair, ...]
    refused: tuple[tuple[str, str], ...]
    """(plan, reason) of plans that were not launched because of the prediction."""
    doubted: tuple[tuple[str, bool], ...]
    """(plan, whether it ran) of plans launched although they were predicted not to fit."""
    reading: str


def data(view: SweepView) -> Prediction | None:
    """None if nothing was predicted."""
    rows = sorted(view.rows, key=lambda row: row["started_at"])
    pairs = tuple(
        Pair(
            at=view.at(row),
            label=view.label(row),
            short=view.label(row),
            colour=view.colour(row),
            kind=kind(row),
            predicted_s=row["predicted_step_time_s"],
            measured_s=row["step_time_s"],
            predicted_bytes=row["predicted_peak_memory_bytes"],
            measured_bytes=row["peak_memory_bytes"],
            parts=tuple((row.get(f"predicted_memory_{c}_bytes"), row.get(f"memory_{c}_bytes")) for c in CATEGORIES),
        )
        for row in rows
        if row["outcome"] in USABLE and row["predicted_step_time_s"] and row["step_time_s"]
    )
    refused = tuple((view.label(row), str(row["outcome_reason"])) for row in rows if _refused(row))
    limit = view.memory_limit
    over = [row for row in rows if limit and (row["predicted_peak_memory_bytes"] or 0) > limit and not _refused(row)]
    doubted = tuple((view.label(row), row["outcome"] in USABLE) for row in over)
    if not pairs and not refused:
        return None
    said = filter(None, (_reading(pairs, refused, doubted), _left_out(view.info.get("candidates") or {})))
    return Prediction(pairs, refused, doubted, " ".join(said))


def draw(prediction: Prediction) -> Chart:
    """Measured over predicted: step time, peak memory, and each category of memory."""
    pairs = prediction.pairs
    times = [(pair, 1e3 * pair.predicted_s, 1e3 * pair.measured_s) for pair in pairs]
    peaks = [(p, p.predicted_bytes, p.measured_bytes) for p in pairs if p.predicted_bytes and p.measured_bytes]
    others = {"peak memory": _scatter([(p, a / 2**20, b / 2**20) for p, a, b in peaks], "peak memory", "MiB")}
    for at, name in enumerate(CATEGORIES):
        known = [(p, *p.parts[at]) for p in pairs if p.parts[at][0] and p.parts[at][1]]
        if known:
            found = [(p, float(a or 0) / 2**20, float(b or 0) / 2**20) for p, a, b in known]
            others[f"memory of {name}"] = _scatter(found, name, "MiB")
    return Chart(
        figure=_scatter(times, "step time", "ms"),
        name="step time",
        others=others,
        choice="What was predicted",
        reading=prediction.reading,
        note=_by_kind(pairs),
        table=_table(prediction),
    )


def _scatter(points: Sequence[tuple[Pair, float, float]], what: str, unit: str) -> go.Figure:
    drawn = figure(f"predicted {what} ({unit})", f"measured {what} ({unit})", height=460)
    values = [value for _, x, y in points for value in (x, y)]
    if values:
        ends = [0.9 * min(values), 1.1 * max(values)]
        drawn.add_scatter(x=ends, y=ends, mode="lines", name="equal", line={"color": "var(--muted)", "dash": "dash"})
    for name in sorted({pair.kind for pair, _, _ in points}):
        members = [point for point in points if point[0].kind == name]
        drawn.add_scatter(
            x=[x for _, x, _ in members],
            y=[y for _, _, y in members],
            mode="markers",
            name=text(name),
            marker={"color": [pair.colour for pair, _, _ in members], "size": 9},
            customdata=[pair.at for pair, _, _ in members],
        )
    drawn.update_xaxes(type="log")
    drawn.update_yaxes(type="log")
    return drawn


def _table(prediction: Prediction) -> Table:
    columns = ("plan", "predicted s", "measured s", "error", "predicted peak B", "measured peak B", "error of the peak")
    pairs = (
        (p.label, p.predicted_s, p.measured_s, p.error, p.predicted_bytes, p.measured_bytes, p.memory_error)
        for p in prediction.pairs
    )
    refused = ((label, None, None, None, None, None, reason) for label, reason in prediction.refused)
    return Table(columns=columns, rows=(*pairs, *refused))


def _by_kind(pairs: Sequence[Pair]) -> str:
    """The mean error of each strategy."""
    members: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        members[pair.kind].append(abs(pair.error))
    means = sorted((statistics.fmean(errors), name) for name, errors in members.items())
    return "Mean error of the step time: " + ", ".join(f"{name} {fmt.percent(mean)}" for mean, name in means) + "."


def _reading(pairs: Sequence[Pair], refused: Sequence[tuple[str, str]], doubted: Sequence[tuple[str, bool]]) -> str:
    said = []
    if pairs:
        errors = [abs(pair.error) for pair in pairs]
        later = errors[10:]
        said.append(
            f"Predicted before each launch, step times were off by {fmt.percent(statistics.median(errors))} in the "
            f"median over {fmt.count(len(pairs), 'trial')}"
            + (f", by {fmt.percent(statistics.median(later))} after the first ten." if len(later) >= 5 else ".")
        )
        peaks = [abs(error) for pair in pairs if (error := pair.memory_error) is not None]
        if peaks:
            said.append(f"Peaks of memory were off by {fmt.percent(statistics.median(peaks))}.")
    if refused:
        said.append(f"{fmt.count(len(refused), 'plan')} were not launched because they were predicted not to fit.")
    if doubted:
        ran = sum(fits for _, fits in doubted)
        said.append(f"Of {len(doubted)} launched although predicted not to fit, {ran} ran.")
    return " ".join(said)


def _left_out(found: Mapping[str, int]) -> str:
    count = found.get("left_out", 0)
    if not count:
        return ""
    return f"Of {found['looked_at']:,} plans that the search looked at, {count:,} were left out as too large."


def _refused(row: Row) -> bool:
    return row["outcome"] == Outcome.INFEASIBLE and str(row["outcome_reason"]).startswith("it is predicted")
