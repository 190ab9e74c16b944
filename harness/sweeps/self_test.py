"""The self-test: small launches that show whether this machine trains and measures, each kind of thing once.

It uses no results of the user's and leaves none. Each check says what it saw in a few words, so that its table can go
into a report about a fault.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import strategies
from harness import launchers
from harness.errors import MeasurementError
from harness.launchers.job import Job
from harness.launchers.launcher import Launcher, Ranks
from harness.machine import nvml
from harness.plan import Plan
from harness.rank import PRELOAD
from harness.search.feasible import why_not
from harness.store.records import Outcome
from harness.store.store import Store
from harness.sweeps.config import SweepConfig
from harness.sweeps.experiment import Experiment, prepare
from harness.sweeps.references import REFERENCE_STEPS
from harness.sweeps.runners import make_runner
from harness.trial.runner import Runner
from harness.workloads.workload import Workload
from strategies.knob import Setting

WORKLOAD = "gpt:blocks=2,width=64,heads=4"
SECONDS = 110.0
"""After so long no more checks begin, in s."""
MEMORY_LIMIT = 1 << 20
"""Bytes that no training fits in."""
DRAWN_AT_MOST = 1.3
"""Power that a device may draw over its limit for a moment."""


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"
    ABSENT = "absent"
    """This machine has nothing to try it with."""
    UNTRIED = "untried"
    """No time was left."""


@dataclass(frozen=True)
class Seen:
    """What came of a check."""

    state: State
    found: str
    """In a few words."""


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    check: str
    state: State
    found: str
    seconds: float


@dataclass
class Bench:
    """What the checks launch with."""

    experiment: Experiment
    runner: Runner
    workload: Workload
    nvml: Any = None
    """A module with pynvml's functions; None takes the installed one."""

    def plan(self, settings: Mapping[str, Setting]) -> Plan:
        """A plan on as many ranks as its degrees say."""
        return self.experiment.plan({"dp": 1, "micro_batch_size": 2, **settings})

    def refusal(self, plan: Plan) -> str | None:
        """Why a plan cannot run here, or None."""
        have = self.experiment.world_size
        if plan.world_size > have:
            return f"needs {plan.world_size} ranks, here {have}"
        facts = self.experiment.facts(self.workload, plan.world_size)
        return why_not(plan, facts, strategies.registry().values())

    def run(self, plan: Plan, **changes: Any) -> dict[str, Any]:
        """The row of a trial; `changes` are fields of the runner."""
        facts = self.experiment.facts(self.workload, plan.world_size)
        return replace(self.runner, **changes).run(plan, self.workload, facts).row


def checks() -> dict[str, Callable[[Bench], Seen]]:
    """Name -> what is tried, in the order in which they run."""
    return {
        **{name: trains(settings) for name, settings in PLANS.items()},
        "memory limit": memory_limit,
        "killed rank": killed_rank,
        "profile": profile,
        "energy": energy,
        "canary": canary,
        **{name: trains(settings) for name, settings in QUANTISED.items()},
    }


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """Everything that the checks need, with results in a folder that is gone afterwards.

    Raises:
        MeasurementError: one process cannot train in fp32 here, so nothing can be compared with it.
    """
    with tempfile.TemporaryDirectory() as temporary, nvml.session(), launchers.create("local", PRELOAD) as launcher:
        folder = Path(temporary)
        config = SweepConfig(
            workload=WORKLOAD, seq_len=32, measure="0.3s", results=folder / "results", reports=folder / "reports"
        )
        experiment = prepare(config)
        workload = next(iter(experiment.workloads.values()))
        workload.prepare()
        launcher.warm_up()
        runner = make_runner(experiment, launcher, Store(config.results), "self-test")
        made = Bench(experiment, runner, workload)
        alone = experiment.reference_plan(workload)
        runner.reference(alone, workload, experiment.facts(workload, 1), REFERENCE_STEPS)
        yield made


