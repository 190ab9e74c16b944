"""Doctor: what this machine can run, what is missing, and the command that mends it.

Each check is a function of what was measured; `examine` does the measuring.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from harness.machine import cgroups, surroundings
from harness.machine import nvml as nvidia
from harness.machine.hardware import GIB, Hardware, MachineState, detect, state

_EXTRAS = {
    "torchao": ("quantization", "quantised arithmetic and optimizer states need it"),
    "scikit-learn": ("cnn", "the cnn workload needs its data"),
    "tokenizers": ("tokenizers", "tokens other than bytes need it"),
}
"""Distribution -> (extra that installs it, why)."""

_RANK_MEMORY_BYTES = GIB
"""An interpreter with torch (about 0.4 GiB) and room for a small workload."""
_CUDA_SHM_BYTES = GIB
"""NCCL's shared-memory transport wants several MiB for each channel and pair of devices; Docker's default is 64 MiB."""
_OPEN_FILES = 1024
"""Linux's usual limit; a rank opens a socket to each peer for each process group. macOS starts with 256."""
_BUSY_SHARE = 0.25
"""Load per usable core from which other programs disturb a measurement."""
_PRESSURE = 0.05
"""Share of the time in which every process waits for memory."""
_SWAP_BYTES = GIB // 4
"""Idle pages that were swapped out long ago are harmless; more than this is pressure."""

_REINSTALL_TORCH = "pip install uv && uv pip install --reinstall --torch-backend=auto torch"
"""uv chooses the build that the driver supports: https://docs.astral.sh/uv/guides/integration/pytorch/"""


