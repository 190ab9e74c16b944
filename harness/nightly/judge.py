"""From nights to verdicts. Nothing here measures: what a verdict still needs, it asks for.

A verdict goes up a ladder. A night above the baseline's prediction interval is suspected. Fresh sessions of the same
night, none of which caused the suspicion, confirm it or do not. Many confirmations in one night must stand a false-
discovery control together. A machine whose canary moved is no place to judge a time. The loss has a rule of its own
(`harness.nightly.last_loss`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import scipy.stats

from harness.nightly.acknowledge import Acknowledgement
from harness.nightly.findings import Finding, Verdict
from harness.nightly.history import CONFIRM, SEEDS, Night, Session
from harness.nightly.last_loss import Losses, versions
from harness.nightly.past import Past, canary_of, seed_values, session_value
from harness.nightly.series import CONFIRM as LEVEL
from harness.nightly.series import (
    NOTHING,
    Confirmed,
    change_point,
    confirm,
    control_slope,
    screen,
    trimmed_mean,
    winsorised_deviation,
)
from harness.nightly.suite import METRICS, Metric, Suite

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


Measure = Callable[[Sequence[str]], Sequence[Session]]
"""Called with suspected plans: fresh sessions of them. May return fewer than asked for, or none, if time is over."""
Seeds = Callable[[Sequence[str]], Sequence[Session]]
"""Called with plans: the last losses of other seeds of them, as sessions of purpose SEEDS."""


def judge(
    suite: Suite,
    past: Sequence[Night],
    tonight: Night,
    entries: Sequence[Acknowledgement],
    measure: Measure,
    rank_memory_bytes: int | None = None,
    seeds: Seeds = lambda plans: (),
) -> tuple[Finding, ...]:
    """The verdict of every metric of every plan of a suite.

    Args:
        suite: tonight's.
        past: earlier nights of this suite on this hardware, oldest first.
        tonight: with its screening session; sessions that are measured on suspicion are added to it.
        entries: acknowledgements.
        measure: measures suspects again.
        rank_memory_bytes: what a rank may hold, to which the floor of memory is scaled.
        seeds: measures other seeds, where only they can tell whether a loss is right.
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
    unclear = sorted(plan for (plan, _), case in first.items() if case.needs_seeds())
    if unclear:
        tonight.sessions.extend(seeds(unclear))
    moved = canary_moved(past, tonight)
    return _standing_together([case.finding(moved) for case in first.values()])


