"""From nights to verdicts. Nothing here measures: what a verdict still needs, it asks for.

A verdict goes up a ladder. A night above the baseline's prediction interval is suspected. Fresh sessions of the same
night, none of which caused the suspicion, confirm it or do not. Many confirmations in one night must stand a false-
discovery control together. A machine whose canary moved is no place to judge a time.
"""

from __future__ import annotations

import math
import statistics as middle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

import scipy.stats

from harness.regress import acknowledge
from harness.regress.acknowledge import Acknowledgement
from harness.regress.history import CONFIRM, Night, Session
from harness.regress.statistics import CONFIRM as LEVEL
from harness.regress.statistics import (
    NOTHING,
    Confirmed,
    change_point,
    confirm,
    control_slope,
    screen,
    trimmed_mean,
    winsorised_deviation,
)
from harness.regress.suite import METRICS, Metric, Suite

FEWEST_NIGHTS = 10
"""Below this no verdict is given."""
FALSE_DISCOVERIES = 0.05
"""Share of a night's confirmed changes that may be false (Benjamini and Hochberg 1995)."""
CANARY_MOVED = 0.03
"""Relative change of the canary, beyond its own spread, that makes the night no place to judge times."""
SMALLEST_EFFECT = 0.02
"""No smaller change of a time is confirmed, whatever its floor."""
MEMORY_BYTES = 64 << 20
"""A change of memory must be as large on a device of 80 GiB; on a smaller one by its share, at least LEAST_BYTES."""
LEAST_BYTES = 1 << 20
LONGEST = 400
"""Nights among which the beginning of a change is sought."""


class Verdict(StrEnum):
    """What is said of a metric of a plan."""

    PASS = "PASS"
    SUSPECT = "SUSPECT"
    CONFIRMED = "CONFIRMED"
    IMPROVED = "IMPROVED"
    ENV_CHANGE = "ENV_CHANGE"
    INSUFFICIENT = "INSUFFICIENT"
    NOT_MEASURED = "NOT_MEASURED"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A verdict with what it rests on."""

    plan: str
    metric: str
    verdict: Verdict
    why: str
    """One sentence."""
    value: float | None = None
    """Tonight's, median over launches, in the metric's unit."""
    baseline: float | None = None
    """The baseline's middle, in the metric's unit."""
    low: float | None = None
    high: float | None = None
    """Where nine of ten nights lie if nothing changed."""
    nights: int = 0
    """Of the baseline."""
    effect: float | None = None
    """Relative change, positive is worse."""
    p: float | None = None
    smallest: float | None = None
    """Relative change that fresh sessions would have confirmed with a probability of 80 %."""
    since: str | None = None
    """The night in which a confirmed change seems to have begun."""

    def to_json(self) -> dict[str, Any]:
        """As it stands in a night's file."""
        return {**asdict(self), "verdict": str(self.verdict)}


@dataclass(frozen=True)
class Series:
    """One metric of one plan over nights, as logarithms in which more is worse."""

    nights: tuple[str, ...]
    values: tuple[float, ...]
    canary: tuple[float | None, ...]


Measure = Callable[[Sequence[str]], Sequence[Session]]
"""Called with suspected plans: fresh sessions of them. May return fewer than asked for, or none, if time is over."""


def judge(
    suite: Suite,
    past: Sequence[Night],
    tonight: Night,
    entries: Sequence[Acknowledgement],
    measure: Measure,
    rank_memory_bytes: int | None = None,
) -> tuple[Finding, ...]:
    """The verdict of every metric of every plan of a suite.

    Args:
        suite: tonight's.
        past: earlier nights of this suite on this hardware, oldest first.
        tonight: with its screening session; sessions that are measured on suspicion are added to it.
        entries: acknowledgements.
        measure: measures suspects again.
        rank_memory_bytes: what a rank may hold, to which the floor of memory is scaled.
    """
    before = Past(past)
    first = {
        (plan, name): _Case(suite, plan, METRICS[name], before, tonight, entries, rank_memory_bytes)
        for plan in suite.plans
        for name in suite.metrics
    }
    suspects = sorted({plan for (plan, _), case in first.items() if case.suspicious()})
    if suspects and not any(session.purpose == CONFIRM for session in tonight.sessions):
        tonight.sessions.extend(measure(suspects))
    moved = canary_moved(past, tonight)
    return _standing_together([case.finding(moved) for case in first.values()])


def canary_moved(past: Sequence[Night], tonight: Night) -> float | None:
    """By how much the machine itself was slower tonight, if by more than it varies; None otherwise.

    Tonight's middle over all sessions is compared: one disturbed moment does not excuse a night.
    """
    values = [_canary(night.sessions) for night in past]
    known = [value for value in values if value is not None][-60:]
    now = _canary(tonight.sessions)
    if now is None or len(known) < FEWEST_NIGHTS:
        return None
    moved = now - trimmed_mean(known)
    spread = winsorised_deviation(known) * math.sqrt(1 + 1 / len(known))
    limit = float(scipy.stats.t.ppf(0.995, len(known) - 1)) * spread
    return math.expm1(moved) if abs(moved) > max(limit, CANARY_MOVED) else None


