"""What did not end as ok, where, and why."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records import Outcome
from harness.report import format as fmt
from harness.report.labels import Row
from harness.report.panels.base import Fragment
from harness.report.view import SweepView
from harness.standings import USABLE


@dataclass(frozen=True)
class Failure:
    """One trial that is not ok."""

    trial_id: str
    outcome: str
    label: str
    where: str
    """Phase, rank and step, as far as they are known."""
    reason: str


@dataclass(frozen=True)
class Failures:
    """Every trial that is not ok, oldest first."""

    failures: tuple[Failure, ...]
    reading: str


def data(view: SweepView) -> Failures:
    """The trials that are not ok; there may be none."""
    failures = tuple(
        Failure(
            row["trial_id"], str(row["outcome"]), view.label(row), _where(row), row["outcome_reason"] or fmt.MISSING
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


def _reading(view: SweepView) -> str:
    if not view.failed:
        return f"None: every trial of {len(view.rows):,} can be ranked."
    kinds = [f"{number:,} {outcome}" for outcome, number in view.outcomes.items() if outcome not in USABLE]
    return f"{len(view.failed):,} of {fmt.count(len(view.rows), 'trial')} cannot be ranked: {fmt.listed(kinds, 8)}."
