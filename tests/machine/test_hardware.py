from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.machine.accelerators import Accelerators
from harness.machine.hardware import GIB, Device, Hardware, MachineState, detect, state
from tests.machine.fake_nvml import H100, MISSING_LIBRARY, FakeNvml, torch_sees

EPYC = Hardware(
    cpu_model="AMD EPYC 7763 64-Core Processor",
    physical_cores=64,
    usable_cores=2,
    memory_bytes=23 * GIB,
    torch_build="2.13.0+cpu",
)


def detected(nvml: FakeNvml, listed: str | None = None) -> Hardware:
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    return replace(detect(nvml, environ=environ, seen=torch_sees(nvml, listed)), torch_build="2.13.0+cu130")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


# -- identity


def test_the_id_ignores_momentary_values_and_serial_numbers() -> None:
    machine = detected(FakeNvml())
    cards = tuple(replace(device, uuid="GPU-other") for device in machine.devices)
    later = replace(machine, cpu_frequency_mhz=800.0, cpu_frequency_max_mhz=3000.0, devices=cards, kernel="7.0")
    assert later.hardware_id == machine.hardware_id


def test_clocks_of_the_moment_do_not_change_the_id() -> None:
    cooler = {**H100, "nvmlDeviceGetClockInfo": {pynvml.NVML_CLOCK_SM: 345}, "nvmlDeviceGetPowerUsage": 70_000}
    assert detected(FakeNvml(cooler)).hardware_id == detected(FakeNvml()).hardware_id


def test_a_lower_power_limit_is_another_hardware() -> None:
    capped = {**H100, "nvmlDeviceGetPowerManagementLimit": 500_000}
    assert detected(FakeNvml(capped)).hardware_id != detected(FakeNvml()).hardware_id


def test_fewer_visible_devices_are_another_hardware() -> None:
    assert detected(FakeNvml(), "0,1,2,3").hardware_id.startswith("4xh100-80g-")


@pytest.mark.parametrize(
    "change",
    [
        {"cpu_model": "AMD EPYC 9654 96-Core Processor"},
        {"usable_cores": 3},
        {"memory_bytes": 24 * GIB},
        {"torch_build": "2.12.0+cpu"},
        {"interconnect": "NVLink between all pairs"},
        {"devices": (Device(name="NVIDIA L4", driver="1"),)},
        {"devices": (Device(name="NVIDIA L4", driver="2"),)},
    ],
)
def test_each_stable_fact_changes_the_id(change: dict[str, Any]) -> None:
    ids = {EPYC.hardware_id, replace(EPYC, devices=(Device(name="NVIDIA L4"),)).hardware_id}
    assert replace(EPYC, **change).hardware_id not in ids


def test_a_few_bytes_of_memory_do_not_change_the_id() -> None:
    assert replace(EPYC, memory_bytes=EPYC.memory_bytes - 4096).hardware_id == EPYC.hardware_id


def test_the_id_reads_as_model_cores_and_memory() -> None:
    assert EPYC.hardware_id == "cpu-amd-epyc-7763-2c-23g-" + EPYC.hardware_id[-6:]


def test_the_id_is_the_same_in_another_process() -> None:
    code = f"from harness.machine.hardware import *; print({EPYC!r}.hardware_id)"
    environ = {**os.environ, "PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert run.stdout.strip() == EPYC.hardware_id


@pytest.mark.parametrize(
    ("model", "slug"),
    [
        ("Intel(R) Xeon(R) Platinum 8480C CPU @ 2.00GHz", "intel-xeon-platinum-8480c"),
        ("Intel(R) Core(TM) i7-1165G7 CPU @ 2.80GHz", "intel-core-i7-1165g7"),
        ("Apple M2 Pro", "apple-m2-pro"),
        (None, "unknown"),
    ],
)
def test_processors_get_short_names(model: str | None, slug: str) -> None:
    assert replace(EPYC, cpu_model=model).hardware_id.startswith(f"cpu-{slug}-2c-23g-")


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ],
)
def test_devices_get_short_names(name: str, slug: str) -> None:
    machine = replace(EPYC, devices=(Device(name=name),))
    assert machine.hardware_id.startswith(f"1x{slug}-")


