"""A comparison as Markdown, for a pull request, and as JSON, for scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.report import format as fmt
from harness.report.comparison import by_strategy, crossings, overview, transfer, winners
from harness.report.comparison.comparison_page import summary
from harness.report.comparison.comparison_view import Comparison, Contest


def markdown(comparison: Comparison) -> str:
    """Tables that GitHub shows."""
    parts = [" · ".join(map(_escaped, summary(comparison)))]
    across = overview.data(comparison)
    if across is not None:
        parts.append(f"## Across workloads\n\n{_escaped(across.reading)}")
    for contest in comparison.contests:
        parts.append(f"## {_escaped(contest.name)} (`{contest.workload_id}`)")
        parts += filter(None, (part(contest) for part in (_winners, _strategies, _transfer, _crossings)))
    return fmt.plain("\n\n".join(parts)) + "\n"


def as_json(comparison: Comparison) -> str:
    """Everything, in base units."""
    return json.dumps(
        {
            "folders": comparison.folders,
            "trials": comparison.trials,
            "repeated": comparison.repeated,
            "problems": comparison.problems,
            "workloads": [_contest(contest) for contest in comparison.contests],
        },
        indent=2,
    )


def _contest(contest: Contest) -> dict[str, Any]:
    matrix, moved, order = by_strategy.data(contest), transfer.data(contest), crossings.data(contest)
    return {
        "workload_id": contest.workload_id,
        "name": contest.name,
        "unit": contest.unit,
        "places": [{"name": contest.place_names[entry.place], **asdict(entry.place)} for entry in contest.entries],
        "winners": [asdict(line) for line in winners.data(contest).lines],
        "strategies": [
            {"strategy": kind, "place": place, "share": share} for (kind, place), share in matrix.shares.items()
        ]
        if matrix
        else [],
        "transfer": [
            {"winner_of": source, "run_on": target, **asdict(loss)} for (source, target), loss in moved.losses.items()
        ]
        if moved
        else [],
        "crossings": [
            {"axis": line.axis.name, "unit": line.axis.unit, **asdict(crossing)}
            for line in (order.lines if order else ())
            for crossing in line.crossings
        ],
    }


def _winners(contest: Contest) -> str:
    found = winners.data(contest)
    columns = [c for c in winners.COLUMNS if any(c.value(line) is not None for line in found.lines)]
    header = ["where", "winner", f"{found.unit} (95 % interval)", *(f"{c.name} {c.unit}".strip() for c in columns)]
    rows = [
        [
            line.place if line.hardware_id in line.place else f"{line.place} ({line.hardware_id})",
            f"{line.plan}{f' (tied with {line.ties})' if line.ties else ''}",
            f"{fmt.rate(line.tokens_per_s)} ({fmt.span(line.low, line.high)})",
            *(column.show(column.value(line)) for column in columns),
        ]
        for line in found.lines
    ]
    return f"{_escaped(found.reading)}\n\n{_table(header, rows)}"


def _strategies(contest: Contest) -> str:
    found = by_strategy.data(contest)
    if found is None:
        return ""
    rows = [[kind, *(fmt.percent(found.shares.get((kind, place))) for place in found.places)] for kind in found.kinds]
    return f"{_escaped(found.reading)}\n\n{_table(['share of the winner', *found.places], rows)}"


def _transfer(contest: Contest) -> str:
    found = transfer.data(contest)
    if found is None:
        return ""
    rows = [[source, *(_lost(found.losses[source, target]) for target in found.places)] for source in found.places]
    return f"{_escaped(found.reading)}\n\n{_table(['winner of, run on', *found.places], rows)}"


def _lost(loss: transfer.Loss) -> str:
    if loss.loss is None:
        return loss.missing
    return "≈" if loss.tied and loss.loss else f"-{fmt.percent(loss.loss)}" if loss.loss else "own"


def _crossings(contest: Contest) -> str:
    found = crossings.data(contest)
    if found is None:
        return ""
    rows = [
        [line.axis.name, c.below, c.above, _at(line, c), "yes" if c.sure else "no", c.source]
        for line in found.lines
        for c in line.crossings
    ]
    header = ["axis", "faster below", "faster above", "crossing", "beyond doubt", "source"]
    return f"{_escaped(found.reading)}" + (f"\n\n{_table(header, rows)}" if rows else "")


def _at(line: crossings.Line, crossing: crossings.Crossing) -> str:
    return f"{fmt.significant(crossing.at)} {line.axis.unit}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell if cell == '---' else _escaped(cell) for cell in line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