def examine(made: Bench, seconds: float = SECONDS) -> Iterator[Line]:
    """Run the checks one after the other.

    Args:
        made: what they launch with.
        seconds: after which the rest is not tried.
    """
    end = time.monotonic() + seconds
    for name, check in checks().items():
        begin = time.monotonic()
        if begin > end:
            yield Line(name, State.UNTRIED, f"{seconds:.0f} s were over", 0.0)
            continue
        try:
            seen = check(made)
        except MeasurementError as error:
            seen = Seen(State.FAILED, str(error))
        yield Line(name, seen.state, seen.found, time.monotonic() - begin)


def trains(settings: Mapping[str, Setting]) -> Callable[[Bench], Seen]:
    """A check that a plan trains, follows one process in fp32, and says what it took."""

    def check(made: Bench) -> Seen:
        plan = made.plan(settings)
        reason = made.refusal(plan)
        return Seen(State.ABSENT, reason) if reason else judge_trial(made.run(plan))

    return check


def judge_trial(row: Mapping[str, Any]) -> Seen:
    """Whether a trial is sound, and its numbers can be true."""
    if row["outcome"] != Outcome.OK:
        return Seen(State.FAILED, f"{row['outcome']}: {row['outcome_reason']}")
    if row["numerics"] != "pass":
        return Seen(State.FAILED, f"its losses are not those of one process ({row['numerics']})")
    peak, weights = row["peak_memory_bytes"], row["memory_params_bytes"]
    if peak is None or weights is None or not peak > weights > 0:
        return Seen(State.FAILED, f"it held {peak} B at its peak, and weights of {weights} B")
    if row["peak_reserved_bytes"] is not None and row["peak_reserved_bytes"] < peak:
        return Seen(State.FAILED, f"its allocator had {row['peak_reserved_bytes']} B, and tensors of {peak} B in them")
    if not 0 < row["step_time_s"] <= row["measure_s"]:
        return Seen(State.FAILED, f"a step took {row['step_time_s']} s in a window of {row['measure_s']} s")
    return Seen(State.OK, f"{1e3 * row['step_time_s']:.2f} ms a step, {peak / 1e6:.1f} MB")


def memory_limit(made: Bench) -> Seen:
    """A rank that needs more than it may have ends with the outcome that says so."""
    wanted = Outcome.OOM_HOST if made.experiment.hardware.device_type == "cpu" else Outcome.OOM_DEVICE
    row = made.run(made.plan({}), memory_limit=MEMORY_LIMIT)
    state = State.OK if row["outcome"] == wanted else State.FAILED
    return Seen(state, f"{row['outcome']}: {row['outcome_reason']}")


class KillsOne(Launcher):
    """Another launcher, whose trials lose their last rank when the second step is over."""

    def __init__(self, inner: Launcher) -> None:
        super().__init__(inner.preload)
        self.inner = inner
        self.ranks: Ranks | None = None

    def start(self, job: Job, target: Callable[[Any, int], None]) -> Ranks:
        self.ranks = self.inner.start(job, target)
        return self.ranks

    def on_step(self, step: int) -> None:
        """Kill after the second step; for `Runner.on_step`."""
        pids = {} if self.ranks is None else self.ranks.pids()
        if step >= 1 and pids:
            os.kill(pids[max(pids)], signal.SIGKILL)
            self.ranks = None

    def warm_up(self) -> None:
        self.inner.warm_up()

    def close(self) -> None:
        """The other one goes on."""


def killed_rank(made: Bench) -> Seen:
    """A rank that is killed costs its own trial only, and the next one finds the devices free."""
    killer = KillsOne(made.runner.launcher)
    plan = made.plan({"data_parallel": "ddp", "dp": 2} if made.experiment.world_size > 1 else {})
    row = made.run(plan, launcher=killer, on_step=killer.on_step)
    if row["outcome"] != Outcome.CRASH or "SIGKILL" not in str(row["outcome_reason"]):
        return Seen(State.FAILED, f"after a SIGKILL {row['outcome']}: {row['outcome_reason']}")
    after = _memory(made)
    return after if after.state is State.FAILED else Seen(State.OK, f"{row['outcome_reason']}; then {after.found}")


