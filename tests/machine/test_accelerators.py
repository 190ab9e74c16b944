"""Devices as torch sees them, and what the installed torch was built for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.machine import accelerators
from harness.machine.accelerators import Accelerators, Build
from harness.machine.hardware import detect
from tests.machine.fake_nvml import MISSING_LIBRARY, FakeNvml, torch_sees

MI300X = {
    "name": "AMD Instinct MI300X",
    "memory_bytes": 192 << 30,
    "uuid": None,
    "compute_capability": None,
    "architecture": "gfx942",
    "processors": 304,
}


@pytest.mark.parametrize(
    ("text", "built_for"),
    [
        ("__version__ = '2.13.0'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", None),
        ("__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "cuda"),
        ("__version__ = '2.13.0'\ncuda = '12.6'\n", "cuda"),
        ("__version__ = '2.9.1+rocm6.4'\ncuda: str | None = None\nhip: str | None = '6.4.1'\n", "hip"),
        ("__version__ = '2.13.0+xpu'\ncuda: Optional[str] = None\nxpu: Optional[str] = '20250302'\n", "xpu"),
    ],
)
def test_what_torch_was_built_for_stands_in_its_own_file(text: str, built_for: str | None, tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text(text)
    found = accelerators.build(tmp_path)
    assert (found.built_for, str(found.version)[:2]) == (built_for, "2.")


def test_four_of_amds_devices_are_four_ranks_on_what_torch_calls_cuda() -> None:
    seen = accelerators.answer("a library says hello\n" + json.dumps({"kind": "cuda", "devices": 4 * [MI300X]}))
    machine = detect(FakeNvml(start_error=MISSING_LIBRARY), environ={}, seen=seen)
    assert (machine.device_type, machine.default_ranks, machine.unused) == ("cuda", 4, None)
    assert (machine.capability, machine.architecture) == (None, "gfx942")
    assert machine.hardware_id.startswith("4xamd-instinct-mi300x-192g-")


def test_the_least_capable_device_counts() -> None:
    nvml = FakeNvml(count=2)
    nvml.devices[1] = {**nvml.devices[1], "nvmlDeviceGetCudaComputeCapability": (8, 6)}
    assert detect(nvml, environ={}, seen=torch_sees(nvml)).capability == (8, 6)


def test_a_build_for_a_cpu_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: Any, **options: Any) -> None:
        raise AssertionError("torch was imported for nothing")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(accelerators.sys, "platform", "linux")
    monkeypatch.setattr(accelerators.metadata, "entry_points", lambda group: ())
    monkeypatch.setattr(accelerators, "build", lambda: Build(version="2.13.0"))
    assert accelerators.ask({}) == Accelerators()


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (SimpleNamespace(returncode=1, stderr="Traceback\nRuntimeError: driver too old", stdout=""), "driver too old"),
        (SimpleNamespace(returncode=-11, stderr="", stdout=""), "exit status -11"),
        (subprocess.TimeoutExpired("python", 120), "within 120 s"),
    ],
)
def test_torch_that_cannot_answer_is_a_sentence(outcome: Any, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: Any, **options: Any) -> Any:
        assert options["env"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(accelerators, "build", lambda: Build(version="2.13.0+cu130", built_for="cuda"))
    assert problem in str(accelerators.ask({"CASE": problem}).problem)


def test_the_question_is_answered_by_the_installed_torch() -> None:
    import sys

    command = [sys.executable, "-c", accelerators._QUESTION]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert isinstance(accelerators.answer(run.stdout), Accelerators)
