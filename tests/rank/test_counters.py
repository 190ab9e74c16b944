from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.rank.counters import Counters, NvmlMeter, RaplMeter, differences, machine_times
from tests.machine.fake_nvml import CONSUMER, H100, FakeNvml

STAT = """cpu  900 0 100 5000 0 0 0 40 0 0
cpu0 100 20 30 4000 7 1 2 40 0 0
cpu1 200 0 10 1000 0 0 0 10 0 0
cpu2 600 0 60 0 0 0 0 0 0 0
intr 1
"""


def write_zone(root: Path, name: str, energy: int, most: int = 1000) -> None:
    zone = root / "sys/class/powercap" / name
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "energy_uj").write_text(f"{energy}\n")
    (zone / "max_energy_range_uj").write_text(f"{most}\n")


def test_only_the_cpus_that_may_be_used_are_counted(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(STAT)
    found = machine_times(tmp_path, cpus=[0, 1])
    assert found == {"busy_cpu_s": pytest.approx(3.63), "stolen_cpu_s": pytest.approx(0.5), "cpus": 2}


def test_a_system_without_counters_has_none(tmp_path: Path) -> None:
    assert machine_times(tmp_path) == {}


def test_the_packages_energy_is_summed_and_parts_of_packages_are_not(tmp_path: Path) -> None:
    write_zone(tmp_path, "intel-rapl:0", 2_000_000)
    write_zone(tmp_path, "intel-rapl:1", 3_000_000)
    write_zone(tmp_path, "intel-rapl:0:0", 1_000_000)
    assert RaplMeter(tmp_path).joules() == 5.0


def test_a_counter_that_began_anew_goes_on(tmp_path: Path) -> None:
    write_zone(tmp_path, "intel-rapl:0", 900_000, most=1_000_000)
    meter = RaplMeter(tmp_path)
    before = meter.joules()
    write_zone(tmp_path, "intel-rapl:0", 100_000, most=1_000_000)
    after = meter.joules()
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(0.2)


def test_energy_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert RaplMeter(tmp_path).joules() is None
    (tmp_path / "sys/class/powercap/intel-rapl:0").mkdir(parents=True)
    assert RaplMeter(tmp_path).joules() is None


def test_a_devices_energy_is_read_by_its_identity() -> None:
    nvml = FakeNvml({**H100, "nvmlDeviceGetTotalEnergyConsumption": 1_234_500}, count=2)
    assert NvmlMeter("GPU-5c1e0701", nvml).joules() == 1234.5
    assert NvmlMeter("GPU-unknown", nvml).joules() is None


def test_an_older_device_has_no_energy_counter() -> None:
    assert NvmlMeter("GPU-5c1e0700", FakeNvml(CONSUMER, count=1)).joules() is None


def test_rank_0_reads_what_belongs_to_the_machine(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(STAT)
    first, second = (Counters(rank, torch.device("cpu"), tmp_path).read() for rank in (0, 1))
    assert first.keys() == {"cpu_s", "energy_j", "busy_cpu_s", "stolen_cpu_s", "cpus"}
    assert second.keys() == {"cpu_s", "energy_j"}


def test_a_difference_needs_both_readings() -> None:
    assert differences({"cpu_s": 1.0, "energy_j": None}, {"cpu_s": 3.5, "energy_j": 2.0}) == {"cpu_s": 2.5}