class _Case:
    """One metric of one plan tonight."""

    def __init__(
        self,
        suite: Suite,
        plan: str,
        metric: Metric,
        past: Past,
        tonight: Night,
        entries: Sequence[Acknowledgement],
        rank_memory_bytes: int | None,
    ) -> None:
        self.suite, self.plan, self.metric, self.tonight = suite, plan, metric, tonight
        self.past, self.entries = past, entries
        self.rank_memory_bytes = rank_memory_bytes
        series = past.series(suite, plan, metric, entries, suite.baseline_nights)
        pairs = list(zip(series.values, series.canary, strict=True))
        known = [(value, canary) for value, canary in pairs if canary is not None]
        self.slope = control_slope([c for _, c in known], [v for v, _ in known]) if metric.kind == "time" else 0.0
        self.canary_middle = trimmed_mean([c for _, c in known]) if known else 0.0
        self.baseline = [self._controlled(value, canary) for value, canary in pairs]
        screening = tonight.screened()
        self.now = None if screening is None else self._value(screening)

    def suspicious(self) -> bool:
        """Whether fresh sessions are needed."""
        if self.now is None or len(self.baseline) < FEWEST_NIGHTS or self.metric.kind == "loss":
            return False
        return self._above(self.now) or self._above(self.now, better=True)

    def finding(self, moved: float | None) -> Finding:
        """The verdict, before the control of false discoveries."""
        if self.now is None:
            return self._say(Verdict.NOT_MEASURED, self._failure())
        if len(self.baseline) < FEWEST_NIGHTS:
            needed = FEWEST_NIGHTS - len(self.baseline)
            return self._say(
                Verdict.INSUFFICIENT,
                f"the baseline has {len(self.baseline)} of {FEWEST_NIGHTS} nights; run {needed} more",
            )
        if self.metric.kind == "loss":
            return self._loss()
        if not self.suspicious():
            return self._say(Verdict.PASS, "it lies where the baseline's nights lie")
        better = not self._above(self.now)
        fresh = [value for s in self.tonight.sessions if s.purpose == CONFIRM and (value := self._value(s)) is not None]
        if len(fresh) < 4:
            return self._say(Verdict.SUSPECT, "it lies outside the baseline's nights, and nothing was measured again")
        sign = -1.0 if better else 1.0
        found = confirm([sign * value for value in self.baseline], [sign * value for value in fresh])
        return self._confirmed(found, better, moved, trimmed_mean(fresh))

    def _confirmed(self, found: Confirmed, better: bool, moved: float | None, now: float) -> Finding:
        floor = self.suite.floor(self.metric.name)
        if self.metric.kind == "time":
            floor = max(floor, SMALLEST_EFFECT)
        enough = found.effect > floor and self._enough_bytes(now)
        evidence = {"effect": found.effect * (-1 if better else 1), "p": found.p, "smallest": found.smallest}
        if found.p >= LEVEL or not enough:
            why = "the night lay outside the baseline's, but fresh sessions do not confirm it"
            return self._say(Verdict.PASS if better else Verdict.SUSPECT, why, **evidence)
        if moved is not None and self.metric.kind == "time":
            word = "slower" if moved > 0 else "faster"
            why = f"the canary, a plain matrix product and copy, is {abs(moved):.1%} {word} too: the machine changed"
            return self._say(Verdict.ENV_CHANGE, why, **evidence)
        sessions = sum(session.purpose == CONFIRM for session in self.tonight.sessions)
        word = "better" if better else "worse"
        why = f"{sessions} fresh sessions are {abs(found.effect):.1%} {word} than the baseline (p = {found.p:.1g})"
        since = self._since()
        return self._say(Verdict.IMPROVED if better else Verdict.CONFIRMED, why, since=since, **evidence)

    def _enough_bytes(self, now: float) -> bool:
        if self.metric.kind != "memory":
            return True
        share = (self.rank_memory_bytes or 80 << 30) / (80 << 30)
        difference = abs(math.exp(now) - math.exp(trimmed_mean(self.baseline)))
        return difference > max(LEAST_BYTES, min(MEMORY_BYTES, MEMORY_BYTES * share))

    def _loss(self) -> Finding:
        """An identical plan trains identically; what differs in the baseline itself is rounding."""
        now, values = self.now or 0.0, self.baseline
        middle_value = middle.median(values)
        band = 3 * max(abs(value - middle_value) for value in values) + 1e-6
        evidence = {"effect": math.expm1(now - middle_value)}
        if abs(now - middle_value) <= band:
            return self._say(Verdict.PASS, "the last loss is the baseline's", **evidence)
        worse = now > middle_value
        word = "above" if worse else "below"
        difference = f"{abs(evidence['effect']):.2g} (relative) {word}"
        why = f"the last loss is {difference} the baseline's, which varies by {band / 3:.1g}"
        return self._say(Verdict.CONFIRMED if worse else Verdict.IMPROVED, why, p=0.0, since=self._since(), **evidence)

    def _since(self) -> str | None:
        """The night in which the change seems to have begun, among all since the last acknowledgement."""
        whole = self.past.series(self.suite, self.plan, self.metric, self.entries, None)
        values = [self._controlled(value, canary) for value, canary in zip(whole.values, whole.canary, strict=True)]
        tonight = [value for s in self.tonight.sessions if (value := self._value(s)) is not None]
        nights = [*whole.nights, *[self.tonight.night] * len(tonight)][-LONGEST:]
        found = change_point([*values, *tonight][-LONGEST:])
        return None if found is None else nights[found.at]

    def _above(self, value: float, *, better: bool = False) -> bool:
        sign = -1.0 if better else 1.0
        if winsorised_deviation(self.baseline) < NOTHING:  # as memory often is: the same every night
            return sign * (value - trimmed_mean(self.baseline)) > self.suite.floor(self.metric.name)
        return screen([sign * v for v in self.baseline], sign * value)

    def _value(self, session: Session) -> float | None:
        value = session_value(session, self.plan, self.metric)
        return None if value is None else self._controlled(value, _canary([session]))

    def _controlled(self, value: float, canary: float | None) -> float:
        return value if canary is None else value - self.slope * (canary - self.canary_middle)

    def _failure(self) -> str:
        screening = self.tonight.screened()
        reasons = screening.failures.get(self.plan, []) if screening else []
        return (
            reasons[0]
            if reasons
            else "it was not launched before the night's deadline, or the metric is not known here"
        )

    def _say(self, verdict: Verdict, why: str, **evidence: Any) -> Finding:
        known = len(self.baseline) > 1
        centre = trimmed_mean(self.baseline) if known else None
        spread = 1.645 * winsorised_deviation(self.baseline) if known else 0.0
        ends = None if centre is None else sorted((self._shown(centre - spread), self._shown(centre + spread)))
        return Finding(
            plan=self.plan,
            metric=self.metric.name,
            verdict=verdict,
            why=why,
            value=None if self.now is None else self._shown(self.now),
            baseline=None if centre is None else self._shown(centre),
            low=ends[0] if ends else None,
            high=ends[1] if ends else None,
            nights=len(self.baseline),
            **evidence,
        )

    def _shown(self, value: float) -> float:
        return math.exp(value if self.metric.more_is_worse else -value)