def _memory(made: Bench) -> Seen:
    if made.experiment.hardware.device_type == "cpu":
        after = judge_trial(made.run(made.plan({})))
        return after if after.state is State.FAILED else Seen(State.OK, "the next trial is sound")
    from harness.rank import whole_memory  # imports torch

    alone = made.plan({})
    found = made.runner.apart(
        alone, made.workload, made.experiment.facts(made.workload, 1), whole_memory.main, whole_memory.FILE
    )
    if found is None:
        return Seen(State.FAILED, f"{whole_memory.SHARE:.0%} of a device could not be filled")
    return Seen(State.OK, f"{found['bytes'] / 1e9:.1f} GB of each device filled")


def profile(made: Bench) -> Seen:
    """Profiled FSDP2 says how long its communication takes, and how long it takes alone."""
    plan = made.plan({"data_parallel": "zero3", "dp": 2})
    reason = made.refusal(plan)
    if reason:
        return Seen(State.ABSENT, reason)
    columns, _ = made.runner.profile(plan, made.workload, made.experiment.facts(made.workload, 2))
    spent, exposed = columns.get("comm_s"), columns.get("comm_exposed_s")
    if spent is None or exposed is None:
        return Seen(State.FAILED, "the profiler saw no communication: no rights to performance counters?")
    sound = 0 <= exposed <= spent and spent > 0
    return Seen(
        State.OK if sound else State.FAILED, f"{1e3 * spent:.2f} ms of communication, {1e3 * exposed:.2f} ms alone"
    )


def energy(made: Bench) -> Seen:
    """The energy of a measured window is part of what the devices' own counters say of the whole trial."""
    devices = made.experiment.hardware.devices
    with nvml.session(made.nvml) as module:
        handles = (
            [nvml.of_uuid(module, device.uuid, index) for index, device in enumerate(devices)]
            if module is not None
            else []
        )
        before = [nvml.energy_j(module, handle) for handle in handles]
        if not before or None in before:
            return Seen(State.ABSENT, "no device with an energy counter")
        row = made.run(made.plan({}))
        whole = [float(nvml.energy_j(module, h) or 0.0) - float(b or 0.0) for h, b in zip(handles, before, strict=True)]
    return judge_energy(row, whole[0], devices[0].power_limit_w)


def judge_energy(row: Mapping[str, Any], whole_j: float, limit_w: float | None) -> Seen:
    """Whether the energy of a window can be true beside that of the trial around it.

    Args:
        row: the trial.
        whole_j: what the counter of its device grew by from before its launch to after its end, in J.
        limit_w: the device's power limit, in W.
    """
    window_j = row["energy_j"]
    if row["outcome"] != Outcome.OK or window_j is None:
        return Seen(State.FAILED, f"no energy is recorded; the trial ended with {row['outcome']}")
    most = whole_j if limit_w is None else min(whole_j, DRAWN_AT_MOST * limit_w * row["measure_s"])
    sound = 0 < window_j <= most
    return Seen(State.OK if sound else State.FAILED, f"{window_j:.1f} J of {whole_j:.1f} J from launch to end")


def canary(made: Bench) -> Seen:
    """The plain program, on every device."""
    from harness.rank import canary as program  # imports torch

    facts = made.experiment.facts(made.workload, 1)
    return judge_canary(made.runner.apart(made.plan({}), made.workload, facts, program.main, program.FILE))


def judge_canary(found: Mapping[str, float] | None) -> Seen:
    """Whether its times can be true."""
    if found is None:
        return Seen(State.FAILED, "it did not end")
    told = ", ".join(f"{name.removesuffix('_s')} {1e3 * seconds:.2f} ms" for name, seconds in found.items())
    return Seen(State.OK if found and min(found.values()) > 0 else State.FAILED, told)


PLANS: dict[str, dict[str, Setting]] = {
    "one process": {},
    **{kind: {"data_parallel": kind, "dp": 2} for kind in ("ddp", "zero1", "zero2", "zero3")},
    "tensor parallel": {"tp": 2},
    "pipeline parallel": {"pp": 2, "pp_schedule": "1f1b"},
    **{kind: {"precision": kind} for kind in ("tf32", "bf16_autocast", "bf16_params", "bf16", "fp16")},
    "checkpointing": {"activation_checkpoint": "selective"},
}
QUANTISED: dict[str, dict[str, Setting]] = {kind: {"quantization": kind} for kind in ("adamw8bit", "float8", "int8")}
"""Last, because they compile where they can."""
