"""The self-test passes a machine that behaves, and fails one that misbehaves in any of the ways it is for."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.launchers.launcher import Launcher
from harness.machine.hardware import Device, Hardware
from harness.sweeps import self_test
from harness.sweeps.config import SweepConfig
from harness.sweeps.experiment import Experiment, prepare
from harness.sweeps.self_test import Bench, State
from tests.machine.fake_nvml import H100, FakeNvml

CARD = Device(
    name="NVIDIA H100 80GB HBM3", memory_bytes=80 << 30, power_limit_w=700.0, compute_capability="9.0", uuid="5c1e0700"
)
TWO_CARDS = Hardware(
    cpu_model="AMD EPYC",
    physical_cores=16,
    usable_cores=16,
    memory_bytes=128 << 30,
    torch_build="2.14.1+cu130",
    accelerator="cuda",
    devices=(CARD, CARD),
)
SOUND = {
    "outcome": "ok",
    "outcome_reason": None,
    "numerics": "pass",
    "peak_memory_bytes": 3_000_000,
    "peak_reserved_bytes": 4_000_000,
    "memory_params_bytes": 400_000,
    "step_time_s": 0.01,
    "measure_s": 0.3,
    "energy_j": 100.0,
}
SHOT = {"outcome": "crash", "outcome_reason": "SIGKILL ended rank 1 in warmup, after step 1"}


class Started:
    """Ranks of which the last is a process that waits to be killed."""

    def __init__(self) -> None:
        self.victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def pids(self) -> dict[int, int]:
        return {0: os.getpid(), 1: self.victim.pid}


class Starts(Launcher):
    """Starts such ranks."""

    started: Started

    def start(self, job: Any, target: Any) -> Any:
        self.started = Started()
        return self.started

    def warm_up(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Machine:
    """In a runner's place: what launches would have come to."""

    launcher: Launcher
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """"trial", "limit" or "killed" -> how its row differs."""
    columns: Mapping[str, Any] = field(default_factory=lambda: {"comm_s": 0.02, "comm_exposed_s": 0.01})
    written: Mapping[str, Any] = field(
        default_factory=lambda: {
            "canary.json": {"product_s": 1e-3, "copy_s": 1e-3},
            "whole_memory.json": {"bytes": 70_000_000_000},
        }
    )
    meter: FakeNvml | None = None
    memory_limit: int | None = None
    on_step: Any = None

    def run(self, *of: Any) -> Any:
        if self.meter is not None:
            for card in self.meter.devices:
                card["nvmlDeviceGetTotalEnergyConsumption"] += 150_000
        if self.memory_limit is not None:
            return SimpleNamespace(row={**SOUND, "outcome": "oom_device", **self.rows.get("limit", {})})
        if self.on_step is not None:
            ranks = self.launcher.start(None, print)  # type: ignore[arg-type]
            for step in range(4):
                self.on_step(step)
            victim = self.launcher.inner.started.victim  # type: ignore[attr-defined]
            assert victim.wait() == -signal.SIGKILL
            assert ranks.pids()[0] == os.getpid()
            victim.stdin.close()
            return SimpleNamespace(row={**SOUND, **SHOT, **self.rows.get("killed", {})})
        return SimpleNamespace(row={**SOUND, **self.rows.get("trial", {})})

    def profile(self, *of: Any) -> tuple[Mapping[str, Any], float]:
        return self.columns, 0.0

    def apart(self, plan: Any, workload: Any, facts: Any, target: Any, file: str) -> Mapping[str, Any] | None:
        return self.written.get(file)


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setattr("harness.machine.hardware.detect", lambda: TWO_CARDS)
    return prepare(
        SweepConfig(workload=self_test.WORKLOAD, seq_len=32, results=tmp_path / "results", reports=tmp_path / "reports")
    )


def on(experiment: Experiment, **changes: Any) -> Bench:
    meter = FakeNvml({**H100, "nvmlDeviceGetTotalEnergyConsumption": 5_000_000}, count=2)
    machine = Machine(Starts(), meter=meter, **changes)
    return Bench(experiment, machine, next(iter(experiment.workloads.values())), meter)  # type: ignore[arg-type]


