"""Hardware: what the harness runs on, read without importing torch, and the `hardware_id` that names it.

Everything is optional: a value that this system, driver or container does not show is None, never an error.
Linux is read from /proc, /sys and the process's control groups, macOS from sysctl, NVIDIA devices through NVML.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from harness.machine import accelerators, cgroups, processor
from harness.machine import nvml as nvidia
from harness.machine.accelerators import Accelerators
from harness.machine.nvml import Device, DeviceState

__all__ = ["Device", "DeviceState", "Hardware", "MachineState", "detect", "state"]

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The machine as this process may use it: container limits, affinity and CUDA_VISIBLE_DEVICES are applied."""

    cpu_model: str | None
    """As the processor calls itself."""
    physical_cores: int | None
    """Cores of the machine, hardware threads not counted."""
    usable_physical_cores: int | None = None
    """Cores whose hardware threads affinity leaves to this process: two threads of one core are one."""
    usable_cores: int
    """Logical cores that affinity and the control groups' quota leave to this process, at least 1."""
    memory_bytes: int
    """Memory of the machine, or the control groups' limit if that is lower."""
    l1d_bytes: int | None = None
    """The level-1 data cache of one core."""
    l2_bytes: int | None = None
    """The level-2 cache that one core sees."""
    l3_bytes: int | None = None
    """The level-3 cache that one core sees."""
    cpu_frequency_mhz: float | None = None
    """Momentary frequency, averaged over the cores."""
    cpu_frequency_max_mhz: float | None = None
    """Highest frequency the processor may choose."""
    governor: str | None = None
    """Linux frequency governor of the first core ("performance", "powersave", ...)."""
    numa_nodes: int | None = None
    """Memory nodes."""
    devices: tuple[Device, ...] = ()
    """Accelerators that ranks can run on, in torch's order."""
    accelerator: str = "cuda"
    """Torch's name of their kind; AMD's are "cuda" too."""
    unused: str | None = None
    """Why accelerators that are here are not among the devices, in one sentence; None if there are none."""
    interconnect: str | None = None
    """How the devices reach each other; None with fewer than two."""
    kernel: str | None = None
    """Release of the operating system's kernel."""
    operating_system: str | None = None
    """Name and version of the operating system."""
    torch_build: str | None = None
    """Version of torch with its build, such as "2.13.0+cpu"; None if torch is not installed."""
    label: str | None = None
    """What the user says of it that cannot be detected, such as the network between machines."""

    @property
    def device_type(self) -> str:
        """Torch's name of what ranks run on: that of the devices if there are any, otherwise "cpu"."""
        return self.accelerator if self.devices else "cpu"

    @property
    def default_ranks(self) -> int:
        """Ranks of a run that was not told how many: one for each device, two on a CPU, whatever it has.

        Two show everything that divides a training, and are what every batch and every model can be divided over.
        """
        return len(self.devices) or 2

    @property
    def capability(self) -> tuple[int, int] | None:
        """NVIDIA's compute capability of the least capable device; None if there is none, or it is not NVIDIA's."""
        found = [d.compute_capability for d in self.devices if d.compute_capability]
        return min((int(major), int(minor)) for major, minor in (each.split(".") for each in found)) if found else None

    @property
    def architecture(self) -> str | None:
        """AMD's name of the devices' architecture, the oldest if they differ; None for all others."""
        return min((d.architecture for d in self.devices if d.architecture), default=None)

    @property
    def machine_id(self) -> str:
        """The `hardware_id` that does not change with the versions of torch and the driver."""
        # What kernels and hypervisors keep of the memory differs by some MiB, too, and must not carry it over a half.
        same = replace(self, memory_bytes=math.ceil(self.memory_bytes / GIB) * GIB)
        versions = {"torch": None, "devices": [[*of[:3], None] for of in same.identity()["devices"]]}
        return same._named(same.identity() | versions)

    @property
    def hardware_id(self) -> str:
        """Readable slug plus hash, such as "cpu-amd-epyc-2c-23g-1a2b3c" or "8xh100-80g-4d5e6f"."""
        return self._named(self.identity())

    def _named(self, identity: Mapping[str, Any]) -> str:
        text = json.dumps(identity, sort_keys=True)
        slug = f"{self._slug()}-{_dashed(self.label)}" if self.label else self._slug()
        return f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"

    def identity(self) -> dict[str, Any]:
        """The facts that decide whether two measurements may be compared; momentary values are not among them."""
        said = {"label": self.label} if self.label else {}
        return said | {
            "cpu": [self.cpu_model, self.usable_cores, _gib(self.memory_bytes)],
            "devices": [[d.name, _gib(d.memory_bytes), d.power_limit_w, d.driver] for d in self.devices],
            "links": [[d.nvlinks, d.pcie_generation, d.pcie_width] for d in self.devices],
            "interconnect": self.interconnect,
            "torch": self.torch_build,
        }

    def to_info(self) -> dict[str, str]:
        """Everything known, for people: label -> text."""
        caches = (("L1d", self.l1d_bytes), ("L2", self.l2_bytes), ("L3", self.l3_bytes))
        info = {
            "hardware": self.hardware_id,
            "CPU": self.cpu_model,
            "cores": f"{self.usable_cores} usable" + _known(", {} physical", self.physical_cores),
            "caches": ", ".join(f"{name} {size // 1024} KiB" for name, size in caches if size),
            "CPU frequency": _known("{:.0f} MHz", self.cpu_frequency_mhz),
            "CPU frequency limit": _known("{:.0f} MHz", self.cpu_frequency_max_mhz),
            "governor": self.governor,
            "NUMA nodes": _known("{}", self.numa_nodes),
            "memory": f"{self.memory_bytes / GIB:.1f} GiB",
            "devices": "; ".join(f"{n} x {_device_text(d)}" for d, n in Counter(self.devices).items()),
            "interconnect": self.interconnect,
            "label": self.label,
            "driver": ", ".join(sorted({d.driver for d in self.devices if d.driver})),
            "torch": self.torch_build,
            "operating system": self.operating_system,
            "kernel": self.kernel,
        }
        return {label: text for label, text in info.items() if text}

    def _slug(self) -> str:
        if self.device_type == "cpu":
            model = re.sub(r"\((r|tm)\)|@.*|\b(cpu|processor|\d+-core)\b", " ", (self.cpu_model or "unknown").lower())
            return f"cpu-{_dashed(model)}-{self.usable_cores}c-{_gib(self.memory_bytes)}g"
        kinds = Counter(_dashed(_short(d.name)) + _known("-{}g", _gib(d.memory_bytes)) for d in self.devices)
        return "-".join(f"{n}x{kind}" for kind, n in kinds.items())


