from __future__ import annotations

from typing import Any

import pytest

from harness.machine.hardware import MachineState
from harness.machine.load import Seen, disturbance, watching
from harness.machine.nvml import DeviceState
from tests.machine.fake_nvml import H100, FakeNvml


@pytest.mark.parametrize(
    ("row", "device_type", "sentence"),
    [
        ({}, "cpu", None),
        ({"foreign_cpu_share": 0.05, "stolen_cpu_share": 0.01}, "cpu", None),
        ({"foreign_cpu_share": 0.25}, "cpu", "other processes took 25% of the usable cores' time"),
        ({"foreign_cpu_share": 0.25}, "cuda", None),
        ({"stolen_cpu_share": 0.2}, "cuda", "the hypervisor took 20% of the usable cores' time"),
        ({"throttled_by": "power cap"}, "cuda", None),
        (
            {"throttled_by": "power cap, thermal slowdown"},
            "cuda",
            "the devices' clocks were held down by thermal slowdown",
        ),
    ],
)
def test_a_trial_is_disturbed_by_others_and_by_slowed_clocks(
    row: dict[str, Any], device_type: str, sentence: str | None
) -> None:
    assert disturbance(row, device_type) == sentence


def test_the_columns_hold_the_worst_moment_of_the_devices() -> None:
    cool = DeviceState(sm_clock_mhz=1900, temperature_c=50, power_w=300.0, throttled_by=())
    hot = DeviceState(sm_clock_mhz=1200, temperature_c=88, power_w=500.0, throttled_by=("thermal slowdown",))
    seen = Seen(
        before=MachineState(load_1min=0.5, cpu_frequency_mhz=2000.0),
        after=MachineState(load_1min=1.5, cpu_frequency_mhz=3000.0),
        during=[MachineState(devices=(cool, cool)), MachineState(devices=(hot, cool))],
    )
    assert seen.columns() == {
        "load_before": 0.5,
        "load_after": 1.5,
        "cpu_mhz": 2500.0,
        "device_clock_mhz": 1200,
        "device_temperature_c": 88,
        "device_power_w": 700.0,
        "throttled_by": "thermal slowdown",
    }


def test_what_cannot_be_read_is_empty() -> None:
    assert set(Seen(before=MachineState()).columns().values()) == {None}


def test_devices_are_looked_at_even_in_a_short_trial() -> None:
    nvml = FakeNvml({**H100, "nvmlDeviceGetTemperature": 61}, count=2)
    with watching(devices=True, library=nvml) as seen:
        assert seen.after is None
    assert (seen.columns()["device_temperature_c"], nvml.sessions) == (61, 0)


def test_without_devices_the_machine_is_seen_before_and_after() -> None:
    with watching(devices=False, library=FakeNvml(count=0)) as seen:
        pass
    assert seen.after is not None
    assert seen.during == []
