"""What a sweep expects of its plans: a closed form, and what finished trials say that it is wrong by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from harness.errors import InputError
from harness.predict.devices import Device
from harness.predict.memory import MemoryUse, peak_memory
from harness.predict.overtakings import Overtaking, overtakings
from harness.predict.setup import Setup
from harness.predict.shape import Shape
from harness.predict.time import step_time
from harness.search.residual import Corrected, Residual
from harness.search.spaces import Point
from harness.sweeps.config import OBJECTIVES
from harness.workloads.workload import Workload
from strategies.facts import Facts

LAUNCHED_ANYWAY = 20
"""Of so many plans that are predicted not to fit one is launched, to know how often that is wrong."""
SURELY_NOT = 1.645
"""Standard deviations that a predicted peak lies above the limit if its plan surely does not fit: wrong once in 20."""
SURELY = 2.33
"""Likewise below the limit if it surely fits: wrong once in a hundred."""
UNTAUGHT = 4.0
"""How many times as much as its tensors a process may hold, as long as no trial says how much it does."""
CLEARLY = 2.0
"""A plan whose closed form is so many times below the limit, by the worst error seen, is not looked at closer."""
LEARNT_FROM = 200
"""Latest trials that predictions are corrected by."""


@dataclass(frozen=True)
class Forecast:
    """What is expected of one plan."""

    step_time_s: float
    peak_memory_bytes: float
    """Tensors of the worst rank; trials correct it towards what is measured."""
    memory: MemoryUse
    """Its parts by the closed form, not corrected."""
    memory_between: tuple[float, float] = (0.0, math.inf)
    """Bytes between which the peak surely lies."""

    def fits(self, limit_bytes: float) -> bool | None:
        """Whether the plan fits; None if only a launch tells."""
        return fits(self.memory_between, limit_bytes)


def between(peak_bytes: float, deviation: float, *, taught: bool = True) -> tuple[float, float]:
    """Bytes between which a peak surely lies.

    Args:
        peak_bytes: predicted.
        deviation: how far it may be off, the standard deviation of its logarithm.
        taught: whether trials corrected it.
    """
    most = math.exp(SURELY * deviation) if taught else UNTAUGHT
    return peak_bytes * math.exp(-SURELY_NOT * deviation), peak_bytes * most


def fits(surely: tuple[float, float], limit_bytes: float) -> bool | None:
    """Whether a plan fits whose peak surely lies between these bytes; None if only a launch tells."""
    least, most = surely
    if least > limit_bytes:
        return False
    return True if most <= limit_bytes else None


@dataclass(kw_only=True)
class Forecaster:
    """Predicts the points of a sweep. It is a `harness.search.guide.Guide`.

    Args:
        device: what a rank runs on; None if nothing is known of it.
        workloads: global batch size -> (workload, facts).
        objective: what is searched for, one of `harness.sweeps.config.OBJECTIVES`.
        limit_bytes: what a rank may hold; None for no limit.
        compared: whether values of different workloads mean the same.
    """

    device: Device | None
    workloads: Mapping[int, tuple[Workload, Facts]]
    objective: str = "throughput"
    limit_bytes: int | None = None
    compared: bool = True
    _closed: dict[Point, Forecast | None] = field(default_factory=dict)
    _corrected: dict[Point, Forecast] = field(default_factory=dict)
    _seen: list[tuple[Point, Mapping[str, Any]]] = field(default_factory=list)
    _time: Residual = field(default_factory=lambda: Residual([], []))
    _memory: Corrected = field(default_factory=lambda: Corrected([], [], []))
    _fresh: bool = True
    _most: float = 1.0
    """Largest ratio of a measured peak of memory to the closed form."""

    def closed(self, point: Point) -> Forecast | None:
        """The closed form alone; None for a model it says nothing about."""
        if point not in self._closed:
            self._close([point])
        return self._closed[point]

    def prepare(self, points: Sequence[Point]) -> None:
        """Predict these points, all at once: a hundredth of the time that one by one takes."""
        self._close(points)
        self._correct(points)

    def _close(self, points: Sequence[Point]) -> None:
        """The closed form at these points."""
        new = [point for point in dict.fromkeys(points) if point not in self._closed]
        for size in dict.fromkeys(point.global_batch_size for point in new):
            members = [point for point in new if point.global_batch_size == size]
            self._closed.update(zip(members, self._evaluated(size, members), strict=True))

    def _evaluated(self, size: int, points: Sequence[Point]) -> list[Forecast | None]:
        if self.device is None:
            return [None] * len(points)
        workload, facts = self.workloads[size]
        try:
            shape = Shape.of_facts(facts.model, workload.seq_len)
            setup = Setup.stack([Setup.of_plan(point.plan, size) for point in points])
            seconds = np.broadcast_to(step_time(shape, setup, self.device).total, len(points))
            memory = peak_memory(shape, setup, self.device)
        except InputError:  # a model without layers, a strategy of another package
            return [None] * len(points)
        parts = {f.name: np.broadcast_to(getattr(memory, f.name), len(points)) for f in fields(MemoryUse)}
        found: list[Forecast | None] = []
        for at in range(len(points)):
            use = MemoryUse(**{name: float(values[at]) for name, values in parts.items()})
            found.append(Forecast(float(seconds[at]), float(use.allocated), use))
        return found

    def learn(self, point: Point, row: Mapping[str, Any]) -> None:
        """A trial has ended with this row of the store."""
        closed = self.closed(point)
        if row.get("step_time_s") and row.get("peak_memory_bytes") and closed is not None:
            self._most = max(self._most, row["peak_memory_bytes"] / closed.peak_memory_bytes)
            self._seen.append((point, row))
            self._fresh = False

    def forecast(self, point: Point) -> Forecast | None:
        """The closed form, corrected by what trials were measured to be."""
        if self.closed(point) is None:
            return None
        self._correct([point])
        return self._corrected[point]

    def _correct(self, points: Sequence[Point]) -> None:
        """The same, corrected by what trials were measured to be so far."""
        self._refresh()
        known = {point: self._closed[point] for point in points if point not in self._corrected}
        found = {point: closed for point, closed in known.items() if closed is not None}
        if not found:
            return
        plans = [point.plan for point in found]
        memories, deviations = self._memory.at(plans, [closed.peak_memory_bytes for closed in found.values()])
        times = self._time.at(plans)[0]
        for (point, closed), seconds, memory, deviation in zip(found.items(), times, memories, deviations, strict=True):
            self._corrected[point] = replace(
                closed,
                step_time_s=closed.step_time_s * math.exp(seconds),
                peak_memory_bytes=float(memory),
                memory_between=between(float(memory), float(deviation), taught=bool(self._seen)),
            )

    def columns(self, point: Point) -> dict[str, Any]:
        """The predicted columns of a trial's row."""
        found = self.forecast(point)
        if found is None:
            return {}
        return {
            "predicted_step_time_s": found.step_time_s,
            "predicted_peak_memory_bytes": round(found.peak_memory_bytes),
            **{f"predicted_memory_{name}_bytes": round(float(size)) for name, size in _parts(found.memory).items()},
        }

    def left_out(self) -> dict[str, int]:
        """How many plans were looked at, and how many of them are predicted not to fit and left out."""
        points = [point for point, closed in self._closed.items() if closed is not None]
        self._correct(points)
        return {"looked_at": len(points), "left_out": sum(self.why_not(point) is not None for point in points)}

    def overtakings(self, size: int) -> list[Overtaking]:
        """At which interconnect another strategy would be the fastest, among the plans that were looked at."""
        points = [p for p, closed in self._closed.items() if closed is not None and p.global_batch_size == size]
        if self.device is None or not points:
            return []
        self._refresh()
        workload, facts = self.workloads[size]
        plans = [point.plan for point in points]
        correction = np.exp(self._time.at(plans)[0])
        return overtakings(Shape.of_facts(facts.model, workload.seq_len), plans, size, self.device, correction)

    # -- the guide

    def values(self, point: Point) -> tuple[float, ...] | None:
        """The objective's values by the closed form; the sampler itself learns what it is wrong by."""
        found = self.closed(point) if self.compared else None
        if found is None:
            return None
        workload, _ = self.workloads[point.global_batch_size]
        by_column = {
            "tokens_per_s": workload.tokens_per_step / found.step_time_s,
            "peak_memory_bytes": found.peak_memory_bytes,
            "time_to_loss_s": found.step_time_s,
        }
        return tuple(by_column[column] for column, _ in OBJECTIVES[self.objective])

    def why_not(self, point: Point) -> str | None:
        """Whether the plan surely does not fit, as predicted; one of twenty such plans is launched anyway."""
        if self.limit_bytes is None or int(point.plan.plan_id, 16) % LAUNCHED_ANYWAY == 0:
            return None
        closed = self.closed(point)
        if closed is None or closed.peak_memory_bytes * self._most * CLEARLY <= self.limit_bytes:
            return None
        found = self.forecast(point)
        if found is None or found.fits(self.limit_bytes) is not False:
            return None
        need, limit = found.peak_memory_bytes / 2**20, self.limit_bytes / 2**20
        return f"it is predicted to need {need:,.0f} MiB on the worst rank, but a rank may hold {limit:,.0f} MiB"

    def _refresh(self) -> None:
        if self._fresh:
            return
        self._fresh = True
        self._corrected.clear()
        seen = [(point, row, closed) for point, row in self._seen[-LEARNT_FROM:] if (closed := self.closed(point))]
        plans = [point.plan for point, _, _ in seen]
        errors = [math.log(float(row["step_time_s"]) / closed.step_time_s) for _, row, closed in seen]
        self._time = Residual(plans, errors)
        predicted = [closed.peak_memory_bytes for _, _, closed in seen]
        self._memory = Corrected(plans, predicted, [float(row["peak_memory_bytes"]) for _, row, _ in seen])


def _parts(memory: MemoryUse) -> dict[str, float]:
    """Categories of memory as trials record them; logits are activations there."""
    return {
        "params": memory.params,
        "grads": memory.grads,
        "optimizer": memory.optimizer,
        "buffers": memory.buffers,
        "activations": memory.activations + memory.logits,
    }
