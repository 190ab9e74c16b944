"""AMD's devices in NVML's words, by the package amdsmi where it is installed.

`Amd` has those of pynvml's functions that `nvml.py` calls and amdsmi can answer; the others are missing, which counts
as "cannot say". Units of amdsmi (https://rocm.docs.amd.com/projects/amdsmi): memory in MB, power in W and its cap in
uW, clocks in MHz, temperature in degrees Celsius, energy in steps of `counter_resolution` uJ.
"""

from __future__ import annotations

import importlib
from collections import Counter
from types import SimpleNamespace
from typing import Any

MB = 1 << 20
WATTS_AT_MOST = 10_000
"""A power cap above this is in uW; early versions gave W."""

_open: Counter[int] = Counter()
"""Sessions of each module: amdsmi ends with its first shut-down, however often it was started."""


class Amd:
    """AMD's devices, asked as NVML is asked.

    Args:
        smi: a module with amdsmi's functions.
    """

    NVMLError = Exception  # whatever amdsmi raises, and answers such as "N/A" that are no numbers, mean "cannot say"
    NVML_NVLINK_MAX_LINKS = 1
    NVML_CLOCK_SM, NVML_CLOCK_MEM = "GFX", "MEM"
    NVML_TEMPERATURE_GPU = "HOTSPOT"
    NVML_P2P_CAPS_INDEX_NVLINK = NVML_P2P_STATUS_OK = 0
    nvmlClocksThrottleReasonSwPowerCap = nvmlClocksThrottleReasonHwSlowdown = 0
    nvmlClocksThrottleReasonSwThermalSlowdown = nvmlClocksThrottleReasonHwThermalSlowdown = 0
    nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 0

    def __init__(self, smi: Any) -> None:
        self._smi = smi

    def nvmlInit(self) -> None:
        if not _open[id(self._smi)]:
            self._smi.amdsmi_init()
        _open[id(self._smi)] += 1

    def nvmlShutdown(self) -> None:
        _open[id(self._smi)] -= 1
        if not _open[id(self._smi)]:
            self._smi.amdsmi_shut_down()

    def nvmlDeviceGetCount(self) -> int:
        return len(self._smi.amdsmi_get_processor_handles())

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return self._smi.amdsmi_get_processor_handles()[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        """Torch writes the bytes of the device's unique number, which are its hexadecimal digits as text."""
        wanted = {uuid.lower(), _as_text(uuid)}
        for handle in self._smi.amdsmi_get_processor_handles():
            if wanted & {self.nvmlDeviceGetUUID(handle).lower(), self._unique(handle)}:
                return handle
        raise LookupError(f"no device {uuid}")

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return str(self._smi.amdsmi_get_gpu_device_uuid(handle))

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return str(self._smi.amdsmi_get_gpu_asic_info(handle)["market_name"])

    def nvmlSystemGetDriverVersion(self) -> str:
        first = self._smi.amdsmi_get_processor_handles()[0]
        return str(self._smi.amdsmi_get_gpu_driver_info(first)["driver_version"])

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        seen = self._smi.amdsmi_get_gpu_vram_usage(handle)
        return SimpleNamespace(total=int(seen["vram_total"]) * MB, used=int(seen["vram_used"]) * MB)

    def nvmlDeviceGetPowerManagementLimit(self, handle: Any) -> int:
        """In mW."""
        cap = int(self._smi.amdsmi_get_power_cap_info(handle)["power_cap"])
        return cap // 1000 if cap > WATTS_AT_MOST else cap * 1000

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        """In mW."""
        seen = self._smi.amdsmi_get_power_info(handle)
        now = next(w for w in (seen["current_socket_power"], seen["average_socket_power"]) if isinstance(w, int) and w)
        return now * 1000

    def nvmlDeviceGetClockInfo(self, handle: Any, kind: str) -> int:
        return int(self._clocks(handle, kind)["clk"])

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, kind: str) -> int:
        return int(self._clocks(handle, kind)["max_clk"])

    def nvmlDeviceGetTemperature(self, handle: Any, kind: str) -> int:
        sensor, metric = self._smi.AmdSmiTemperatureType[kind], self._smi.AmdSmiTemperatureMetric.CURRENT
        return int(self._smi.amdsmi_get_temp_metric(handle, sensor, metric))

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        return SimpleNamespace(gpu=int(self._smi.amdsmi_get_gpu_activity(handle)["gfx_activity"]))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> float:
        """In mJ."""
        seen = self._smi.amdsmi_get_energy_count(handle)
        return float(seen["energy_accumulator"]) * float(seen["counter_resolution"]) / 1000

    def _clocks(self, handle: Any, kind: str) -> Any:
        return self._smi.amdsmi_get_clock_info(handle, self._smi.AmdSmiClkType[kind])

    def _unique(self, handle: Any) -> str:
        return str(self._smi.amdsmi_get_gpu_asic_info(handle)["asic_serial"]).lower().removeprefix("0x")


def installed() -> Amd | None:
    """The devices of the installed package, None without it or the library that it calls."""
    try:
        return Amd(importlib.import_module("amdsmi"))
    except Exception:  # its import looks for the library in its own ways, and fails in as many
        return None


def _as_text(uuid: str) -> str:
    try:
        return bytes.fromhex(uuid.removeprefix("GPU-").replace("-", "")).decode("ascii").lower()
    except ValueError:
        return ""