def test_a_machine_that_behaves_passes_everything(experiment: Experiment) -> None:
    lines = list(self_test.examine(on(experiment)))
    assert {line.check: line.found for line in lines if line.state is not State.OK} == {}
    assert [line.check for line in lines] == list(self_test.checks())


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        ("ddp", {"rows": {"trial": {"outcome": "crash", "outcome_reason": "no NCCL"}}}),
        ("zero3", {"rows": {"trial": {"numerics": "fail"}}}),
        ("tensor parallel", {"rows": {"trial": {"numerics": "skipped"}}}),
        ("one process", {"rows": {"trial": {"peak_memory_bytes": None}}}),
        ("one process", {"rows": {"trial": {"memory_params_bytes": 0}}}),
        ("one process", {"rows": {"trial": {"peak_reserved_bytes": 1}}}),
        ("one process", {"rows": {"trial": {"step_time_s": 0.0}}}),
        ("one process", {"rows": {"trial": {"step_time_s": 5.0}}}),
        ("memory limit", {"rows": {"limit": {"outcome": "crash"}}}),
        ("memory limit", {"rows": {"limit": {"outcome": "ok"}}}),
        ("killed rank", {"rows": {"killed": {"outcome": "hang"}}}),
        ("killed rank", {"rows": {"killed": {"outcome_reason": "rank 1 raised"}}}),
        ("killed rank", {"written": {}}),  # memory of the dead is still held
        ("profile", {"columns": {}}),
        ("profile", {"columns": {"comm_s": 0.0, "comm_exposed_s": 0.0}}),
        ("profile", {"columns": {"comm_s": 0.1, "comm_exposed_s": 0.2}}),
        ("energy", {"rows": {"trial": {"energy_j": None}}}),
        ("energy", {"rows": {"trial": {"energy_j": 0.0}}}),
        ("energy", {"rows": {"trial": {"energy_j": 151.0}}}),  # more than the card used in all
        ("canary", {"written": {}}),
        ("canary", {"written": {"canary.json": {"product_s": 0.0, "copy_s": 1e-3}}}),
        ("float8", {"rows": {"trial": {"numerics": "fail"}}}),
    ],
)
def test_a_machine_that_misbehaves_fails(check: str, wrong: dict[str, Any], experiment: Experiment) -> None:
    seen = self_test.checks()[check](on(experiment, **wrong))
    assert seen.state is State.FAILED
    assert seen.found


def test_energy_beyond_what_a_device_may_draw_fails() -> None:
    assert self_test.judge_energy(SOUND, 150.0, 700.0).state is State.OK
    assert self_test.judge_energy({**SOUND, "energy_j": 280.0}, 1000.0, 700.0).state is State.FAILED  # in 0.3 s
    assert self_test.judge_energy({**SOUND, "energy_j": 280.0}, 1000.0, None).state is State.OK


def test_one_card_tries_what_one_card_can(experiment: Experiment) -> None:
    one = dataclasses.replace(experiment, hardware=dataclasses.replace(TWO_CARDS, devices=(CARD,)), world_size=1)
    lines = {line.check: line for line in self_test.examine(on(one))}
    absent = {name for name, line in lines.items() if line.state is State.ABSENT}
    assert absent == {"ddp", "zero1", "zero2", "zero3", "tensor parallel", "pipeline parallel", "profile"}
    assert lines["ddp"].found == "needs 2 ranks, here 1"


def test_what_there_is_no_time_for_is_said_to_be_untried(experiment: Experiment) -> None:
    lines = list(self_test.examine(on(experiment), seconds=-1.0))
    assert {line.state for line in lines} == {State.UNTRIED}


@pytest.mark.launching
def test_this_machine_passes_and_nothing_is_left(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "harness", "doctor", "--self-test", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    states = {line["check"]: line["state"] for line in json.loads(ended.stdout)}
    assert {name for name, state in states.items() if state == "failed"} == set()
    assert {"ok"} == {states[name] for name in ("one process", "ddp", "zero3", "memory limit", "killed rank", "canary")}
    assert list(tmp_path.iterdir()) == []
