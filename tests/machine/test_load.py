from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from harness.machine import load
from harness.machine.hardware import MachineState, detect, state
from harness.machine.load import Seen, disturbance, watching
from harness.machine.nvml import DeviceState, session
from tests.machine.fake_nvml import H100, FakeNvml, torch_sees


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
    assert seen.columns(2) == {
        "load_before": 0.5,
        "load_after": 1.5,
        "cpu_mhz": 2500.0,
        "device_clock_mhz": 1200,
        "device_temperature_c": 88,
        "device_power_w": 700.0,
        "throttled_by": "thermal slowdown",
        "device_busy_before": None,
        "device_used_before_bytes": None,
    }


def test_what_counts_is_the_window_and_the_devices_of_the_trial() -> None:
    idle = DeviceState(sm_clock_mhz=345, power_w=60.0, throttled_by=("thermal slowdown",))
    busy = DeviceState(sm_clock_mhz=1755, power_w=650.0, throttled_by=())
    during = [MachineState(at_s=t, devices=(busy if t == 2.0 else idle, *7 * (idle,))) for t in (0.0, 1.0, 2.0, 3.0)]
    found = Seen(before=MachineState(), during=during).columns(1, (1.5, 2.5))
    assert (found["device_clock_mhz"], found["device_power_w"], found["throttled_by"]) == (1755, 650.0, None)


def test_others_on_the_device_before_a_launch_disturb_it() -> None:
    before = MachineState(devices=(DeviceState(busy_share=0.4, used_bytes=3 << 30), DeviceState(busy_share=0.9)))
    row = Seen(before=before).columns(1)
    assert disturbance(row, "cuda") == (
        "a device was busy before it began, 40% of the time and others held 3.0 GiB of a device's memory"
    )
    display = DeviceState(busy_share=0.01, used_bytes=600 << 20)
    assert disturbance(Seen(before=MachineState(devices=(display,))).columns(1), "cuda") is None


def test_what_a_killed_trial_held_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(count=1)
    devices = detect(nvml, environ={}, seen=torch_sees(nvml)).devices
    with session(nvml):
        before = state(nvml, devices)
        held = [SimpleNamespace(total=80 << 30, used=60 << 30)] * 3 + [SimpleNamespace(total=80 << 30, used=1 << 20)]
        monkeypatch.setattr(
            load.time, "sleep", lambda seconds: nvml.devices[0].update(nvmlDeviceGetMemoryInfo=held.pop(0))
        )
        nvml.devices[0]["nvmlDeviceGetMemoryInfo"] = held[0]
        assert load.wait_until_free(devices, before, nvml)
        assert held == []
        nvml.devices[0]["nvmlDeviceGetMemoryInfo"] = SimpleNamespace(total=80 << 30, used=60 << 30)
        monkeypatch.setattr(load, "FREED_S", -1.0)
        assert not load.wait_until_free(devices, before, nvml)


def test_a_device_that_no_longer_answers_does_not_hold_up_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml, asked, ended = FakeNvml(count=1), threading.Event(), threading.Event()
    devices = detect(nvml, environ={}, seen=torch_sees(nvml)).devices

    def never(*arguments: object) -> MachineState:
        asked.set()
        ended.wait()
        return MachineState()

    monkeypatch.setattr(load, "INTERVAL_S", 0.0)
    monkeypatch.setattr(load, "ANSWER_S", 0.01)
    with watching(devices, nvml) as seen:
        monkeypatch.setattr(load.hardware, "state", never)
        asked.wait()
    assert seen.after is None
    ended.set()


def test_what_cannot_be_read_is_empty() -> None:
    assert set(Seen(before=MachineState()).columns(0).values()) == {None}


def test_devices_are_looked_at_even_in_a_short_trial() -> None:
    nvml = FakeNvml({**H100, "nvmlDeviceGetTemperature": 61}, count=2)
    with watching(detect(nvml, environ={}, seen=torch_sees(nvml)).devices, library=nvml) as seen:
        assert seen.after is None
    assert (seen.columns(2)["device_temperature_c"], nvml.sessions) == (61, 0)


def test_without_devices_the_machine_is_seen_before_and_after() -> None:
    with watching((), library=FakeNvml(count=0)) as seen:
        pass
    assert seen.after is not None
    assert seen.during == []
