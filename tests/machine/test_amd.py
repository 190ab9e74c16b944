"""AMD's devices are told in NVML's words; what amdsmi cannot say is None."""

from __future__ import annotations

import sys
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest

from harness.machine import nvml
from harness.machine.amd import Amd

SERIAL = "0xD2FDC8E4F0D78E47"
TORCH = bytes(SERIAL.removeprefix("0x").lower(), "ascii").hex()
"""As torch writes it."""


class AmdSmiClkType(IntEnum):
    GFX = 1
    MEM = 4


class AmdSmiTemperatureType(IntEnum):
    HOTSPOT = 1


class AmdSmiTemperatureMetric(IntEnum):
    CURRENT = 0


class Smi:
    """Two MI300X, by the names and units of amdsmi 7.0."""

    AmdSmiClkType = AmdSmiClkType
    AmdSmiTemperatureType = AmdSmiTemperatureType
    AmdSmiTemperatureMetric = AmdSmiTemperatureMetric

    def __init__(self, **answers: Any) -> None:
        self.started = 0
        self.answers = answers

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            raise AttributeError(name)
        return lambda *asked: self.answers[name]

    def amdsmi_init(self) -> None:
        self.started += 1

    def amdsmi_shut_down(self) -> None:
        self.started -= 1

    def amdsmi_get_processor_handles(self) -> list[str]:
        return ["first", "second"]

    def amdsmi_get_gpu_device_uuid(self, handle: str) -> str:
        return f"beff74a1-0000-1000-80ee-{handle}"

    def amdsmi_get_gpu_asic_info(self, handle: str) -> dict[str, Any]:
        return {"market_name": "AMD Instinct MI300X", "asic_serial": SERIAL if handle == "second" else "0x1"}

    def amdsmi_get_clock_info(self, handle: str, kind: AmdSmiClkType) -> dict[str, int]:
        return {"clk": 132 * kind, "max_clk": 2100 if kind is AmdSmiClkType.GFX else 1300}


FULL = {
    "amdsmi_get_gpu_driver_info": {"driver_version": "6.12.12"},
    "amdsmi_get_gpu_vram_usage": {"vram_total": 196_592, "vram_used": 283},
    "amdsmi_get_power_cap_info": {"power_cap": 750_000_000},
    "amdsmi_get_power_info": {"current_socket_power": 141, "average_socket_power": "N/A"},
    "amdsmi_get_temp_metric": 47,
    "amdsmi_get_gpu_activity": {"gfx_activity": 12},
    "amdsmi_get_energy_count": {"energy_accumulator": 1_000_000, "counter_resolution": 15.3},
}


def test_a_device_and_its_state_are_told() -> None:
    with nvml.session(Amd(Smi(**FULL))) as library:
        handle = nvml.of_uuid(library, TORCH, 0)
        assert handle == "second"
        card, now = nvml.device(library, handle), nvml.device_state(library, handle)
        assert nvml.energy_j(library, handle) == pytest.approx(15.3)
    assert (card.name, card.driver, card.power_limit_w) == ("AMD Instinct MI300X", "6.12.12", 750.0)
    assert (card.memory_bytes, card.sm_clock_max_mhz, card.memory_clock_max_mhz) == (196_592 << 20, 2100, 1300)
    assert (card.nvlinks, card.compute_capability) == (None, None)
    assert (now.sm_clock_mhz, now.memory_clock_mhz, now.temperature_c) == (132, 528, 47)
    assert (now.power_w, now.busy_share, now.used_bytes) == (141.0, 0.12, 283 << 20)
    assert now.throttled_by is None


def test_what_cannot_be_said_is_none() -> None:
    mute = {**FULL, "amdsmi_get_power_info": {"current_socket_power": "N/A", "average_socket_power": "N/A"}}
    mute["amdsmi_get_gpu_activity"] = {"gfx_activity": "N/A"}
    del mute["amdsmi_get_temp_metric"], mute["amdsmi_get_energy_count"]
    with nvml.session(Amd(Smi(**mute))) as library:
        now = nvml.device_state(library, "first")
        assert nvml.energy_j(library, "first") is None
        assert nvml.of_uuid(library, "00" * 16, 0) is None
    assert (now.power_w, now.busy_share, now.temperature_c) == (None, None, None)


def test_a_power_cap_in_watts_is_one_too() -> None:
    with nvml.session(Amd(Smi(**{**FULL, "amdsmi_get_power_cap_info": {"power_cap": 750}}))) as library:
        assert nvml.device(library, "first").power_limit_w == 750.0


def test_it_is_asked_where_nvml_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    smi = Smi(**FULL)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "amdsmi", smi)
    with nvml.session() as library:
        assert isinstance(library, Amd)
        assert [nvml.device(library, handle).name for handle in nvml.visible(library, None)] == [
            "AMD Instinct MI300X"
        ] * 2
        with nvml.session():
            assert smi.started == 1
        assert smi.started == 1
    assert smi.started == 0


def test_a_package_without_its_library_or_devices_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    with nvml.session() as library:
        assert library is None

    def no_devices() -> None:
        raise RuntimeError("AMDSMI_STATUS_DRIVER_NOT_LOADED")

    monkeypatch.setitem(sys.modules, "amdsmi", SimpleNamespace(amdsmi_init=no_devices))  # type: ignore[arg-type]
    with nvml.session() as library:
        assert library is None
