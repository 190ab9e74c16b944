"""The first five minutes on a machine with devices: what `doctor --self-test` runs, and a sweep."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness.store.store import Store
from harness.sweeps import self_test
from harness.sweeps.self_test import Bench, State

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.launching,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator"),
]


@pytest.fixture(scope="module")
def made() -> Iterator[Bench]:
    with self_test.bench() as opened:
        assert opened.experiment.hardware.device_type != "cpu"
        yield opened


@pytest.mark.parametrize("name", self_test.checks())
def test_the_machine_passes(name: str, made: Bench) -> None:
    seen = self_test.checks()[name](made)
    if seen.state is State.ABSENT:
        pytest.skip(seen.found)
    assert seen.state is State.OK, seen.found


def test_two_trials_of_a_sweep_with_torchao_installed(tmp_path: Path) -> None:
    assert importlib.util.find_spec("torchao")
    asked = ["--trials", "2", "--workload", "gpt-mini", "--measure", "1s", "--name", "first"]
    ended = subprocess.run(
        [sys.executable, "-m", "harness", "sweep", *asked],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    trials = Store(tmp_path / "results").trials("first")
    launched = trials[trials["outcome"] != "infeasible"]
    assert (launched["outcome"] == "ok").sum() >= 2
    assert not launched["hardware_id"].str.startswith("cpu").any()