class Past:
    """Earlier nights, looked through once for all metrics."""

    def __init__(self, nights: Iterable[Night]) -> None:
        self.nights = [
            (
                night,
                session,
                _canary([session]),
                {(v.get("plan"), v.get("metric")): v.get("verdict") for v in night.verdicts},
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
        accepted = acknowledge.latest(entries, plan, metric.name)
        identity = suite.identity(plan)
        nights: list[str] = []
        values: list[float] = []
        canaries: list[float | None] = []
        for night, session, canary, said in self.nights:
            if limit is not None and len(values) == limit:
                break
            if night.identities.get(plan) != identity or (accepted and night.night < accepted.night):
                continue
            value = session_value(session, plan, metric)
            excluded = limit is not None and said.get((plan, metric.name)) in _NO_BASELINE
            # What was accepted is the new normal, whatever was said of it then.
            if value is None or (excluded and not accepted):
                continue
            nights.append(night.night)
            values.append(value)
            canaries.append(canary)
        return Series(tuple(nights), tuple(values), tuple(canaries))


_NO_BASELINE = (Verdict.CONFIRMED, Verdict.ENV_CHANGE)


def session_value(session: Session, plan: str, metric: Metric) -> float | None:
    """A session's value of a metric: the logarithm of the median over its launches, more is worse."""
    found = [v for v in session.values.get(plan, {}).get(metric.name, []) if v > 0 and math.isfinite(v)]
    if not found:
        return None
    value = math.log(middle.median(found))
    return value if metric.more_is_worse else -value


def _canary(sessions: Sequence[Session]) -> float | None:
    parts = [value for s in sessions for value in [_mean_log(s.canary)] if value is not None]
    return middle.median(parts) if parts else None


def _mean_log(canary: Mapping[str, float]) -> float | None:
    logs = [math.log(value) for value in canary.values() if value > 0]
    return sum(logs) / len(logs) if logs else None


def _standing_together(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Findings of which a confirmed one stays so only if it stands among all that were judged tonight."""
    judged = [f for f in findings if f.verdict not in (Verdict.NOT_MEASURED, Verdict.INSUFFICIENT)]
    if not judged:
        return tuple(findings)
    shares = [1.0 if f.p is None else f.p for f in judged]
    adjusted = dict(zip(map(id, judged), scipy.stats.false_discovery_control(shares), strict=True))
    return tuple(
        replace(f, verdict=Verdict.SUSPECT, why=f"{f.why}, but among {len(judged)} metrics that may be chance")
        if f.verdict is Verdict.CONFIRMED and adjusted[id(f)] > FALSE_DISCOVERIES
        else f
        for f in findings
    )
