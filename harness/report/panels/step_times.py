"""How long the steps took, and how even they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from harness.labels import Named
from harness.report import format as fmt
from harness.report.figures import MUTED, row_figure, text
from harness.report.panels.panel import TOP, Chart, Table, top_note
from harness.report.sweep_view import SweepView


@dataclass(frozen=True, kw_only=True)
class Steps(Named):
    """One trial; each time is that of the slowest rank of a step."""

    measured_s: tuple[float, ...]
    warmup_s: tuple[float, ...]

    @property
    def spread(self) -> float:
        """Interquartile range over median of the measured steps, a share of 1."""
        if len(self.measured_s) < 2:
            return 0.0
        low, middle, high = quantiles(self.measured_s, n=4)
        return (high - low) / middle


@dataclass(frozen=True)
class StepTimes:
    """The best trials, in the order of the ranking."""

    trials: tuple[Steps, ...]
    reading: str
    note: str


def data(view: SweepView) -> StepTimes | None:
    """Step times of the best ok trials; None if no measured step of them is recorded."""
    slowest = view.steps.groupby(["trial_id", "step"]).agg(time=("step_time_s", "max"), phase=("phase", "first"))
    known = set(slowest.index.get_level_values(0))
    trials = []
    for row in view.ranked[:TOP]:
        if row["trial_id"] not in known:
            continue
        steps = slowest.loc[row["trial_id"]]
        by_phase = {phase: tuple(map(float, times)) for phase, times in steps.groupby("phase")["time"]}
        measured, warmup = by_phase.get("measure", ()), by_phase.get("warmup", ())
        if measured:
            trials.append(Steps(**vars(view.named(row)), measured_s=measured, warmup_s=warmup))
    return StepTimes(tuple(trials), _reading(trials), top_note(len(view.ranked))) if trials else None


def draw(times: StepTimes) -> Chart:
    """A box with its points for each trial; warm-up steps are crosses. Logarithmic if warm-up is far slower."""
    trials = times.trials
    figure = row_figure("step time (ms)", [t.label for t in trials], [t.short for t in trials], extra=30)
    for y, trial in enumerate(trials):
        figure.add_box(
            x=[1e3 * t for t in trial.measured_s],
            y=[y] * len(trial.measured_s),
            orientation="h",
            boxpoints="all",
            pointpos=0,
            jitter=0.4,
            width=0.6,
            marker={"color": trial.colour, "size": 4, "opacity": 0.6},
            line={"width": 1.5},
            name=text(trial.label),
            meta={"trial": trial.at},
            hoverinfo="x+name",
            hoverlabel={"namelength": -1},
            showlegend=False,
        )
    warm = [(1e3 * t, y, trial) for y, trial in enumerate(trials) for t in trial.warmup_s]
    figure.add_scatter(
        x=[x for x, _, _ in warm],
        y=[y for _, y, _ in warm],
        mode="markers",
        name="warm-up, not counted",
        customdata=[trial.at for _, _, trial in warm],
        marker={"symbol": "x-thin", "size": 7, "line": {"width": 1.5, "color": MUTED}},
        hovertext=[f"<b>{text(t.label)}</b><br>warm-up step, {fmt.duration(x / 1e3)}" for x, _, t in warm],
        hoverinfo="text",
        showlegend=bool(warm),
    )
    far = bool(warm) and max(x for x, _, _ in warm) > 4e3 * max(max(t.measured_s) for t in trials)
    figure.update_xaxes(type="log" if far else "linear", **({} if far else {"rangemode": "tozero"}))
    return Chart(figure=figure, reading=times.reading, note=times.note, table=_table(trials))


def _table(trials: Sequence[Steps]) -> Table:
    rows = []
    for trial in trials:
        times = trial.measured_s
        low, middle, high = quantiles(times, n=4) if len(times) > 1 else times * 3
        rows.append((trial.label, len(times), min(times), low, middle, high, max(times), len(trial.warmup_s)))
    columns = ("plan", "steps", "fastest s", "quarter s", "median s", "three quarters s", "slowest s", "warm-up steps")
    return Table(columns=columns, rows=tuple(rows))


def _reading(trials: Sequence[Steps]) -> str:
    if not trials:
        return ""
    first, uneven = trials[0], max(trials, key=lambda trial: trial.spread)
    middle = median(first.measured_s)
    said = (
        f"By the slowest rank, half of the steps of {first.short} take {fmt.duration(middle)} or less, the slowest of "
        f"{len(first.measured_s)} takes {fmt.percent(max(first.measured_s) / middle - 1)} longer"
    )
    if len(trials) == 1 or uneven is first:
        return f"{said}."
    spread = fmt.percent(uneven.spread)
    return f"{said}. The most uneven is {uneven.short}: the middle half of its steps spreads over {spread}."
