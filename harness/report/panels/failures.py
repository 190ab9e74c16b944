"""What did not end as ok, where, and why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from harness.labels import Row
from harness.report import format as fmt
from harness.report.panels.panel import Fragment
from harness.report.sweep_view import SweepView
from harness.store.records import Outcome
from harness.store.standings import USABLE

SHOWN = 4000
"""Characters of a trial's evidence on the page."""


@dataclass(frozen=True)
class Failure:
    """One trial that is not ok."""

    trial_id: str
    outcome: str
    label: str
    where: str
    """Phase, rank and step, as far as they are known."""
    reason: str
    evidence: str
    """What was seen of each rank, as text; empty if nothing was kept."""


@dataclass(frozen=True)
class Failures:
    """Every trial that is not ok, oldest first."""

    failures: tuple[Failure, ...]
    reading: str


def data(view: SweepView) -> Failures:
    """The trials that are not ok; there may be none."""
    failures = tuple(
        Failure(
            row["trial_id"],
            str(row["outcome"]),
            view.label(row),
            _where(row),
            row["outcome_reason"] or fmt.MISSING,
            _evidence(row.get("evidence")),
        )
        for row in view.failed
    )
    return Failures(failures, _reading(view))


def draw(failures: Failures) -> Fragment:
    """The table, or one sentence if every trial is ok."""
    return Fragment(template="failures.html", reading=failures.reading, context={"failures": failures.failures})


def _where(row: Row) -> str:
    if row["outcome"] == Outcome.INFEASIBLE:
        return "never launched"
    parts = [row["failed_phase"]]
    parts += [f"{name} {row[f'failed_{name}']}" for name in ("rank", "step") if row[f"failed_{name}"] is not None]
    return ", ".join(filter(None, parts)) or fmt.MISSING


def _evidence(kept: str | None) -> str:
    if not kept:
        return ""
    try:
        seen = json.loads(kept)
        printed = [f"the end of what was printed:\n{seen['output'].rstrip()}"] if seen.get("output") else []
        text = "\n\n".join([*(_of_rank(rank) for rank in seen["ranks"]), *printed])
    except (ValueError, KeyError, TypeError, AttributeError):  # of another version
        text = kept
    return text if len(text) <= SHOWN else text[:SHOWN] + "\n... the rest stands in the column `evidence`"


def _of_rank(seen: dict[str, Any]) -> str:
    last = " ".join(f"{name} {value}" for name, value in seen.get("last", {}).items() if name != "kind")
    texts = [seen[name].rstrip() for name in ("traceback", "stacks", "output") if seen.get(name)]
    return "\n".join([f"rank {seen['rank']}: {_end(seen)}{', ' if last else ''}{last}", *texts])


def _end(seen: dict[str, Any]) -> str:
    if "signal" in seen:
        return str(seen["signal"])
    if "exit_status" not in seen:
        return "ended by the harness"
    return "ended with the fork server" if seen["exit_status"] is None else f"exit status {seen['exit_status']}"


def _reading(view: SweepView) -> str:
    if not view.failed:
        return f"None: every trial of {len(view.rows):,} can be ranked."
    kinds = [f"{number:,} {outcome}" for outcome, number in view.outcomes.items() if outcome not in USABLE]
    return f"{len(view.failed):,} of {fmt.count(len(view.rows), 'trial')} cannot be ranked: {fmt.listed(kinds, 8)}."
