from __future__ import annotations

import os
import resource
import socket
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.machine import accelerators, doctor
from harness.machine.accelerators import Accelerators
from harness.machine.doctor import Finding, State, examine
from harness.machine.hardware import GIB, Device, DeviceState, Hardware, MachineState, detect
from harness.machine.nvml import problem
from tests.machine.fake_nvml import H100, MISMATCH, MISSING_LIBRARY, FakeNvml, torch_sees

CPU = Hardware(cpu_model="AMD EPYC", physical_cores=2, usable_cores=4, memory_bytes=8 * GIB, torch_build="2.13.0+cpu")
GPU = replace(CPU, devices=2 * (Device(name="NVIDIA L4", driver="550.54.15"),), torch_build="2.13.0+cu130")


def fake_torch(backends: bool = True) -> Any:
    return SimpleNamespace(
        __version__="2.13.0+cu130",
        distributed=SimpleNamespace(
            is_available=lambda: True, is_gloo_available=lambda: backends, is_nccl_available=lambda: backends
        ),
    )


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


# -- all of it


def test_every_finding_has_its_own_name_and_a_fix_unless_it_is_ok(tmp_path: Path) -> None:
    findings = examine(tmp_path, nvml=FakeNvml(start_error=MISSING_LIBRARY))
    assert len(by_name(findings)) == len(findings)
    assert [finding for finding in findings if not finding.found] == []
    assert [finding for finding in findings if (finding.state is State.OK) == bool(finding.fix)] == []


def test_the_machine_is_really_looked_at(tmp_path: Path) -> None:
    import torch

    found = by_name(examine(tmp_path, nvml=FakeNvml(start_error=MISSING_LIBRARY)))
    assert found["torch"] == Finding(name="torch", state=State.OK, found=torch.__version__)
    assert found["python"].found == ".".join(map(str, sys.version_info[:3]))
    assert found["results"].state is State.OK
    assert found["gloo"].state is State.OK


def test_a_device_that_this_torch_cannot_use_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(accelerators, "build", lambda: accelerators.Build(version="2.13.0+cpu"))
    found = by_name(examine(tmp_path, nvml=FakeNvml()))["devices"]
    assert found.state is State.MISSING
    assert found.found == "8 x NVIDIA H100 80GB HBM3 cannot be used by torch 2.13.0+cpu: ranks run on the CPU"
    assert "--torch-backend=auto" in found.fix


# -- software


@pytest.mark.parametrize(
    ("build", "found"),
    [(None, "not installed"), ("2.13.0+cpu", "2.13.0+cpu is installed, but cannot be imported")],
)
def test_a_missing_torch_is_told_from_a_broken_one(build: str | None, found: str) -> None:
    finding = doctor.torch_build(replace(CPU, torch_build=build), None)
    assert (finding.state, finding.found) == (State.MISSING, found)


@pytest.mark.parametrize(
    ("package", "group"), [("torchao", "quantization"), ("scikit-learn", "cnn"), ("tokenizers", "tokenizers")]
)
def test_a_missing_package_is_mended_by_its_extra(package: str, group: str) -> None:
    assert doctor.extra(package, "1.0").state is State.OK
    missing = doctor.extra(package, None)
    assert (missing.state, missing.fix) == (State.MISSING, f"pip install 'distributed-harness[{group}]'")


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert doctor._version("no-such-distribution-anywhere") is None
    assert doctor._import("no_such_module_anywhere") is None


def test_a_missing_compiler_is_named() -> None:
    finding = doctor.compiler("no-such-compiler++")
    assert finding.state is State.MISSING
    assert "no no-such-compiler++" in finding.found


def test_missing_python_headers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    finding = doctor.compiler(sys.executable)
    assert (finding.state, finding.found) == (
        State.MISSING,
        f"no {tmp_path / 'Python.h'}; torch.compile needs it",
    )


def test_a_compiler_with_headers_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert doctor.compiler(sys.executable).state is State.OK


# -- devices and communication


def test_devices_that_torch_starts_are_counted() -> None:
    assert doctor.devices(GPU).found == "2 x NVIDIA L4"
    assert doctor.devices(CPU).found == "none; ranks run on the CPU"


def unused(seen: Accelerators, nvml: FakeNvml) -> Finding:
    return doctor.devices(detect(nvml, environ={}, seen=seen))