@dataclass(frozen=True, kw_only=True)
class MachineState:
    """The machine at one moment, to tell whether a trial ran on a busy or throttled one."""

    at_s: float = field(default_factory=time.monotonic, compare=False)
    """When it was looked at, on the machine's monotonic clock."""
    load_1min: float | None = None
    """Runnable processes, averaged over the last minute."""
    cpu_frequency_mhz: float | None = None
    """Averaged over the cores."""
    devices: tuple[DeviceState, ...] = ()
    """In the order of `Hardware.devices`."""


def detect(
    nvml: Any = None,
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
    seen: Accelerators | None = None,
) -> Hardware:
    """Read the machine.

    Args:
        nvml: a module with pynvml's functions; None takes the installed one, if any.
        root: where /proc and /sys are looked for.
        environ: where CUDA_VISIBLE_DEVICES is looked for.
        seen: the accelerators that torch finds; None: it is asked.
    """
    seen, build = accelerators.ask(environ) if seen is None else seen, accelerators.build()
    with nvidia.session(nvml) as library:
        listed = nvidia.visible(library, environ.get("CUDA_VISIBLE_DEVICES"))
        cards = [nvidia.device(library, handle).name for handle in listed]
        usable = seen.devices if seen.kind in accelerators.RUN_ON else ()
        handles = [nvidia.of_uuid(library, device.uuid, index) for index, device in enumerate(usable)]
        driver = [None if handle is None else nvidia.device(library, handle) for handle in handles]
        interconnect = nvidia.interconnect(library, [handle for handle in handles if handle is not None])
    devices = tuple(itertools.starmap(accelerators.with_driver, zip(usable, driver, strict=True)))
    now, most = processor.frequency_mhz()
    caches = processor.caches(root)
    return Hardware(
        cpu_model=processor.cpu_model(root),
        physical_cores=psutil.cpu_count(logical=False),
        usable_physical_cores=processor.usable_physical_cores(root),
        usable_cores=processor.usable_cores(root),
        memory_bytes=min([psutil.virtual_memory().total, *cgroups.memory_limits(root)]),
        l1d_bytes=caches.get("l1d_bytes"),
        l2_bytes=caches.get("l2_bytes"),
        l3_bytes=caches.get("l3_bytes"),
        cpu_frequency_mhz=now,
        cpu_frequency_max_mhz=most,
        governor=processor.text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        numa_nodes=len(list(root.glob("sys/devices/system/node/node[0-9]*"))) or None,
        devices=devices,
        accelerator=seen.kind if seen.kind in accelerators.RUN_ON else "cuda",
        unused=_unused(seen, devices, cards, build.version),
        interconnect=interconnect,
        kernel=platform.release() or None,
        operating_system=processor.os_name(),
        torch_build=build.version,
    )


