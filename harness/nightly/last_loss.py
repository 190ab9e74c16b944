"""The last loss has a rule of its own: whether a plan still trains what it trained.

An identical plan trains identically under identical versions, but for rounding: tonight's loss must lie among the
nights of tonight's versions as near as they lie among themselves. Where versions differ from all those nights', a loss
may differ and be right, as that of another seed would. Then five other seeds are measured under tonight's versions, and
the difference d between tonight's loss and that of the nights before is taken for that of two seeds: two draws of one
normal population, whose standard deviation s the n seeds tell, independent of both. So d / (s sqrt(2)) follows
Student's t with n - 1 degrees of freedom, and beyond its two-sided 99 % it is another training. For five seeds that is
6.5 s.

A seed draws weights and data alike, so this band is the metric's whole noise, and wider than what rounding does in a
few steps: early in training nothing but a gross change is outside. It is asked for only in the first night of new
versions: afterwards there are nights of the same versions. How a plan's first steps differ from one process in fp32,
every launch finds out for itself.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import scipy.stats

from harness.nightly.findings import Verdict
from harness.nightly.series import NOTHING

VERSIONS = ("torch", "torchao", "numpy", "python", "harness", "driver")
"""Parts of a night's environment, beside the C library, that may change rounding or the data. The kernel, the governor
and Optuna compute nothing; python is among them because its library is the default text. The commit of the user's
project is not: a loss that it changes is what a night is for."""
FEWEST_SEEDS = 5
"""Seeds beside the workload's own that make a band."""
SHARE = 0.99
"""Of differences between two seeds that lie within the band."""
ROUNDING = 1e-6
"""A relative difference that is never another training."""

Versions = tuple[tuple[str, str], ...]


def versions(environment: Mapping[str, str]) -> Versions:
    """The part of an environment under which an identical plan must train identically."""
    library = environment.get("platform", "").rpartition("-with-")[2]
    return (*((name, environment.get(name, "-")) for name in VERSIONS), ("C library", library))


@dataclass(frozen=True)
class Known:
    """The last loss of one night."""

    value: float
    """Its logarithm."""
    versions: Versions


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Tonight's last loss, and what it may be compared with."""

    now: float
    """Its logarithm."""
    versions: Versions
    """Tonight's."""
    nights: Sequence[Known]
    """Nights in which nothing was wrong; at least one."""
    seeds: Sequence[float] = ()
    """Logarithms of the last losses of other seeds under tonight's versions."""

    def needs_seeds(self) -> bool:
        """Whether only other seeds can tell."""
        return not self._identical() and bool(self._differing())

    def told(self) -> tuple[Verdict, str, dict[str, Any]]:
        """(verdict, one sentence, fields of a finding); loss above is worse."""
        effect = self.now - self._middle
        evidence: dict[str, Any] = {"effect": math.expm1(effect)}
        if self._identical():
            return Verdict.PASS, "the last loss is the baseline's", evidence
        difference = f"{abs(evidence['effect']):.2g} (relative) {'above' if effect > 0 else 'below'}"
        worse = Verdict.CONFIRMED if effect > 0 else Verdict.IMPROVED
        differing = self._differing()
        if not differing:
            why = f"the last loss is {difference} that of nights with the same versions, which varies by"
            return worse, f"{why} {self._spread:.1g}", {**evidence, "p": 0.0}
        side = "above" if effect > 0 else "below"
        said = (
            f"versions differ from the baseline's ({', '.join(differing)}); "
            f"the last loss is {abs(evidence['effect']):.2%} {side} the baseline's"
        )
        if len(self.seeds) < FEWEST_SEEDS:
            why = f"{said}, and {len(self.seeds)} of {FEWEST_SEEDS} other seeds were measured, too few for a band"
            return Verdict.SUSPECT, why, evidence
        found = band(self.seeds)
        evidence |= {"p": found.p(effect), "smallest": math.expm1(found.smallest)}
        inside = abs(effect) <= found.width
        where = f"{'within' if inside else 'outside'} the band of {len(self.seeds)} other seeds"
        why = f"{said}, {where} ({math.expm1(found.width):.1%})"
        return Verdict.PASS if inside else worse, why, evidence

    @cached_property
    def _groups(self) -> dict[Versions, list[float]]:
        groups: dict[Versions, list[float]] = {}
        for night in self.nights:
            groups.setdefault(night.versions, []).append(night.value)
        return groups

    @cached_property
    def _middle(self) -> float:
        """Of the nights with tonight's versions; of all, where there are none."""
        return statistics.median(self._groups.get(self.versions) or [night.value for night in self.nights])

    @cached_property
    def _spread(self) -> float:
        """How far a night lay from the middle of its own versions' nights, at most."""
        middles = {group: statistics.median(values) for group, values in self._groups.items()}
        return max(abs(night.value - middles[night.versions]) for night in self.nights)

    def _identical(self) -> bool:
        return abs(self.now - self._middle) <= 3 * self._spread + ROUNDING

    def _differing(self) -> list[str]:
        """What is new since the baseline; nothing where some night had tonight's versions."""
        if self.versions in self._groups:
            return []
        before = dict(self.nights[-1].versions)
        return [f"{name} {before.get(name, '-')} -> {now}" for name, now in self.versions if before.get(name) != now]


@dataclass(frozen=True)
class Band:
    """How far two seeds lie apart."""

    deviation: float
    """Standard deviation of the difference of two seeds."""
    freedom: int
    """Degrees of freedom with which it is known."""

    @property
    def width(self) -> float:
        """What SHARE of differences stay below."""
        return float(scipy.stats.t.ppf((1 + SHARE) / 2, self.freedom)) * self.deviation + ROUNDING

    @property
    def smallest(self) -> float:
        """The difference that would lie outside with a probability of 80 %."""
        return self.width + float(scipy.stats.t.ppf(0.8, self.freedom)) * self.deviation

    def p(self, difference: float) -> float:
        """Two-sided: the probability of two seeds that lie so far apart."""
        return 2 * float(scipy.stats.t.sf(abs(difference) / max(self.deviation, NOTHING), self.freedom))


def band(seeds: Sequence[float]) -> Band:
    """The band that seeds tell; at least two values, logarithms."""
    return Band(statistics.stdev(seeds) * math.sqrt(2), len(seeds) - 1)