def test_a_driver_that_torch_cannot_start_is_missing() -> None:
    finding = unused(Accelerators(problem="torch cannot say what devices there are: driver too old"), FakeNvml())
    assert finding.state is State.MISSING
    assert finding.found == "ranks run on the CPU: torch cannot say what devices there are: driver too old"


def test_accelerators_without_collectives_are_named_and_not_used() -> None:
    finding = unused(Accelerators(kind="mps"), FakeNvml(start_error=MISSING_LIBRARY))
    assert finding.state is State.MISSING
    assert finding.found == "the mps device is not used, and ranks run on the CPU: torch has no collectives for it"


def test_fewer_devices_than_the_driver_lists_are_told() -> None:
    slice = Device(name="NVIDIA A100-SXM4-40GB MIG 1g.5gb", memory_bytes=5 * GIB)
    finding = unused(Accelerators(kind="cuda", devices=(slice,)), FakeNvml())
    assert finding.state is State.WARN
    assert finding.found.startswith("torch uses 1 of 8 x NVIDIA H100 80GB HBM3")


def test_a_driver_that_starts_anew_for_each_launch_is_found() -> None:
    off = FakeNvml({**H100, "nvmlDeviceGetPersistenceMode": 0}, count=2)
    on = FakeNvml({**H100, "nvmlDeviceGetPersistenceMode": 1}, count=2)
    found = [doctor.persistence(detect(n, environ={}, seen=torch_sees(n)), n) for n in (off, on)]
    assert [finding.state for finding in found] == [State.WARN, State.OK]
    assert doctor.persistence(CPU, FakeNvml(start_error=MISSING_LIBRARY)).state is State.OK


@pytest.mark.parametrize(
    ("machine", "reason", "driver_loaded", "state", "found"),
    [
        (CPU, "NVML Shared Library Not Found", False, State.OK, "no NVIDIA driver"),
        (CPU, "version mismatch", True, State.WARN, "an NVIDIA driver is loaded, but not readable: version mismatch"),
        (GPU, None, True, State.OK, "2 visible devices"),
        (CPU, None, True, State.OK, "0 visible devices"),
    ],
)
def test_nvml_is_missed_only_where_a_driver_is_loaded(
    machine: Hardware, reason: str | None, driver_loaded: bool, state: State, found: str
) -> None:
    finding = doctor.nvml_readable(machine, reason, driver_loaded)
    assert (finding.state, finding.found) == (state, found)


def test_the_reason_why_nvml_does_not_start_is_told() -> None:
    assert problem(FakeNvml(start_error=MISMATCH)) == "RM has detected an NVML/RM version mismatch."
    assert problem(FakeNvml()) is None


def test_gloo_is_needed_everywhere_and_nccl_on_devices_only() -> None:
    bare = fake_torch(backends=False)
    assert doctor.gloo(fake_torch()).state is State.OK
    assert [doctor.gloo(torch).state for torch in (bare, None)] == 2 * [State.MISSING]
    assert doctor.nccl(CPU, bare).state is State.OK
    assert doctor.nccl(GPU, fake_torch()).state is State.OK
    assert doctor.nccl(GPU, bare).state is State.MISSING


@pytest.mark.parametrize(
    ("interface", "resolved", "state"),
    [
        (None, ["127.0.1.1"], State.OK),
        (None, ["10.0.0.7"], State.OK),
        (None, ["203.0.113.9"], State.WARN),
        (None, [], State.WARN),
        ("lo", [], State.OK),
        ("lo,eth0", [], State.OK),
        ("ib0", ["127.0.0.1"], State.MISSING),
    ],
)
def test_gloo_needs_an_address_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, interface: str | None, resolved: list[str], state: State
) -> None:
    monkeypatch.setattr(doctor, "_resolve", lambda host: resolved)
    addresses = {"lo": frozenset({"127.0.0.1"}), "eth0": frozenset({"10.0.0.7"})}
    finding = doctor.loopback(interface, "box", addresses)
    assert finding.state is state
    assert ("GLOO_SOCKET_IFNAME" in finding.fix) == (state is not State.OK)


def test_a_name_without_address_resolves_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(host: str, port: None) -> None:
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert doctor._resolve("box") == []


# -- resources