@given(st.text(max_size=60), st.text(max_size=60), st.booleans())
def test_the_id_is_safe_as_a_folder_name(cpu: str, card: str, cuda: bool) -> None:
    machine = replace(EPYC, cpu_model=cpu, devices=(Device(name=card),), accelerator="cuda" if cuda else "xpu")
    assert set(machine.hardware_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_ranks_run_on_what_torch_can_use() -> None:
    assert EPYC.device_type == "cpu"
    assert replace(EPYC, devices=(Device(name="NVIDIA L4"),)).device_type == "cuda"
    assert replace(EPYC, devices=(Device(name="Intel GPU Max 1550"),), accelerator="xpu").device_type == "xpu"


def test_what_is_in_force_at_the_moment_does_not_change_the_id() -> None:
    capped_by_the_rack = {**H100, "nvmlDeviceGetEnforcedPowerLimit": 350_000}
    assert detected(FakeNvml(capped_by_the_rack)).hardware_id == detected(FakeNvml()).hardware_id


def test_the_machine_stays_the_same_with_other_versions_of_torch_and_driver() -> None:
    machine = detected(FakeNvml())
    updated = tuple(replace(device, driver="580.1") for device in machine.devices)
    later = replace(machine, torch_build="2.14.0+cu130", devices=updated)
    assert later.machine_id == machine.machine_id
    assert later.hardware_id != machine.hardware_id
    assert replace(machine, usable_cores=machine.usable_cores + 1).machine_id != machine.machine_id
    little_less, little_more = (replace(machine, memory_bytes=int(gib * GIB)) for gib in (15.49, 15.51))
    assert little_less.machine_id == little_more.machine_id
    assert replace(machine, memory_bytes=int(31.4 * GIB)).machine_id != little_less.machine_id


def test_two_threads_of_one_core_are_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 8}, raising=False)
    cpu = "sys/devices/system/cpu"
    siblings = {f"{cpu}/cpu{n}/topology/thread_siblings_list": text for n, text in ((0, "0,8"), (1, "1,9"), (8, "0,8"))}
    machine = detect(root=write(tmp_path, siblings), seen=Accelerators())
    assert (machine.usable_cores, machine.usable_physical_cores) == (3, 2)


@pytest.mark.parametrize("cores", range(1, 129))
def test_two_ranks_whatever_the_cpu_has(cores: int) -> None:
    assert replace(EPYC, usable_cores=2 * cores, physical_cores=cores).default_ranks == 2


def test_one_rank_for_each_device() -> None:
    assert detected(FakeNvml()).default_ranks == 8


# -- processor, memory and system


def test_fewer_allowed_cores_are_another_hardware(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    four = detect(root=tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2}, raising=False)
    one = detect(root=tmp_path)
    assert (four.usable_cores, one.usable_cores) == (4, 1)
    assert four.hardware_id != one.hardware_id


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/"}, 8),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "350000 100000"}, 3),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "9900000 100000"}, 8),
        (
            {
                "proc/self/cgroup": "0::/pod/box",
                "sys/fs/cgroup/pod/box/cpu.max": "max 100000",
                "sys/fs/cgroup/pod/cpu.max": "200000 100000",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/gone\n1:name=systemd:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            8,
        ),
    ],
)
def test_a_lower_cpu_quota_limits_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert detect(root=write(tmp_path, files)).usable_cores == cores


