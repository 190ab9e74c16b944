"""Accelerators as torch sees them, asked in a process of its own: asking starts a driver, which no fork outlives.

Torch decides what ranks can use. A driver's own library may list cards that torch was not built for, whole cards of
which this process has a slice, or the same cards in another order.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata, util
from pathlib import Path

from harness.machine.nvml import Device

RUN_ON = ("cuda", "xpu")
"""Torch's names of the devices that ranks can run on: those with a library of collectives. AMD's are "cuda" too."""
PCI_ORDER = ("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
"""By itself CUDA puts the fastest device first, and NVML the one in the first slot."""
PATIENCE = 120.0
"""How long torch may take to answer, in s: without persistence mode a driver starts each device for seconds."""

_QUESTION = """
import json, sys, torch
found = torch.accelerator.current_accelerator(check_available=True) if hasattr(torch, "accelerator") else None
kind, devices = (None, []) if found is None else (found.type, [])
for i in range(torch.accelerator.device_count() if kind in ("cuda", "xpu") else 0):
    p = torch.get_device_module(kind).get_device_properties(i)
    amd = torch.version.hip is not None
    devices.append({
        "name": p.name,
        "memory_bytes": p.total_memory,
        "uuid": str(getattr(p, "uuid", "") or "") or None,
        "compute_capability": f"{p.major}.{p.minor}" if kind == "cuda" and not amd else None,
        "architecture": p.gcnArchName.partition(":")[0] if amd else None,
        "processors": getattr(p, "multi_processor_count", None) or getattr(p, "max_compute_units", None),
    })
json.dump({"kind": kind, "devices": devices}, sys.stdout)
"""


@dataclass(frozen=True, kw_only=True)
class Accelerators:
    """What torch answered."""

    kind: str | None = None
    """Torch's name of the accelerator that is there; None: none is."""
    devices: tuple[Device, ...] = ()
    """In torch's order."""
    problem: str | None = None
    """Why it could not answer, in a few words."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """What the installed torch was built for, read without importing it."""

    version: str | None = None
    """None if torch is not installed."""
    built_for: str | None = None
    """ "cuda", "hip" or "xpu"; None: the CPU, or whatever a plug-in or macOS adds."""


def build(folder: Path | None = None) -> Build:
    """The installed torch.

    Its distribution's version does not always say what it is built for, as that of conda's packages, so its own
    version file is read.

    Args:
        folder: of the package; None: where it would be imported from.
    """
    folder = folder or _folder()
    if folder is None:
        return Build()
    try:
        text = (folder / "version.py").read_text("utf-8")
    except OSError:
        text = ""
    said = dict(re.findall(r"^(\w+)(?:\s*:[^=\n]*)?\s*=\s*['\"]([^'\"]*)['\"]", text, re.MULTILINE))
    return Build(
        version=said.get("__version__") or _distribution(),
        built_for=next((kind for kind in ("cuda", "hip", "xpu") if said.get(kind)), None),
    )


def ask(environ: Mapping[str, str] = os.environ) -> Accelerators:
    """What torch finds here, with the environment that ranks will have. Asked once of each environment.

    A build for the CPU alone is not asked: importing torch takes seconds.
    """
    has_plugin = bool(metadata.entry_points(group="torch.backends"))
    if build().version is None or not (build().built_for or has_plugin or sys.platform == "darwin"):
        return Accelerators()
    return _asked(tuple(sorted({PCI_ORDER[0]: PCI_ORDER[1], **environ}.items())))


@cache
def _asked(environ: tuple[tuple[str, str], ...]) -> Accelerators:
    command = [sys.executable, "-c", _QUESTION]
    try:
        run = subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return Accelerators(problem=f"torch did not say within {PATIENCE:g} s what devices there are")
    except OSError as error:
        return Accelerators(problem=f"torch cannot be asked what devices there are: {error.strerror or error}")
    if run.returncode != 0:
        last = (run.stderr.strip() or f"exit status {run.returncode}").splitlines()[-1]
        return Accelerators(problem=f"torch cannot say what devices there are: {last}")
    return answer(run.stdout)


def answer(text: str) -> Accelerators:
    """What the question printed, below whatever a library printed first."""
    found = json.loads(text.strip().splitlines()[-1])
    return Accelerators(kind=found["kind"], devices=tuple(Device(**device) for device in found["devices"]))


def with_driver(device: Device, known: Device | None) -> Device:
    """A device as torch sees it, with what the driver's own library adds: limits, clocks and links."""
    if known is None:
        return device
    seen = {name: value for name, value in vars(device).items() if value is not None and name != "uuid"}
    return replace(known, **seen)


def _folder() -> Path | None:
    try:
        spec = util.find_spec("torch")
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec and spec.origin else None


def _distribution() -> str | None:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
