"""The page of a comparison."""

from __future__ import annotations

from typing import Any

from harness.report import format as fmt
from harness.report.comparison import by_strategy, crossings, overview, transfer, winners
from harness.report.comparison.comparison_view import Comparison
from harness.report.document import Section, document
from harness.report.panels.panel import Panel

PANELS: tuple[Panel[Any, Any], ...] = (
    Panel(key="winners", title="Winners", data=winners.data, draw=winners.draw),
    Panel(key="strategies", title="Strategies", data=by_strategy.data, draw=by_strategy.draw),
    Panel(key="transfer", title="Does a winner transfer?", data=transfer.data, draw=transfer.draw),
    Panel(key="crossings", title="Where the order changes", data=crossings.data, draw=crossings.draw),
)
"""What is shown of each workload, top to bottom."""


def render(comparison: Comparison) -> str:
    """The whole page: across workloads first, then each workload for itself."""
    sections = []
    across = overview.data(comparison)
    if across is not None:
        sections.append(Section(key="overview", title="Across workloads", drawn=overview.draw(across)))
    several = len(comparison.contests) > 1
    for number, contest in enumerate(comparison.contests, start=1):
        for panel in PANELS:
            data = panel.data(contest)
            if data is not None:
                key = f"{panel.key}-{number}" if several else panel.key
                title = f"{panel.title}: {contest.name}" if several else panel.title
                sections.append(Section(key=key, title=title, drawn=panel.draw(data)))
    return document(
        title="Comparison",
        heading="Comparison",
        summary=summary(comparison),
        sections=sections,
    )


def summary(comparison: Comparison) -> tuple[str, ...]:
    """What was read."""
    places = {entry.place for contest in comparison.contests for entry in contest.entries}
    names = fmt.listed([contest.name for contest in comparison.contests])
    return (
        names,
        fmt.count(len(places), "place"),
        fmt.count(comparison.trials, "trial"),
        *([f"{comparison.repeated:,} of them in more than one folder, counted once"] if comparison.repeated else []),
        f"read from {fmt.listed(comparison.folders)}",
    )
