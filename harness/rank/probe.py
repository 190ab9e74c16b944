"""Short trainings of a shallow model, one plan after the other in the same processes: what plans are made of.

Each is one micro-batch and one update with the strategies' own code. All ranks run them at once, also those of plans
for one rank: on a CPU they share its cores. A choice that is far behind the usual way is not looked at more closely: it
can win with no other choice beside it. What disturbs the machine for a second only adds: so what looks far behind, but
not further than a disturbance explains, is measured again, and the least counts.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch.distributed as dist

from harness.launchers.job import Job
from harness.plan import COMPUTES, Plan
from harness.rank.main import build
from harness.rank.stopwatch import Stopwatch
from harness.workloads.workload import Workload
from strategies.facts import Facts

DEPTH = 2
"""Blocks of the model."""
CLOSE, BEHIND, SURELY = 1.2, 1.5, 3.0
"""A choice whose training takes so many times as long as the usual one: at most, to be looked at with other numbers of
samples too; at least, to be far behind; and to be so without a second look."""
AGAIN_S = 5.0
"""No plan is measured again to be surer of it after so many seconds."""
COMPARED = 2
"""Of the plans the first so many are measured more often: what all others take is seen as a multiple of theirs."""
REPEATS = (3, 8)
"""Most steps that are timed each time, after one or two that are not: of one rank, of several."""
ENOUGH_S = (0.05, 0.15)
"""Seconds of timed steps after which no more are, likewise: what ranks send takes more in one step than another."""


def run(
    job: Job,
    plans: Sequence[Plan],
    watch: Stopwatch,
    seconds: float,
    tell: Callable[[dict[str, Any]], None],
) -> None:
    """Measure plans until the time is over.

    Args:
        job: whose workload is trained, with `DEPTH` blocks.
        plans: of one rank, or of all, each of them different; what matters most comes first, the usual way at first.
        watch: of this rank.
        seconds: no plan is begun for the first time after so many.
        tell: given all that is known whenever there is more, so that what is still to come cannot take it away.
            `probes`: of each plan its settings, the seconds of a pass and of an update; `probed_shape`: the model's
            dimensions. Not called if the model has no blocks to take away.
    """
    model = job.facts.model
    if not hasattr(job.workload, "blocks") or not (model.width and model.heads) or len(model.blocks) < DEPTH:
        return
    gc.collect()
    gc.freeze()  # what was imported stays: looking through it again after each plan would take most of the time
    probes = _Probes(job, replace(job.workload, blocks=DEPTH), watch, plans[0])  # type: ignore[call-arg]
    begin = time.perf_counter()
    half = len(plans) // 2
    for plan in (*plans[:COMPARED], *plans[:half], *plans[:COMPARED], *plans[half:], *plans):
        again = plan in probes.rows
        if not watch.agreed(int(time.perf_counter() - begin < (AGAIN_S if again else seconds))):
            if again:
                continue
            break
        probes.look(plan)
        tell(_told(job, probes))


def _told(job: Job, probes: _Probes) -> dict[str, Any]:
    model = job.facts.model
    return {
        "probes": [{"plan": dict(plan), **row} for plan, row in probes.rows.items()],
        "probed_shape": {
            "width": model.width,
            "layers": DEPTH,
            "heads": model.heads,
            "kv_heads": model.heads,
            "hidden": model.hidden or 4 * model.width,
            "seq_len": job.facts.seq_len,
            "vocab": model.vocab_size,
            "tied": model.tied,
        },
    }


@dataclass
class _Probes:
    """What was measured so far."""

    job: Job
    shallow: Workload
    watch: Stopwatch
    usual: Plan
    """The usual way, with as many samples as choices are compared at."""
    rows: dict[Plan, dict[str, float]] = field(default_factory=dict)
    """Plan -> seconds of a pass and of an update, the least of each."""
    behind: set[tuple[str, Any]] = field(default_factory=set)
    """Choices (knob, value) that are far behind."""
    apart: set[tuple[str, Any]] = field(default_factory=set)
    """Choices that are not close to the usual way."""

    def look(self, plan: Plan) -> None:
        """Measure a plan, twice if it looks far behind; not at all if one of its choices is known to be."""
        choices = self._choices(plan)
        if choices & self.behind or (self._alone(plan, choices) and choices & self.apart and plan not in self.rows):
            return
        self._measure(plan)
        if not self._alone(plan, choices):
            return
        behind = self._times_the_usual(plan)
        if BEHIND < behind < SURELY:
            self._measure(plan)
            behind = self._times_the_usual(plan)
        if behind > CLOSE:
            self.apart |= choices
        if behind > BEHIND:
            self.behind |= choices

    def _choices(self, plan: Mapping[str, Any]) -> set[tuple[str, Any]]:
        return {(name, plan[name]) for name in COMPUTES if plan[name] != self.usual[name]}

    def _alone(self, plan: Plan, choices: set[tuple[str, Any]]) -> bool:
        """Whether a plan shows one choice and nothing else, and the usual way was measured with as many samples."""
        size = plan["micro_batch_size"]
        return len(choices) == 1 and plan.world_size == 1 and self._usual_row(size) is not None

    def _usual_row(self, size: Any) -> dict[str, float] | None:
        same = (p for p in self.rows if p.world_size == 1 and not self._choices(p) and p["micro_batch_size"] == size)
        return self.rows[found] if (found := next(same, None)) is not None else None

    def _times_the_usual(self, plan: Plan) -> float:
        """The first rank's answer, so that all ranks go on alike."""
        usual = self._usual_row(plan["micro_batch_size"]) or {}
        ratio = sum(self.rows[plan].values()) / max(sum(usual.values()), 1e-9)
        return self.watch.agreed(round(1000 * ratio)) / 1000

    def _measure(self, plan: Plan) -> None:
        samples = int(plan["dp"]) * int(plan["micro_batch_size"])
        facts = replace(
            self.job.facts, model=self.shallow.facts(), world_size=plan.world_size, global_batch_size=samples
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what libraries say of themselves would stand between a sweep's lines
            workload = replace(self.shallow, global_batch_size=samples)
            passes, updates = _timed(workload, plan, facts, self.watch)
        gc.collect()  # hooks and parameters hold each other; the next model needs the memory
        gc.freeze()  # what is left was loaded by the way, and need not be looked through again
        seen = {"pass_s": _low_median(passes), "update_s": _low_median(updates)}
        self.rows[plan] = {name: min(value, self.rows.get(plan, seen)[name]) for name, value in seen.items()}


def _low_median(values: Sequence[float]) -> float:
    """The value in the middle; of an even number the lower of the two, as what disturbs only adds."""
    return sorted(values)[(len(values) - 1) // 2]


def _timed(workload: Workload, plan: Plan, facts: Facts, watch: Stopwatch) -> tuple[list[float], list[float]]:
    """(seconds of each pass, seconds of each update)."""
    training = build(workload, plan, facts, watch.device)
    samples = workload.samples(0, np.array(training.sample_indices))
    batch = {name: tensor.to(watch.device) for name, tensor in samples.items()}
    passes: list[float] = []
    updates: list[float] = []
    several = plan.world_size > 1
    warm = 1 + (plan["data_parallel"] == "ddp")  # which makes its buckets anew in the second step
    most, enough = warm + REPEATS[several], ENOUGH_S[several]
    while watch.agreed(int(len(passes) < most and sum(passes[warm:] + updates[warm:]) < enough)):
        if dist.is_initialized():
            dist.barrier()
        times = [watch.now()]
        training.tally.clear()
        training.forward_backward(batch)
        training.engine.finish_gradients()
        times.append(watch.now())
        training.update()
        times.append(watch.now())
        passes.append(times[1] - times[0])
        updates.append(times[2] - times[1])
    training.engine.drain()
    return passes[warm:], updates[warm:]