class State(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    WARN = "warn"
    """It runs, but slower, or with numbers to be doubted."""
    MISSING = "missing"
    """Something cannot run without it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    """What was found, in a few words."""
    fix: str = ""
    """The command that mends it; empty only if the state is ok."""


def examine(results: Path = Path("results"), hardware: Hardware | None = None, nvml: Any = None) -> list[Finding]:
    """Look at everything that decides what can run here and how far its numbers can be believed. Imports torch.

    Args:
        results: folder that trials will be recorded in.
        hardware: the machine, if it was detected already.
        nvml: a module with pynvml's functions; None takes the installed one.
    """
    machine, now, torch = hardware or detect(nvml), state(nvml), _import("torch")
    return [
        _ok("python", platform.python_version()),
        torch_build(machine, torch),
        devices(machine),
        persistence(machine, nvml),
        nvml_readable(machine, nvidia.problem(nvml), Path("/proc/driver/nvidia/version").exists()),
        gloo(torch),
        nccl(machine, torch),
        *(extra(name, _version(name)) for name in _EXTRAS),
        compiler(os.environ.get("CXX") or ("clang++" if _is_macos() else "g++")),
        ranks(machine),
        memory(machine, psutil.virtual_memory().available),
        shared_memory(machine, _size_bytes(Path("/dev/shm"))),
        open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        loopback(os.environ.get("GLOO_SOCKET_IFNAME"), socket.gethostname(), _addresses()),
        results_folder(results),
        governor(machine.governor),
        swap(psutil.swap_memory().used),
        load(machine, now),
        pressure(cgroups.memory_pressure()),
        environment(surroundings.remarks(os.environ)),
        throttling(now),
    ]


# -- software


def torch_build(machine: Hardware, torch: Any) -> Finding:
    """torch can be imported, and is built for the devices that are here."""
    if torch is None:
        found = (
            f"{machine.torch_build} is installed, but cannot be imported" if machine.torch_build else "not installed"
        )
        return _missing("torch", found, _REINSTALL_TORCH)
    return _ok("torch", str(torch.__version__))


def extra(name: str, version: str | None) -> Finding:
    """An optional package; `version` is None if it is not installed."""
    group, reason = _EXTRAS[name]
    if version is None:
        return _missing(name, f"not installed; {reason}", f"pip install 'distributed-harness[{group}]'")
    return _ok(name, version)


def compiler(command: str) -> Finding:
    """The C++ compiler and the Python headers that torch.compile builds with are there."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    found = shutil.which(command)
    absent = ([] if found else [command]) + ([] if headers.exists() else [str(headers)])
    if absent:
        fix = "xcode-select --install" if _is_macos() else "sudo apt-get install g++ python3-dev"
        return _missing("compiler", f"no {' and no '.join(absent)}; torch.compile needs it", fix)
    return _ok("compiler", str(found))


# -- devices and communication


def devices(machine: Hardware) -> Finding:
    """The devices that ranks can run on, as torch sees them, and those that they cannot."""
    if machine.unused:
        fix = _REINSTALL_TORCH if "mps" not in machine.unused and not machine.devices else "python -m harness sweep"
        return (_warn if machine.devices else _missing)("devices", machine.unused, fix)
    return _ok("devices", _names(machine) if machine.devices else "none; ranks run on the CPU")


def persistence(machine: Hardware, nvml: Any = None) -> Finding:
    """The driver keeps NVIDIA's devices ready between launches."""
    with nvidia.session(nvml) as library:
        handles = [nvidia.of_uuid(library, device.uuid, index) for index, device in enumerate(machine.devices)]
        modes = [nvidia.persistence(library, handle) for handle in handles if handle is not None]
    if False in modes:
        return _warn("persistence", "off: each launch waits for the driver to start", "sudo nvidia-smi -pm 1")
    return _ok("persistence", "on" if modes and None not in modes else "does not apply")


def nvml_readable(machine: Hardware, problem: str | None, driver_loaded: bool) -> Finding:
    """Where there is an NVIDIA driver, NVML tells names, limits, clocks and links of its devices."""
    if problem and driver_loaded:
        fix = "nvidia-smi  # restart after a driver update; in a container, start it with --gpus all"
        return _warn("nvml", f"an NVIDIA driver is loaded, but not readable: {problem}", fix)
    if problem:
        return _ok("nvml", "no NVIDIA driver")
    return _ok("nvml", f"{len(machine.devices)} visible devices")


def gloo(torch: Any) -> Finding:
    """The backend of ranks on the CPU."""
    if torch is None or not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        return _missing("gloo", "torch has no gloo backend; ranks on the CPU need it", _REINSTALL_TORCH)
    return _ok("gloo", "available")


def nccl(machine: Hardware, torch: Any) -> Finding:
    """The backend of ranks on devices."""
    if machine.device_type == "xpu":
        has = torch is not None and torch.distributed.is_available() and torch.distributed.is_xccl_available()
        return _ok("nccl", "xccl is available") if has else _missing("nccl", "torch has no xccl", _REINSTALL_TORCH)
    if machine.device_type != "cuda":
        return _ok("nccl", "not needed without CUDA devices")
    if torch is None or not (torch.distributed.is_available() and torch.distributed.is_nccl_available()):
        return _missing("nccl", "torch has no NCCL backend; ranks on CUDA devices need it", _REINSTALL_TORCH)
    return _ok("nccl", "available")


def loopback(interface: str | None, host: str, addresses: Mapping[str, frozenset[str]]) -> Finding:
    """Gloo finds an address to listen on: that of its interface if one is named, else the one the host name stands for.

    Args:
        interface: value of GLOO_SOCKET_IFNAME.
        host: name of this host.
        addresses: interface -> its addresses.
    """
    loop = "lo0" if _is_macos() else "lo"
    fix = f"export GLOO_SOCKET_IFNAME={loop}"
    if interface:
        absent = [name for name in interface.split(",") if name not in addresses]
        found = f"GLOO_SOCKET_IFNAME={interface}, but the interfaces are {', '.join(sorted(addresses))}"
        return _missing("loopback", found, fix) if absent else _ok("loopback", f"gloo uses {interface}")
    resolved = _resolve(host)
    local = frozenset().union(*addresses.values())
    if not any(address in local or address.startswith("127.") for address in resolved):
        found = f"the host name {host!r} stands for {', '.join(resolved) or 'no address'}, which is not this machine's"
        return _warn("loopback", found, fix)
    return _ok("loopback", f"{host} stands for {resolved[0]}")


# -- resources


def ranks(machine: Hardware) -> Finding:
    """How many ranks run without sharing a core or device."""
    if (count := sensible_ranks(machine)) > 1:
        return _ok("ranks", f"up to {count} without sharing; {machine.default_ranks} unless told otherwise")
    shared = "device" if machine.devices else "core"
    found = f"more than one would share one {shared}, so strategies could be tried but not timed"
    return _warn("ranks", found, "python -m harness sweep --world-size 1")


def sensible_ranks(machine: Hardware) -> int:
    """Ranks that have a device, or a physical core, each to itself."""
    if machine.devices:
        return len(machine.devices)
    physical = machine.usable_physical_cores or machine.physical_cores
    return min(machine.usable_cores, physical or machine.usable_cores)


def memory(machine: Hardware, available_bytes: int) -> Finding:
    """There is free memory for that many ranks."""
    free = min(available_bytes, machine.memory_bytes)
    found = f"{free / GIB:.1f} of {machine.memory_bytes / GIB:.1f} GiB free"
    if free < machine.default_ranks * _RANK_MEMORY_BYTES:
        fitting = max(1, free // _RANK_MEMORY_BYTES)
        return _warn("memory", f"{found}; a rank needs about 1 GiB", f"python -m harness sweep --world-size {fitting}")
    return _ok("memory", found)


def shared_memory(machine: Hardware, size_bytes: int | None) -> Finding:
    """/dev/shm is large enough for NCCL; `size_bytes` is None where there is none."""
    if size_bytes is None:
        return _ok("/dev/shm", "none on this system")
    found = f"{size_bytes / GIB:.2f} GiB"
    if machine.devices and size_bytes < _CUDA_SHM_BYTES:
        fix = "sudo mount -o remount,size=8G /dev/shm  # in a container, start it with --shm-size=8g"
        return _warn("/dev/shm", f"{found}; NCCL may need 1 GiB", fix)
    return _ok("/dev/shm", found)


def open_files(limit: int) -> Finding:
    """Ranks may open enough sockets and files."""
    if limit == resource.RLIM_INFINITY or limit >= _OPEN_FILES:
        return _ok("open files", "unlimited" if limit == resource.RLIM_INFINITY else f"at most {limit}")
    return _warn("open files", f"at most {limit}, but {_OPEN_FILES} may be needed", f"ulimit -n {_OPEN_FILES * 4}")


def results_folder(folder: Path) -> Finding:
    """Trials can be recorded."""
    present = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not present.is_dir():
        return _missing("results", f"{present} is not a folder", "python -m harness sweep --results OTHER_FOLDER")
    if not os.access(present, os.W_OK | os.X_OK):
        return _missing("results", f"{present} cannot be written", f"chmod u+wx '{present}'")
    return _ok("results", f"{folder} can be written, {shutil.disk_usage(present).free / GIB:.1f} GiB free")


# -- quiet


def governor(name: str | None) -> Finding:
    """The clock does not follow the load."""
    if name not in (None, "performance"):
        found = f"{name}: the clock follows the load, so step times vary"
        return _warn("governor", found, "sudo cpupower frequency-set --governor performance")
    return _ok("governor", name or "not shown by this system")


def swap(used_bytes: int) -> Finding:
    """Memory is not paged out."""
    found = f"{used_bytes / GIB:.1f} GiB in use"
    if used_bytes > _SWAP_BYTES:
        return _warn("swap", found, "top -o mem" if _is_macos() else "sudo swapoff --all && sudo swapon --all")
    return _ok("swap", found)


def load(machine: Hardware, now: MachineState) -> Finding:
    """Nothing else runs."""
    if now.load_1min is None:
        return _ok("load", "not shown by this system")
    found = f"{now.load_1min:.2f} on {machine.usable_cores} cores"
    if now.load_1min > _BUSY_SHARE * machine.usable_cores:
        return _warn("load", f"{found}: other programs take time from the ranks", "top")
    return _ok("load", found)


def pressure(share: float | None) -> Finding:
    """Processes do not wait for memory."""
    found = "not shown by this system" if share is None else f"all processes waited for it {share:.0%} of the time"
    if share is not None and share > _PRESSURE:
        return _warn("memory pressure", found, "top -o %MEM")
    return _ok("memory pressure", found)


def environment(remarks: list[str]) -> Finding:
    """No variable changes what ranks are measured to do."""
    if not remarks:
        return _ok("environment", "nothing in it changes what is measured")
    names = [remark.partition(" ")[0].partition("=")[0] for remark in remarks]
    return _warn("environment", "; ".join(remarks), f"unset {' '.join(names)}")


def throttling(now: MachineState) -> Finding:
    """No device is held below its clocks."""
    reasons = sorted({reason for device in now.devices for reason in device.throttled_by or ()})
    if reasons:
        return _warn("throttling", f"devices are slowed by {', '.join(reasons)}", "nvidia-smi -q -d PERFORMANCE")
    return _ok("throttling", "none" if now.devices else "no devices")


# -- measuring


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # OSError: one of its shared libraries cannot be loaded
        return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _size_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).total
    except OSError:
        return None


def _addresses() -> dict[str, frozenset[str]]:
    return {name: frozenset(a.address for a in found) for name, found in psutil.net_if_addrs().items()}


def _resolve(host: str) -> list[str]:
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None)})
    except OSError:
        return []


def _is_macos() -> bool:
    return platform.system() == "Darwin"


def _names(machine: Hardware) -> str:
    names = [device.name for device in machine.devices]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _ok(name: str, found: str) -> Finding:
    return Finding(name=name, state=State.OK, found=found)


def _warn(name: str, found: str, fix: str) -> Finding:
    return Finding(name=name, state=State.WARN, found=found, fix=fix)


def _missing(name: str, found: str, fix: str) -> Finding:
    return Finding(name=name, state=State.MISSING, found=found, fix=fix)
