from __future__ import annotations

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from harness.machine import nvml as nvidia
from harness.machine.hardware import Device, Hardware, detect, state
from tests.machine.fake_nvml import CONSUMER, H100, MISMATCH, MISSING_LIBRARY, FakeNvml, torch_sees


def detected(nvml: FakeNvml, listed: str | None = None) -> Hardware:
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    return replace(detect(nvml, environ=environ, seen=torch_sees(nvml, listed)), torch_build="2.13.0+cu130")


def indices(machine: Hardware) -> list[int]:
    return [int(str(device.uuid)[-2:]) for device in machine.devices]


def test_eight_h100_are_read_in_base_units() -> None:
    machine = detected(FakeNvml())
    assert machine.devices == 8 * (
        Device(
            name="NVIDIA H100 80GB HBM3",
            memory_bytes=85_520_809_984,
            driver="550.54.15",
            power_limit_w=700.0,
            sm_clock_max_mhz=1980,
            memory_clock_max_mhz=2619,
            compute_capability="9.0",
            nvlinks=18,
            pcie_generation=5,
            pcie_width=16,
        ),
    )
    assert machine.interconnect == "NVLink between all pairs"
    assert machine.hardware_id.startswith("8xh100-80g-")
    assert machine.device_type == "cuda"


def test_what_a_card_does_not_support_is_none() -> None:
    (card,) = detected(FakeNvml(CONSUMER, count=1)).devices
    assert (card.power_limit_w, card.nvlinks, card.compute_capability, card.pcie_width) == (None, None, None, None)
    assert (card.name, card.sm_clock_max_mhz) == ("NVIDIA GeForce RTX 4090", 3105)


def test_a_card_that_supports_nothing_is_still_listed() -> None:
    machine = detected(FakeNvml({}, count=1))
    assert machine.devices == (Device(name="unknown device", driver="550.54.15"),)
    assert machine.hardware_id.startswith("1xunknown-")


@pytest.mark.parametrize("error", [MISSING_LIBRARY, MISMATCH, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_without_a_library_or_driver_there_are_no_devices(error: int) -> None:
    machine = detected(FakeNvml(start_error=error))
    assert (machine.devices, machine.interconnect, machine.device_type) == ((), None, "cpu")


def test_without_the_nvml_package_there_are_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert detect().devices == ()
    assert nvidia.problem() == "the package nvidia-ml-py is not installed"


def test_every_nvml_session_is_closed_even_if_its_body_fails() -> None:
    fake = FakeNvml()
    detect(fake), state(fake), nvidia.problem(fake)
    with pytest.raises(ZeroDivisionError), nvidia.session(fake):
        _ = 1 / 0
    assert fake.sessions == 0


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("2", [2]),
        ("3, 1", [3, 1]),
        ("1,9,0", [1]),
        ("1,-1,0", [1]),
        ("0,1,0", []),
        ("GPU-5c1e0702,GPU-5c1e0700", [2, 0]),
        ("GPU-5c1e0703", [3]),
        ("GPU-5c", []),
        ("GPU-ffff", []),
        ("MIG-ffff", []),
        ("none", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(listed: str | None, expected: list[int]) -> None:
    assert indices(detected(FakeNvml(count=4), listed)) == expected


def test_a_mig_slice_is_found_by_its_uuid() -> None:
    fake = FakeNvml(count=1)
    fake.devices[0]["nvmlDeviceGetUUID"] = "MIG-7a"
    assert [device.uuid for device in detected(fake, "MIG-7a").devices] == ["MIG-7a"]


def test_a_lost_device_is_left_out_and_ends_a_list_that_names_it() -> None:
    fake = FakeNvml(count=3)
    fake.devices[0] = {}
    assert indices(detected(fake)) == [1, 2]
    assert indices(detected(fake, "2,0,1")) == [2]


def test_pairs_that_differ_in_their_path_are_counted() -> None:
    fake = FakeNvml(CONSUMER, count=3)
    fake.devices[0]["nvmlDeviceGetP2PStatus"] = H100["nvmlDeviceGetP2PStatus"]
    assert detected(fake).interconnect == "NVLink between 2 of 3 pairs, PCIe (PHB) between 1 of 3 pairs"


def test_one_device_has_no_interconnect() -> None:
    assert detected(FakeNvml(count=1)).interconnect is None


def test_the_state_has_the_clocks_of_the_moment_and_what_slows_them() -> None:
    nvml = FakeNvml(count=2)
    now = state(nvml, detected(nvml, "1").devices)
    (card,) = now.devices
    assert (card.sm_clock_mhz, card.memory_clock_mhz, card.temperature_c) == (1755, 2619, 61)
    assert (card.power_w, card.throttled_by) == (698.4, ("power cap",))


def test_older_drivers_name_the_slowdown_too_and_idling_is_none() -> None:
    nvml = FakeNvml(CONSUMER, count=1)
    (card,) = state(nvml, detected(nvml).devices).devices
    assert (card.throttled_by, card.power_w, card.temperature_c) == ((), None, None)


def test_a_driver_that_does_not_tell_leaves_throttling_unknown() -> None:
    nvml = FakeNvml({}, count=1)
    (card,) = state(nvml, detected(nvml).devices).devices
    assert card.throttled_by is None


def test_every_nvml_name_in_use_exists_in_the_installed_package() -> None:
    used = set(re.findall(r"\b(?:nvml[A-Z]\w+|NVML_\w+)", Path(nvidia.__file__).read_text(encoding="utf-8")))
    real = importlib.import_module("pynvml")
    templates = {"nvmlClocksThrottleReason"}
    assert {name for name in used - templates if not hasattr(real, name)} == set()
