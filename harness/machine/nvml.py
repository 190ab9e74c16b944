"""NVIDIA devices through NVML: which are visible, what they are, what state they are in.

The functions take the started NVML module that `session` gives; what a device or driver cannot say is None, never an
error. https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import importlib
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.machine import amd

_TOPOLOGY = {0: "one board", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
"""NVML's level of the common ancestor of two devices -> its name in `nvidia-smi topo -m`."""

_THROTTLES = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SwThermalSlowdown": "thermal slowdown",
    "HwThermalSlowdown": "hardware thermal slowdown",
    "HwPowerBrakeSlowdown": "power brake",
}
"""Clock event reasons that slow a busy device; idling and clocks set by the owner are not among them."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator that the process may use."""

    name: str
    """As the driver calls it, such as "NVIDIA H100 80GB HBM3"."""
    memory_bytes: int | None = None
    """All of its memory."""
    driver: str | None = None
    """Version of the driver."""
    power_limit_w: float | None = None
    """The limit that was set; what is in force at the moment may be less."""
    sm_clock_max_mhz: int | None = None
    """Highest clock of the multiprocessors."""
    memory_clock_max_mhz: int | None = None
    """Highest clock of the memory."""
    compute_capability: str | None = None
    """Such as "9.0"."""
    nvlinks: int | None = None
    """Active NVLink links."""
    pcie_generation: int | None = None
    """Highest generation that device and slot share."""
    pcie_width: int | None = None
    """Lanes that device and slot share."""
    architecture: str | None = None
    """AMD's name of it, such as "gfx942"."""
    processors: int | None = None
    """Multiprocessors, or compute units."""
    uuid: str | None = field(default=None, compare=False)
    """Which physical card it is; devices that differ in it alone are equal."""


@dataclass(frozen=True, kw_only=True)
class DeviceState:
    """One device at one moment."""

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    throttled_by: tuple[str, ...] | None = None
    """What holds its clocks down; () if nothing does, None if the driver does not say."""
    busy_share: float | None = None
    """Share of the last moments in which a kernel ran, of any process."""
    used_bytes: int | None = None
    """Memory that is taken, by all processes."""


@contextmanager
def session(nvml: Any = None) -> Iterator[Any]:
    """The NVML module, started as long as the session lasts, or None where it cannot start.

    Sessions nest. Starting can take a second on a device without persistence mode, so hold one open around many.

    Args:
        nvml: a module with pynvml's functions; None takes the installed one, or amdsmi in its words.
    """
    try:
        library = _start(nvml)
    except OSError:
        library = None if nvml is not None else _start_amd()
    try:
        yield library
    finally:
        if library is not None:
            _ask(library, "nvmlShutdown")


def problem(nvml: Any = None) -> str | None:
    """Why NVML cannot start here, or None if it can."""
    try:
        _ask(_start(nvml), "nvmlShutdown")
    except OSError as error:
        return str(error)
    return None


def visible(nvml: Any, listed: str | None) -> list[Any]:
    """Handles of the devices that CUDA_VISIBLE_DEVICES = `listed` leaves, by CUDA's rules; all of them for None.

    Entries are indices, UUIDs or unambiguous beginnings of UUIDs; the list ends at the first one that names no device,
    and a device listed twice leaves none. Indices count in NVML's order, the one of CUDA_DEVICE_ORDER=PCI_BUS_ID.
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
    """
    if nvml is None:
        return []
    handles = [_ask(nvml, "nvmlDeviceGetHandleByIndex", i) for i in range(_ask(nvml, "nvmlDeviceGetCount") or 0)]
    if listed is None:
        return [handle for handle in handles if handle is not None]
    chosen: dict[str, Any] = {}
    for entry in listed.replace(" ", "").split(","):
        handle = _named(nvml, entry, handles)
        if handle is None:
            break
        if entry in chosen:
            return []
        chosen[entry] = handle
    return list(chosen.values())


def device(nvml: Any, handle: Any) -> Device:
    """What does not change from moment to moment."""
    memory = _ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    limit_mw = _ask(nvml, "nvmlDeviceGetPowerManagementLimit", handle)
    capability = _ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    links = [_ask(nvml, "nvmlDeviceGetNvLinkState", handle, link) for link in range(nvml.NVML_NVLINK_MAX_LINKS)]
    return Device(
        name=_ask(nvml, "nvmlDeviceGetName", handle) or "unknown device",
        memory_bytes=None if memory is None else int(memory.total),
        driver=_ask(nvml, "nvmlSystemGetDriverVersion"),
        power_limit_w=None if limit_mw is None else limit_mw / 1000,
        sm_clock_max_mhz=_ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_SM),
        memory_clock_max_mhz=_ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_MEM),
        compute_capability=None if capability is None else ".".join(map(str, capability)),
        nvlinks=None if links[0] is None else sum(map(bool, links)),
        pcie_generation=_ask(nvml, "nvmlDeviceGetMaxPcieLinkGeneration", handle),
        pcie_width=_ask(nvml, "nvmlDeviceGetMaxPcieLinkWidth", handle),
        uuid=_ask(nvml, "nvmlDeviceGetUUID", handle),
    )


