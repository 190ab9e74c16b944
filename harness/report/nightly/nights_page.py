"""The pages of nightly runs."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report import format as fmt
from harness.report.document import Section, document
from harness.report.nightly.nights_view import Listed, NightlyView, date
from harness.report.nightly.panels import COLOURS, PANELS
from harness.report.panels.panel import Fragment


def render(view: NightlyView) -> str:
    """The page of a night."""
    computed = ((panel, panel.data(view)) for panel in PANELS)
    sections = [
        Section(key=panel.key, title=panel.title, drawn=panel.draw(data))
        for panel, data in computed
        if data is not None
    ]
    return document(
        title=f"{view.suite}: {view.headline}",
        heading=f"{view.suite}, {date(view.night)}",
        summary=(view.headline, view.hardware_id, fmt.count(len(view.nights), "night")),
        sections=sections,
    )


def render_index(nights: Sequence[Listed]) -> str:
    """The page over all nights, the last one first."""
    context = {"nights": nights, "colours": COLOURS, "date": date}
    table = Fragment(template="index.html", reading=_reading(nights), context=context)
    return document(
        title="Nights",
        heading="Nights",
        summary=(fmt.count(len(nights), "night"),),
        sections=[Section(key="nights", title="Every night", drawn=table)],
    )


def _reading(nights: Sequence[Listed]) -> str:
    if not nights:
        return "No night was run yet."
    last = nights[0]
    return f"The last night, {date(last.night)}, of {last.suite}: {last.headline}."
