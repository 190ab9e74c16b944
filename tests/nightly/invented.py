"""Nights with invented numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from harness.nightly.history import CONFIRM, SCREEN, Night, Session
from harness.nightly.suite import Suite

HARDWARE = "synthetic-2c-000000"
SUITE = Suite(
    name="team",
    plans={"ddp": {"data_parallel": "ddp"}, "zero2": {"data_parallel": "zero2"}},
    metrics=("step_time_s",),
    sessions=12,
)


def stamp(number: int) -> str:
    """Night names that sort in time."""
    return f"2026{1 + number // 28:02}{1 + number % 28:02}T010000Z-0000"


def session(values: dict[str, dict[str, Sequence[float]]], purpose: str = SCREEN, canary: float = 0.01) -> Session:
    return Session(
        purpose=purpose,
        canary={"product_s": canary, "copy_s": canary},
        values={plan: {metric: list(found) for metric, found in metrics.items()} for plan, metrics in values.items()},
        trials={plan: ["t"] * 3 for plan in values},
    )


def night(number: int, sessions: list[Session], suite: Suite = SUITE, **fields: Any) -> Night:
    values: dict[str, Any] = {
        "night": stamp(number),
        "suite": suite.name,
        "version": suite.version,
        "hardware_id": HARDWARE,
        "identities": {name: suite.identity(name) for name in suite.plans},
        "environment": {"torch": "2.13"},
        "sessions": sessions,
        "complete": True,
    }
    return Night(**{**values, **fields})


class World:
    """A machine whose plans take a second, but for noise and what a test plants."""

    def __init__(self, seed: int = 0, noise: float = 0.02, suite: Suite = SUITE) -> None:
        self.rng, self.noise, self.suite = random.Random(seed), noise, suite
        self.slower = dict.fromkeys(suite.plans, 1.0)
        self.machine = 1.0
        self.measured: list[list[str]] = []

    def value(self, plan: str) -> float:
        return self.slower[plan] * self.machine * self.rng.lognormvariate(0, self.noise)

    def session(self, purpose: str = SCREEN, plans: Sequence[str] | None = None) -> Session:
        names = self.suite.plans if plans is None else plans
        values = {plan: {"step_time_s": [self.value(plan)] * 3} for plan in names}
        return session(values, purpose, 0.01 * self.machine * self.rng.lognormvariate(0, 0.003))

    def measure(self, suspects: Sequence[str]) -> list[Session]:
        self.measured.append(list(suspects))
        return [self.session(CONFIRM, suspects) for _ in range(self.suite.sessions)]

    def past(self, count: int) -> list[Night]:
        return [night(number, [self.session()], self.suite) for number in range(count)]

    def tonight(self, number: int) -> Night:
        return night(number, [self.session()], self.suite)