@pytest.mark.parametrize(
    ("machine", "count"),
    [
        (CPU, 2),
        (replace(CPU, usable_cores=1), 1),
        (replace(CPU, physical_cores=None), 4),
        (replace(GPU, usable_cores=1), 2),
        (replace(CPU, usable_cores=2, usable_physical_cores=1), 1),
    ],
)
def test_each_rank_wants_a_physical_core_or_a_device(machine: Hardware, count: int) -> None:
    assert doctor.sensible_ranks(machine) == count
    assert (doctor.ranks(machine).state is State.OK) == (count > 1)


def test_one_core_and_one_device_are_named_as_what_ranks_would_share() -> None:
    assert "share one core" in doctor.ranks(replace(CPU, usable_cores=1)).found
    assert "share one device" in doctor.ranks(replace(GPU, devices=GPU.devices[:1])).found


@pytest.mark.parametrize(
    ("available_bytes", "fix"),
    [
        (3 * GIB, ""),
        (2 * GIB, ""),
        (2 * GIB - 1, "python -m harness sweep --world-size 1"),
        (GIB // 2, "python -m harness sweep --world-size 1"),
    ],
)
def test_little_free_memory_suggests_the_ranks_that_fit(available_bytes: int, fix: str) -> None:
    assert doctor.memory(CPU, available_bytes).fix == fix


def test_free_memory_is_never_more_than_the_limit() -> None:
    assert doctor.memory(CPU, 500 * GIB).found == "8.0 of 8.0 GiB free"


@pytest.mark.parametrize(
    ("machine", "size_bytes", "state"),
    [
        (CPU, 64 * 2**20, State.OK),
        (GPU, 64 * 2**20, State.WARN),
        (GPU, 8 * GIB, State.OK),
        (GPU, None, State.OK),
    ],
)
def test_small_shared_memory_matters_to_nccl_only(machine: Hardware, size_bytes: int | None, state: State) -> None:
    assert doctor.shared_memory(machine, size_bytes).state is state


def test_a_folder_that_is_not_there_has_no_size(tmp_path: Path) -> None:
    assert doctor._size_bytes(tmp_path / "shm") is None
    assert doctor._size_bytes(tmp_path)


@pytest.mark.parametrize(("limit", "state"), [(256, State.WARN), (1024, State.OK), (resource.RLIM_INFINITY, State.OK)])
def test_a_low_limit_of_open_files_is_found(limit: int, state: State) -> None:
    assert doctor.open_files(limit).state is state


def test_a_results_folder_that_does_not_exist_is_judged_by_its_parent_and_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "results"
    assert doctor.results_folder(folder).state is State.OK
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_results_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    finding = doctor.results_folder(tmp_path / "results")
    assert (finding.state, finding.found) == (State.MISSING, f"{tmp_path / 'results'} is not a folder")


def test_a_results_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    finding = doctor.results_folder(tmp_path)
    assert (finding.state, finding.fix) == (State.MISSING, f"chmod u+wx '{tmp_path}'")


# -- quiet


@pytest.mark.parametrize(
    ("name", "state"),
    [("performance", State.OK), (None, State.OK), ("powersave", State.WARN), ("ondemand", State.WARN)],
)
def test_a_governor_that_follows_the_load_is_found(name: str | None, state: State) -> None:
    assert doctor.governor(name).state is state


@pytest.mark.parametrize(("used_bytes", "state"), [(0, State.OK), (GIB // 4, State.OK), (GIB, State.WARN)])
def test_swap_in_use_is_found(used_bytes: int, state: State) -> None:
    assert doctor.swap(used_bytes).state is state


@pytest.mark.parametrize(("load_1min", "state"), [(None, State.OK), (0.9, State.OK), (1.1, State.WARN)])
def test_other_load_is_found(load_1min: float | None, state: State) -> None:
    assert doctor.load(CPU, MachineState(load_1min=load_1min)).state is state


def test_throttled_devices_are_found_with_the_reason() -> None:
    slowed = DeviceState(throttled_by=("power cap",))
    free, silent = DeviceState(throttled_by=()), DeviceState(throttled_by=None)
    assert doctor.throttling(MachineState(devices=(free, slowed))).found == "devices are slowed by power cap"
    assert doctor.throttling(MachineState(devices=(free, silent))).state is State.OK
