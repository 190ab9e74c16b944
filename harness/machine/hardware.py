"""Hardware: what the harness runs on, read without importing torch, and the `hardware_id` that names it.

Everything is optional: a value that this system, driver or container does not show is None, never an error.
Linux is read from /proc, /sys and the process's control groups, macOS from sysctl, NVIDIA devices through NVML.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness.machine import nvml as nvidia
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
    """Visible accelerators, in the order of CUDA_VISIBLE_DEVICES."""
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
        """ "cuda" if there is a visible device and torch is not built for something else, otherwise "cpu"."""
        build = (self.torch_build or "+cpu").partition("+")[2]
        return "cuda" if self.devices and not build.startswith(("cpu", "rocm", "xpu")) else "cpu"

    @property
    def hardware_id(self) -> str:
        """Readable slug plus hash, such as "cpu-amd-epyc-2c-23g-1a2b3c" or "8xh100-80g-4d5e6f"."""
        text = json.dumps(self.identity(), sort_keys=True)
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

    load_1min: float | None = None
    """Runnable processes, averaged over the last minute."""
    cpu_frequency_mhz: float | None = None
    """Averaged over the cores."""
    devices: tuple[DeviceState, ...] = ()
    """In the order of `Hardware.devices`."""


def detect(nvml: Any = None, root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> Hardware:
    """Read the machine.

    Args:
        nvml: a module with pynvml's functions; None takes the installed one, if any.
        root: where /proc and /sys are looked for.
        environ: where CUDA_VISIBLE_DEVICES is looked for.
    """
    with nvidia.session(nvml) as library:
        handles = nvidia.visible(library, environ.get("CUDA_VISIBLE_DEVICES"))
        devices = tuple(nvidia.device(library, handle) for handle in handles)
        interconnect = nvidia.interconnect(library, handles)
    now, most = _frequency_mhz()
    caches = _caches(root)
    return Hardware(
        cpu_model=_cpu_model(root),
        physical_cores=psutil.cpu_count(logical=False),
        usable_cores=_usable_cores(root),
        memory_bytes=min([psutil.virtual_memory().total, *_memory_limits(root)]),
        l1d_bytes=caches.get("l1d_bytes"),
        l2_bytes=caches.get("l2_bytes"),
        l3_bytes=caches.get("l3_bytes"),
        cpu_frequency_mhz=now,
        cpu_frequency_max_mhz=most,
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        numa_nodes=len(list(root.glob("sys/devices/system/node/node[0-9]*"))) or None,
        devices=devices,
        interconnect=interconnect,
        kernel=platform.release() or None,
        operating_system=_os_name(),
        torch_build=_torch_build(),
    )


def state(nvml: Any = None, environ: Mapping[str, str] = os.environ) -> MachineState:
    """Read what changes from moment to moment; arguments as for `detect`.

    Hold one `nvml.session` open around many calls: it keeps each from starting the driver anew.
    """
    with nvidia.session(nvml) as library:
        handles = nvidia.visible(library, environ.get("CUDA_VISIBLE_DEVICES"))
        devices = tuple(nvidia.device_state(library, handle) for handle in handles)
    return MachineState(load_1min=_load_1min(), cpu_frequency_mhz=_frequency_mhz()[0], devices=devices)


# -- processor


def _cpu_model(root: Path) -> str | None:
    lines = (line.partition(":") for line in (_text(root / "proc/cpuinfo") or "").splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    if "CPU part" in facts and "model name" not in facts:  # Arm names its processors by numbers
        return f"{platform.machine()} {facts.get('CPU implementer', '')} {facts['CPU part']}"
    return facts.get("model name") or _sysctl("machdep.cpu.brand_string") or platform.machine() or None


def _usable_cores(root: Path) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(int, _cpu_quotas(root))]))


def _cpu_quotas(root: Path) -> list[float]:
    """Cores' worth of time that each group grants; https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max)."""
    quotas = []
    for group in control_groups("cpu", root):
        v2 = _text(group / "cpu.max")
        quota, period = v2.split() if v2 else (_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))
        if quota and period and quota.isdecimal():  # "max" and -1 set no limit
            quotas.append(int(quota) / int(period))
    return quotas


def _caches(root: Path) -> dict[str, int | None]:
    names = {"1": "l1d", "2": "l2", "3": "l3"}
    sizes = {name: _sysctl(f"hw.{name}cachesize") for name in names.values()}
    found = {f"{name}_bytes": int(size) if size else None for name, size in sizes.items()}
    for index in root.glob("sys/devices/system/cpu/cpu0/cache/index[0-9]*"):
        kind, level, size = (_text(index / name) for name in ("type", "level", "size"))
        if kind in ("Data", "Unified") and level in names and size and size.endswith("K"):
            found[f"{names[level]}_bytes"] = int(size[:-1]) * 1024
    return found


def _frequency_mhz() -> tuple[float | None, float | None]:
    """Current frequency (mean over the cores) and the highest."""
    try:
        frequency = psutil.cpu_freq()
    except (AttributeError, NotImplementedError, OSError, RuntimeError):  # some systems show none
        frequency = None
    return (frequency.current or None, frequency.max or None) if frequency else (None, None)


def _load_1min() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


# -- memory and system


def _memory_limits(root: Path) -> list[int]:
    names = ("memory.max", "memory.limit_in_bytes")
    texts = [_text(group / name) for group in control_groups("memory", root) for name in names]
    return [int(text) for text in texts if text and text.isdecimal()]


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Folders of the process's control group and of every group around it, in either version of the interface."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / (controller if controllers else "")
            folder = mount / group.strip("/")
            while folder != mount:
                yield folder
                folder = folder.parent
            yield mount


def _os_name() -> str | None:
    if version := platform.mac_ver()[0]:
        return f"macOS {version}"
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system() or None


def _torch_build() -> str | None:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def _sysctl(name: str) -> str | None:
    """A value of macOS's sysctl; None on every other system."""
    if platform.system() != "Darwin":
        return None
    try:
        return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


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
