"""The page of a sweep: every panel drawn from its view."""

from __future__ import annotations

from harness.report import format as fmt
from harness.report.document import Section, Trials, document
from harness.report.panels import PANELS
from harness.report.sweep_view import SweepView


def render(view: SweepView, built: str | None = None) -> str:
    """The whole page of a sweep; `built` as for `document`."""
    computed = ((panel, panel.data(view)) for panel in PANELS)
    sections = [
        Section(key=panel.key, title=panel.title, drawn=panel.draw(data))
        for panel, data in computed
        if data is not None
    ]
    summary = _summary(view)
    return document(
        title=f"{view.sweep} · {summary[0]}",
        heading=view.sweep,
        summary=summary,
        sections=sections,
        trials=_trials(view),
        built=built,
    )


def _trials(view: SweepView) -> Trials:
    lines = view.lines
    return Trials(
        ids=tuple(row["trial_id"] for row in lines),
        labels=tuple(view.numbered(row) if row["trial_id"] in view.places else view.label(row) for row in lines),
        notes=tuple(view.note(row) for row in lines),
        commands=tuple(view.command(row) for row in lines),
    )


def _summary(view: SweepView) -> tuple[str, ...]:
    """The line under the title: workload, hardware, trials, time."""
    first, wall, training = view.rows[0], view.info.get("wall_s"), view.info.get("training_s")
    names = sorted({str(row["workload"]) for row in view.rows})
    share = f", {fmt.percent(training / wall)} of it in training steps" if wall and training else ""
    running = ("still running",) if view.info and view.info.get("stopped") is None else ()
    return (
        *running,
        fmt.listed(names),
        view.hardware_id,
        f"{fmt.count(len(view.rows), 'trial')}, {fmt.count(len(view.ranked), 'plan')} ranked",
        *([f"{fmt.duration(wall)}{share}"] if wall else []),
        f"{first['started_at']:%Y-%m-%d %H:%M} UTC",
    )