@pytest.mark.parametrize(
    ("files", "limit_bytes"),
    [
        ({"proc/self/cgroup": "0::/box", "sys/fs/cgroup/box/memory.max": "67108864"}, 67108864),
        ({"proc/self/cgroup": "0::/box", "sys/fs/cgroup/box/memory.max": "max"}, None),
        ({"proc/self/cgroup": "4:memory:/x", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "67108864"}, 67108864),
        ({"proc/self/cgroup": "4:memory:/", "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096)}, None),
        ({}, None),
    ],
)
def test_a_lower_memory_limit_is_the_memory(tmp_path: Path, files: dict[str, str], limit_bytes: int | None) -> None:
    assert detect(root=write(tmp_path, files)).memory_bytes == (limit_bytes or psutil.virtual_memory().total)


def test_linux_describes_its_processor(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu/cpu0"
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD EPYC 7763 64-Core Processor\n",
        f"{cpu}/cpufreq/scaling_governor": "powersave",
        "sys/devices/system/node/node0/cpulist": "0-63",
        "sys/devices/system/node/node1/cpulist": "64-127",
    }
    for index, (kind, level, size) in enumerate(
        [("Data", 1, "32K"), ("Instruction", 1, "64K"), ("Unified", 2, "512K"), ("Unified", 3, "32768K")]
    ):
        values = {"type": kind, "level": str(level), "size": size}
        files.update({f"{cpu}/cache/index{index}/{name}": value for name, value in values.items()})
    machine = detect(root=write(tmp_path, files))
    assert machine.cpu_model == "AMD EPYC 7763 64-Core Processor"
    assert (machine.l1d_bytes, machine.l2_bytes, machine.l3_bytes) == (32 * 1024, 512 * 1024, 32 * 2**20)
    assert (machine.governor, machine.numa_nodes) == ("powersave", 2)


def test_arm_processors_are_told_apart_by_their_part_number(tmp_path: Path) -> None:
    models = []
    for part in ("0xd0c", "0xd40"):
        files = {"proc/cpuinfo": f"processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: {part}\n"}
        models.append(str(detect(root=write(tmp_path, files)).cpu_model))
    assert [model.split()[-1] for model in models] == ["0xd0c", "0xd40"]


def test_a_system_that_shows_nothing_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> None:
        raise NotImplementedError

    monkeypatch.setattr(psutil, "cpu_freq", unreadable)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    machine = detect(root=tmp_path)
    unknown = (machine.l1d_bytes, machine.l3_bytes, machine.governor, machine.numa_nodes, machine.cpu_frequency_mhz)
    assert unknown == (None,) * 5
    assert machine.usable_cores >= 1


def test_macos_is_read_through_sysctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"machdep.cpu.brand_string": "Apple M2", "hw.l1dcachesize": "65536", "hw.l2cachesize": "4194304"}

    def run(command: list[str], **options: Any) -> SimpleNamespace:
        if command[-1] not in answers:
            raise subprocess.CalledProcessError(1, command)
        return SimpleNamespace(stdout=answers[command[-1]] + "\n")

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(subprocess, "run", run)
    machine = detect(root=tmp_path, seen=Accelerators())
    assert (machine.cpu_model, machine.operating_system) == ("Apple M2", "macOS 15.1")
    assert (machine.l1d_bytes, machine.l2_bytes, machine.l3_bytes) == (65536, 4194304, None)


def test_detection_does_not_import_torch() -> None:
    code = "import sys; from harness.machine.hardware import detect; detect(); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


# -- for people, and the moment


def test_the_environment_section_groups_equal_devices() -> None:
    info = detected(FakeNvml()).to_info()
    assert info["devices"] == (
        "8 x NVIDIA H100 80GB HBM3, 79.6 GiB, 700 W, SM 1980 MHz, memory 2619 MHz, compute capability 9.0, "
        "18 NVLinks, PCIe generation 5, 16 lanes"
    )
    assert (info["driver"], info["interconnect"]) == ("550.54.15", "NVLink between all pairs")


def test_the_environment_section_leaves_out_what_is_unknown() -> None:
    assert EPYC.to_info() == {
        "hardware": EPYC.hardware_id,
        "CPU": "AMD EPYC 7763 64-Core Processor",
        "cores": "2 usable, 64 physical",
        "memory": "23.0 GiB",
        "torch": "2.13.0+cpu",
    }


def test_a_machine_without_load_average_has_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getloadavg")
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    assert state(FakeNvml(start_error=MISSING_LIBRARY)) == MachineState()
