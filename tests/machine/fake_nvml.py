"""A stand-in for pynvml: the real module's names, signatures and exceptions, with recorded answers.

A device is a mapping from an NVML function to its answer; a mapping as answer is looked up by the last argument. What
a device has no answer for raises NVMLError_NotSupported.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pynvml

from harness.machine.accelerators import Accelerators
from harness.machine.nvml import Device, device, session, visible

H100 = {
    "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=81559 * 2**20, used=2**20),
    "nvmlDeviceGetPowerManagementLimit": 700_000,
    "nvmlDeviceGetMaxClockInfo": {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619},
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlDeviceGetNvLinkState": dict.fromkeys(range(18), pynvml.NVML_FEATURE_ENABLED),
    "nvmlDeviceGetP2PStatus": {pynvml.NVML_P2P_CAPS_INDEX_NVLINK: pynvml.NVML_P2P_STATUS_OK},
    "nvmlDeviceGetTopologyCommonAncestor": pynvml.NVML_TOPOLOGY_SYSTEM,
    "nvmlDeviceGetMaxPcieLinkGeneration": 5,
    "nvmlDeviceGetMaxPcieLinkWidth": 16,
    "nvmlDeviceGetClockInfo": {pynvml.NVML_CLOCK_SM: 1755, pynvml.NVML_CLOCK_MEM: 2619},
    "nvmlDeviceGetTemperature": {pynvml.NVML_TEMPERATURE_GPU: 61},
    "nvmlDeviceGetPowerUsage": 698_400,
    "nvmlDeviceGetCurrentClocksEventReasons": pynvml.nvmlClocksEventReasonSwPowerCap,
}
CONSUMER = {
    "nvmlDeviceGetName": "NVIDIA GeForce RTX 4090",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24564 * 2**20, used=2**20),
    "nvmlDeviceGetMaxClockInfo": {pynvml.NVML_CLOCK_SM: 3105, pynvml.NVML_CLOCK_MEM: 10501},
    "nvmlDeviceGetTopologyCommonAncestor": pynvml.NVML_TOPOLOGY_HOSTBRIDGE,
    "nvmlDeviceGetCurrentClocksThrottleReasons": pynvml.nvmlClocksThrottleReasonGpuIdle,
}
IDLE = SimpleNamespace(gpu=0, memory=0)
MISSING_LIBRARY = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
MISMATCH = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH


class FakeNvml:
    """`count` devices of one kind; a UUID ends in the device's index. An empty device is one that was lost."""

    def __init__(self, device: Mapping[str, Any] = H100, count: int = 8, start_error: int | None = None) -> None:
        self.devices = [{**device, "nvmlDeviceGetUUID": f"GPU-5c1e07{i:02}"} for i in range(count)]
        self.start_error, self.sessions = start_error, 0

    def nvmlInit(self) -> None:
        if self.start_error is not None:
            raise pynvml.NVMLError(self.start_error)
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def __getattr__(self, name: str) -> Any:
        real = getattr(pynvml, name)
        return (lambda *args: self._answer(name, args)) if inspect.isfunction(real) else real

    def _answer(self, name: str, args: tuple[Any, ...]) -> Any:
        inspect.signature(getattr(pynvml, name)).bind(*args)
        if not self.sessions:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        of_machine = {
            "nvmlSystemGetDriverVersion": "550.54.15",
            "nvmlDeviceGetCount": len(self.devices),
            "nvmlDeviceGetHandleByIndex": {i: device for i, device in enumerate(self.devices) if device},
            "nvmlDeviceGetHandleByUUID": {device["nvmlDeviceGetUUID"]: device for device in self.devices if device},
        }
        answers = of_machine if name in of_machine else args[0]
        if name not in answers:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        answer = answers[name]
        if isinstance(answer, Mapping) and args[-1] not in answer:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return answer[args[-1]] if isinstance(answer, Mapping) else answer


def torch_sees(nvml: FakeNvml, listed: str | None = None) -> Accelerators:
    """What a torch built for CUDA would find where NVML lists these devices."""
    with session(nvml) as library:
        handles = visible(library, listed)
        found = [device(library, handle) for handle in handles]
    seen = [Device(name=d.name, memory_bytes=d.memory_bytes, uuid=(d.uuid or "").removeprefix("GPU-")) for d in found]
    return Accelerators(kind="cuda" if seen else None, devices=tuple(seen))
