"""The main job, with no option, begins on every machine."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.errors import InputError
from harness.machine import hardware
from harness.machine.hardware import Device, Hardware
from harness.search.spaces import Spaces
from harness.sweeps.config import SweepConfig
from harness.sweeps.display import SweepDisplay
from harness.sweeps.experiment import DEVICE_SECONDS, Experiment, prepare

GIB = 1 << 30
CARD = Device(name="NVIDIA A100-SXM4-80GB", memory_bytes=80 * GIB, compute_capability="8.0")


def cpu(cores: int, threads: int = 1) -> Hardware:
    return Hardware(
        cpu_model="AMD EPYC",
        physical_cores=cores,
        usable_cores=cores * threads,
        memory_bytes=4 * GIB * cores,
        torch_build="2.13.0+cpu",
    )


def with_devices(count: int, card: Device = CARD) -> Hardware:
    return replace(cpu(32), torch_build="2.13.0+cu130", accelerator="cuda", devices=(card,) * count)


def main_job(machine: Hardware, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Experiment:
    monkeypatch.setattr(hardware, "detect", lambda: machine)
    return prepare(SweepConfig(results=folder / "results", reports=folder / "reports", **options))


def begins(experiment: Experiment) -> None:
    """There is something to search, and something to begin with."""
    spaces = Spaces(experiment.spaces(), compared=False)
    assert spaces.showcases()
    for size, workload in experiment.workloads.items():
        assert size == workload.global_batch_size
        assert size % experiment.world_size == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_it_begins_on_two_ranks_with_any_number_of_cores(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cores in range(1, 129):
        experiment = main_job(cpu(cores, threads), tmp_path, monkeypatch)
        assert experiment.world_size == 2, cores
        assert experiment.enlarged_from is None
        begins(experiment)


@pytest.mark.parametrize("count", range(1, 17))
def test_it_begins_on_all_devices(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = main_job(with_devices(count), tmp_path, monkeypatch)
    assert experiment.world_size == count
    assert experiment.seconds == DEVICE_SECONDS
    begins(experiment)


@pytest.mark.parametrize("world", range(1, 129))
def test_it_begins_with_any_number_of_ranks(world: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = main_job(cpu(128), tmp_path, monkeypatch, world_size=world)
    assert experiment.world_size == world
    begins(experiment)


def told(experiment: Experiment) -> str:
    out = StringIO()
    SweepDisplay(Console(file=out, width=200), None, None).started(experiment, "name")
    return out.getvalue()


def test_a_batch_that_the_ranks_do_not_divide_is_enlarged_and_this_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = main_job(cpu(16), tmp_path, monkeypatch, world_size=5)
    own, used = experiment.enlarged_from, next(iter(experiment.workloads))
    assert own is not None
    assert (used % 5, 0 < used - own < 5) == (0, True)
    said = f"its own batch is {own}, which 5 ranks do not divide: {used} is used; --global-batch chooses another"
    assert told(experiment).count(said) == 1
    assert "its own batch" not in told(main_job(cpu(16), tmp_path, monkeypatch))
    with pytest.raises(InputError, match="5"):  # a batch that was asked for is not changed
        begins(main_job(cpu(16), tmp_path, monkeypatch, world_size=5, global_batch=(own,)))


def test_headroom_of_a_device_that_does_not_say_its_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = with_devices(1, replace(CARD, memory_bytes=None))
    with pytest.raises(InputError, match="which NVIDIA A100-SXM4-80GB does not say"):
        main_job(mute, tmp_path, monkeypatch, headroom="5%")
    limited = main_job(mute, tmp_path, monkeypatch, headroom="5%", memory_limit="40GiB")
    assert limited.memory_ceiling_bytes == int(0.95 * 40 * GIB)


@pytest.mark.parametrize(("capability", "compiled"), [("8.9", True), ("9.0", True), ("8.0", False)])
def test_compilation_is_in_play_where_float8_needs_it(
    capability: str, compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.sweeps.experiment._compiles", lambda device_type: True)
    machine = with_devices(2, replace(CARD, compute_capability=capability))
    (space,) = main_job(machine, tmp_path, monkeypatch).spaces().values()
    shown = [plan for plan in space.showcases() if plan["quantization"] == "float8" and plan["compile"]]
    assert bool(shown) == compiled
    assert all(space.params_of(plan) is not None for plan in shown)
    named = main_job(machine, tmp_path, monkeypatch, strategies=("ddp", "quantization"))
    assert all(not plan["compile"] for space in named.spaces().values() for plan in space.showcases())