def device_state(nvml: Any, handle: Any) -> DeviceState:
    """What changes from moment to moment."""
    power_mw = _ask(nvml, "nvmlDeviceGetPowerUsage", handle)
    reasons = _ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if reasons is None:  # older drivers know the function by its older name only
        reasons = _ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    rates = _ask(nvml, "nvmlDeviceGetUtilizationRates", handle)
    memory = _ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    bits = {text: getattr(nvml, f"nvmlClocksThrottleReason{name}") for name, text in _THROTTLES.items()}
    return DeviceState(
        sm_clock_mhz=_ask(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
        memory_clock_mhz=_ask(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
        temperature_c=_ask(nvml, "nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
        power_w=None if power_mw is None else power_mw / 1000,
        throttled_by=None if reasons is None else tuple(text for text, bit in bits.items() if reasons & bit),
        busy_share=None if rates is None else rates.gpu / 100,
        used_bytes=None if memory is None else int(memory.used),
    )


def persistence(nvml: Any, handle: Any) -> bool | None:
    """Whether the driver keeps a device ready when nobody uses it; None if it does not say."""
    mode = _ask(nvml, "nvmlDeviceGetPersistenceMode", handle)
    return None if mode is None else bool(mode)


def of_uuid(nvml: Any, uuid: str | None, index: int) -> Any:
    """The handle of a device that torch knows by this UUID, or of the one at this place where it knows none.

    Torch leaves out what NVML writes before it: "GPU-" for a card, "MIG-" for a slice of one.
    """
    if nvml is None:
        return None
    if uuid is None:
        return _ask(nvml, "nvmlDeviceGetHandleByIndex", index)
    bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
    names = (uuid, f"GPU-{bare}", f"MIG-{bare}")
    found = (_ask(nvml, "nvmlDeviceGetHandleByUUID", name) for name in names)
    return next((handle for handle in found if handle is not None), None)


def energy_j(nvml: Any, handle: Any) -> float | None:
    """Energy the device has used since the driver was loaded, in J; None before Volta."""
    energy_mj = _ask(nvml, "nvmlDeviceGetTotalEnergyConsumption", handle)
    return None if energy_mj is None else energy_mj / 1000


def interconnect(nvml: Any, handles: list[Any]) -> str | None:
    """How the devices reach each other: each kind of path with its number of pairs; None with fewer than two."""
    pairs = Counter(_path(nvml, a, b) for a, b in itertools.combinations(handles, 2))
    if len(pairs) < 2:
        return next((f"{path} between all pairs" for path in pairs), None)
    return ", ".join(f"{path} between {n} of {pairs.total()} pairs" for path, n in sorted(pairs.items()))


def _start(nvml: Any) -> Any:
    try:
        library = nvml or importlib.import_module("pynvml")
    except ImportError:
        raise OSError("the package nvidia-ml-py is not installed") from None
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise OSError(str(error)) from error
    return library


def _start_amd() -> Any:
    library = amd.installed()
    if library is None:
        return None
    try:
        library.nvmlInit()
    except library.NVMLError:  # no device of AMD's is here
        return None
    return library


def _path(nvml: Any, a: Any, b: Any) -> str:
    status = _ask(nvml, "nvmlDeviceGetP2PStatus", a, b, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
    if status == nvml.NVML_P2P_STATUS_OK:
        return "NVLink"
    level = _ask(nvml, "nvmlDeviceGetTopologyCommonAncestor", a, b)
    return f"PCIe ({_TOPOLOGY[level]})" if level in _TOPOLOGY else "an unknown path"


def _named(nvml: Any, entry: str, handles: list[Any]) -> Any:
    if entry.isdecimal():
        return handles[int(entry)] if int(entry) < len(handles) else None
    if entry.startswith("MIG-"):
        return _ask(nvml, "nvmlDeviceGetHandleByUUID", entry)
    present = [handle for handle in handles if entry and handle is not None]
    matches = [handle for handle in present if (_ask(nvml, "nvmlDeviceGetUUID", handle) or "").startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def _ask(nvml: Any, function: str, *args: Any) -> Any:
    """The answer of an NVML function, or None if this device, driver or package cannot give one."""
    try:
        return getattr(nvml, function)(*args)
    except (nvml.NVMLError, AttributeError):
        return None
