"""What is said of a metric of a plan in one night."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


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
