"""What the pages of nightly runs show, as whoever judged the nights hands it over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

URGENT = ("CONFIRMED", "ENV_CHANGE", "NOT_MEASURED", "SUSPECT", "IMPROVED", "INSUFFICIENT", "PASS")
"""Verdicts, the most urgent first."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A verdict on a metric of a plan, with what it rests on; values in the metric's unit."""

    plan: str
    metric: str
    verdict: str
    why: str
    value: float | None
    baseline: float | None
    low: float | None
    high: float | None
    nights: int
    effect: float | None
    smallest: float | None
    since: str | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One night of a series."""

    night: str
    value: float
    launches: tuple[float, ...]
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """An acknowledged change."""

    plan: str
    metric: str
    night: str
    because: str


@dataclass(frozen=True, kw_only=True)
class NightlyView:
    """One night, and the nights before it."""

    suite: str
    hardware_id: str
    night: str
    headline: str
    judged: tuple[Judged, ...]
    """The most urgent first."""
    series: Mapping[tuple[str, str], tuple[Point, ...]]
    """(plan, metric) -> nights, oldest first, tonight at the end."""
    said: Mapping[tuple[str, str, str], str]
    """(plan, metric, night) -> verdict, of nights that could not be measured too."""
    accepted: tuple[Accepted, ...]
    changed: tuple[tuple[str, str, str], ...]
    """(what, before, now)."""
    commands: tuple[tuple[str, str], ...]
    """(title, command)."""
    problems: tuple[str, ...] = ()

    @cached_property
    def nights(self) -> tuple[str, ...]:
        """Every night that any series has or of which anything was said, oldest first."""
        measured = {point.night for points in self.series.values() for point in points}
        return tuple(sorted(measured | {night for _, _, night in self.said}))


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One night in the index."""

    suite: str
    hardware_id: str
    night: str
    headline: str
    worst: str
    """The most urgent verdict."""
    page: str | None
    """Address of its page, relative to the index; None if it is not kept."""


def date(night: str) -> str:
    """When a night began, for people: "2026-11-24 01:00" (UTC)."""
    stamp = night.partition("-")[0]
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]}"


def labels(nights: Sequence[str]) -> dict[str, str]:
    """Night -> its label on an axis: the day, and the time where a day has several nights."""
    days = [date(night)[:10] for night in nights]
    alone = len(set(days)) == len(set(nights))
    return {night: day if alone else date(night) for night, day in zip(nights, days, strict=True)}
