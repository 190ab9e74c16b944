"""Earlier nights as series of one metric of one plan: what tonight may be compared with."""

from __future__ import annotations

import math
import statistics as middle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from harness.nightly import acknowledge
from harness.nightly.acknowledge import Acknowledgement
from harness.nightly.findings import Verdict
from harness.nightly.history import SEEDS, Night, Session
from harness.nightly.last_loss import FEWEST_SEEDS, Known, Versions, versions
from harness.nightly.suite import Metric, Suite

_NO_BASELINE = (Verdict.CONFIRMED, Verdict.ENV_CHANGE)
_RIGHT = (None, Verdict.PASS, Verdict.INSUFFICIENT)


@dataclass(frozen=True)
class Series:
    """One metric of one plan over nights, as logarithms in which more is worse."""

    nights: tuple[str, ...]
    values: tuple[float, ...]
    canary: tuple[float | None, ...]


@dataclass(frozen=True)
class _Screened:
    """One earlier night, with what is asked of it again and again."""

    night: Night
    session: Session
    canary: float | None
    said: Mapping[tuple[Any, Any], Any]
    """(plan, metric) -> verdict."""
    versions: Versions


class Past:
    """Earlier nights, looked through once for all metrics."""

    def __init__(self, nights: Iterable[Night]) -> None:
        self.nights = [
            _Screened(
                night,
                session,
                canary_of([session]),
                {(v.get("plan"), v.get("metric")): v.get("verdict") for v in night.verdicts},
                versions(night.environment),
            )
            for night in nights
            if (session := night.screened()) is not None
        ]

    def series(
        self, suite: Suite, plan: str, metric: Metric, entries: Sequence[Acknowledgement], limit: int | None
    ) -> Series:
        """The nights that tonight may be compared with: the same plan measured in the same way, since the last
        acknowledgement.

        Args:
            suite: tonight's.
            plan: its name.
            metric: of the plan.
            entries: acknowledgements.
            limit: so many of the first nights make the frozen baseline, those left out in which a change was confirmed
                or the machine was another; None for every night.
        """
        comparable = self._comparable(suite, plan, metric, entries)
        if limit is not None:
            comparable = islice((one for one in comparable if one[2] not in _NO_BASELINE), limit)
        found = list(comparable)
        return Series(
            tuple(one.night.night for one, _, _ in found),
            tuple(value for _, value, _ in found),
            tuple(one.canary for one, _, _ in found),
        )

    def losses(
        self, suite: Suite, plan: str, metric: Metric, entries: Sequence[Acknowledgement], tonight: Versions
    ) -> list[Known]:
        """The nights of the frozen baseline in which nothing was wrong, and if none of them had tonight's versions, as
        many of the first that had."""
        right = [
            Known(value, one.versions)
            for one, value, said in self._comparable(suite, plan, metric, entries)
            if said in _RIGHT
        ]
        baseline, later = right[: suite.baseline_nights], right[suite.baseline_nights :]
        if any(night.versions == tonight for night in baseline):
            return baseline
        return baseline + [night for night in later if night.versions == tonight][: suite.baseline_nights]

    def seeds(self, suite: Suite, plan: str, metric: Metric, tonight: Versions) -> list[float]:
        """What an earlier night of tonight's versions measured of other seeds of a plan; [] if none measured enough."""
        identity = suite.identity(plan)
        for one in reversed(self.nights):
            if one.versions == tonight and one.night.identities.get(plan) == identity:
                found = seed_values(one.night.sessions, plan, metric)
                if len(found) >= FEWEST_SEEDS:
                    return found
        return []

    def _comparable(
        self, suite: Suite, plan: str, metric: Metric, entries: Sequence[Acknowledgement]
    ) -> Iterator[tuple[_Screened, float, Any]]:
        """(night, its value, what was said of it). Of what was said until a change was accepted nothing: it is the new
        normal. What is confirmed later is another change."""
        accepted = acknowledge.latest(entries, plan, metric.name)
        identity = suite.identity(plan)
        for one in self.nights:
            if one.night.identities.get(plan) != identity or (accepted and one.night.night < accepted.night):
                continue
            value = session_value(one.session, plan, metric)
            if value is not None:
                forgiven = accepted is not None and (not accepted.last or one.night.night <= accepted.last)
                yield one, value, None if forgiven else one.said.get((plan, metric.name))


def seed_values(sessions: Iterable[Session], plan: str, metric: Metric) -> list[float]:
    """Logarithms of what sessions measured of other seeds of a plan."""
    found = [v for s in sessions if s.purpose == SEEDS for v in s.values.get(plan, {}).get(metric.name, [])]
    return [math.log(value) for value in found if value > 0 and math.isfinite(value)]


def session_value(session: Session, plan: str, metric: Metric) -> float | None:
    """A session's value of a metric: the logarithm of the median over its launches, more is worse."""
    found = [v for v in session.values.get(plan, {}).get(metric.name, []) if v > 0 and math.isfinite(v)]
    if not found:
        return None
    value = math.log(middle.median(found))
    return value if metric.more_is_worse else -value


def canary_of(sessions: Sequence[Session]) -> float | None:
    """The canary's middle over sessions, as a logarithm; None if none has it."""
    parts = [value for s in sessions for value in [_mean_log(s.canary)] if value is not None]
    return middle.median(parts) if parts else None


def _mean_log(canary: Mapping[str, float]) -> float | None:
    logs = [math.log(value) for value in canary.values() if value > 0]
    return sum(logs) / len(logs) if logs else None