def _unused(seen: Accelerators, devices: Sequence[Device], cards: Sequence[str], torch: str | None) -> str | None:
    """Why accelerators that are here are not used, in one sentence.

    Args:
        seen: what torch answered.
        devices: those that ranks can run on.
        cards: names of NVIDIA's cards that this process may use by their driver.
        torch: its version.
    """
    if seen.problem:
        return f"ranks run on the CPU: {seen.problem}"
    if seen.kind and seen.kind not in accelerators.RUN_ON:
        return f"the {seen.kind} device is not used, and ranks run on the CPU: torch has no collectives for it"
    counted = ", ".join(f"{n} x {name}" for name, n in Counter(cards).items())
    if cards and not devices:
        return f"{counted} cannot be used by torch {torch or '(which is not installed)'}: ranks run on the CPU"
    if len(devices) < len(cards):
        return f"torch uses {len(devices)} of {counted}: slices of a card (MIG) cannot work together"
    return None


def state(nvml: Any = None, devices: Sequence[Device] = ()) -> MachineState:
    """Read what changes from moment to moment.

    Hold one `nvml.session` open around many calls: it keeps each from starting the driver anew.

    Args:
        nvml: a module with pynvml's functions; None takes the installed one, if any.
        devices: of `Hardware`, those that are asked about.
    """
    with nvidia.session(nvml) as library:
        handles = [nvidia.of_uuid(library, device.uuid, index) for index, device in enumerate(devices)]
        states = tuple(DeviceState() if h is None else nvidia.device_state(library, h) for h in handles)
    return MachineState(load_1min=processor.load_1min(), cpu_frequency_mhz=processor.frequency_mhz()[0], devices=states)


# -- text


def _gib(size_bytes: int | None) -> int | None:
    return None if size_bytes is None else round(size_bytes / GIB)


def _known(form: str, value: float | str | None) -> str:
    return "" if value is None else form.format(value)


def _dashed(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unknown"


def _short(device: str) -> str:
    return re.sub(r"\b(nvidia|geforce|tesla|quadro|graphics|device|\d+ ?gb|hbm\w*)\b", " ", device.lower())


def _device_text(device: Device) -> str:
    facts = (
        _known("{:.1f} GiB", None if device.memory_bytes is None else device.memory_bytes / GIB),
        _known("{:.0f} W", device.power_limit_w),
        _known("SM {} MHz", device.sm_clock_max_mhz),
        _known("memory {} MHz", device.memory_clock_max_mhz),
        _known("compute capability {}", device.compute_capability),
        _known("{} NVLinks", device.nvlinks),
        _known("PCIe generation {}", device.pcie_generation),
        _known("{} lanes", device.pcie_width),
    )
    return ", ".join([device.name, *filter(None, facts)])