def canary_moved(past: Sequence[Night], tonight: Night) -> float | None:
    """By how much the machine itself was slower tonight, if by more than it varies; None otherwise.

    Tonight's middle over all sessions is compared: one disturbed moment does not excuse a night.
    """
    values = [canary_of(night.sessions) for night in past]
    known = [value for value in values if value is not None][-60:]
    now = canary_of(tonight.sessions)
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
        self.uncontrolled = series.values
        screening = tonight.screened()
        self.measured = None if screening is None else session_value(screening, plan, metric)
        self.now = None if screening is None else self._value(screening)
        self.versions = versions(tonight.environment)
        self.losses = past.losses(suite, plan, metric, entries, self.versions) if metric.kind == "loss" else []

    def suspicious(self) -> bool:
        """Whether fresh sessions are needed."""
        if self.now is None or len(self.baseline) < FEWEST_NIGHTS or self.metric.kind == "loss":
            return False
        return self._above(self.now) or self._above(self.now, better=True)

    def needs_seeds(self) -> bool:
        """Whether only other seeds can tell if the loss is right, and none are known."""
        if self.now is None or len(self.losses) < FEWEST_NIGHTS:
            return False
        loss = self._loss(self.now)
        return loss.needs_seeds() and not loss.seeds

    def finding(self, moved: float | None) -> Finding:
        """The verdict, before the control of false discoveries."""
        if self.now is None:
            return self._say(Verdict.NOT_MEASURED, self._failure())
        known = len(self.losses if self.metric.kind == "loss" else self.baseline)
        if known < FEWEST_NIGHTS:
            needed = FEWEST_NIGHTS - known
            return self._say(
                Verdict.INSUFFICIENT,
                f"the baseline has {known} of {FEWEST_NIGHTS} nights; run {needed} more",
            )
        if self.metric.kind == "loss":
            verdict, why, evidence = self._loss(self.now).told()
            wrong = verdict in (Verdict.CONFIRMED, Verdict.IMPROVED)
            return self._say(verdict, why, since=self._since() if wrong else None, **evidence)
        if moved is not None and self.metric.kind == "time" and (self.suspicious() or self._moved_with(moved)):
            return self._machine(moved)
        if not self.suspicious():
            return self._say(Verdict.PASS, "it lies where the baseline's nights lie")
        better = not self._above(self.now)
        fresh = [value for s in self.tonight.sessions if s.purpose == CONFIRM and (value := self._value(s)) is not None]
        if len(fresh) < 4:
            return self._say(Verdict.SUSPECT, "it lies outside the baseline's nights, and nothing was measured again")
        sign = -1.0 if better else 1.0
        found = confirm([sign * value for value in self.baseline], [sign * value for value in fresh])
        return self._confirmed(found, better, trimmed_mean(fresh))

    def _moved_with(self, moved: float) -> bool:
        """Whether the time itself, whose share of the canary's change is not taken off, lies outside the baseline's."""
        assert self.measured is not None
        sign = math.copysign(1.0, moved)
        return screen([sign * value for value in self.uncontrolled], sign * self.measured)

    def _machine(self, moved: float) -> Finding:
        """A night in which the canary moved is no place to judge a time."""
        assert self.measured is not None
        change = self.measured - trimmed_mean(self.uncontrolled)
        word = "slower" if moved > 0 else "faster"
        why = f"the canary, a plain matrix product and copy, is {abs(moved):.1%} {word}: the machine changed"
        found = self._say(Verdict.ENV_CHANGE, why, effect=math.expm1(change))
        return replace(found, value=self._shown(self.measured))

    def _confirmed(self, found: Confirmed, better: bool, now: float) -> Finding:
        floor = self.suite.floor(self.metric.name)
        if self.metric.kind == "time":
            floor = max(floor, SMALLEST_EFFECT)
        enough = found.effect > floor and self._enough_bytes(now)
        evidence = {"effect": found.effect * (-1 if better else 1), "p": found.p, "smallest": found.smallest}
        if found.p >= LEVEL or not enough:
            why = "the night lay outside the baseline's, but fresh sessions do not confirm it"
            return self._say(Verdict.PASS if better else Verdict.SUSPECT, why, **evidence)
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

    def _loss(self, now: float) -> Losses:
        known = Losses(now=now, versions=self.versions, nights=self.losses)
        if not known.needs_seeds():
            return known
        measured = seed_values(self.tonight.sessions, self.plan, self.metric)
        return replace(known, seeds=measured or self.past.seeds(self.suite, self.plan, self.metric, self.versions))

    def _since(self) -> str | None:
        """The night in which the change seems to have begun, among all since the last acknowledgement."""
        whole = self.past.series(self.suite, self.plan, self.metric, self.entries, None)
        values = [self._controlled(value, canary) for value, canary in zip(whole.values, whole.canary, strict=True)]
        sessions = [session for session in self.tonight.sessions if session.purpose != SEEDS]
        tonight = [value for session in sessions if (value := self._value(session)) is not None]
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
        return None if value is None else self._controlled(value, canary_of([session]))

    def _controlled(self, value: float, canary: float | None) -> float:
        return value if canary is None else value - self.slope * (canary - self.canary_middle)

    def _failure(self) -> str:
        screening = self.tonight.screened()
        if screening is not None and screening.failures.get(self.plan):
            return screening.failures[self.plan][0]
        if screening is None or not screening.trials.get(self.plan):
            return "it was not launched before the night's deadline"
        return f"this machine does not tell {self.metric.name}, or no launch came so far"

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
