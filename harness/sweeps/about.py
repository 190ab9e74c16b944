"""What is written of a sweep beside its trials: its name, its workload, the versions that its numbers depend on."""

from __future__ import annotations

import contextlib
import platform
import re
import secrets
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from harness.errors import InputError
from harness.predict.shape import Shape
from harness.version import __version__
from harness.workloads.workload import Workload


def environment() -> dict[str, str]:
    """Versions that numbers depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "harness": __version__}
    for package in ("torch", "optuna", "torchao", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def describe(workload: Workload) -> dict[str, Any]:
    data = getattr(workload, "data", None)
    return {
        "name": workload.name,
        "workload_id": workload.workload_id,
        "parameters": workload.facts().parameters,
        "seq_len": workload.seq_len,
        "global_batch_size": workload.global_batch_size,
        "data": getattr(data, "description", "bundled with the workload"),
        "shape": _shape(workload),
    }


def _shape(workload: Workload) -> dict[str, Any] | None:
    """What predictions need of the model; None if it is no transformer."""
    try:
        return asdict(Shape.of_facts(workload.facts(), workload.seq_len))
    except InputError:
        return None


def new_name(workload: str, moment: datetime) -> str:
    """A name for a sweep that was given none: no path, whatever the workload is called, and no other sweep's."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", workload).strip("-.")[:50]
    return f"{plain or 'sweep'}-{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
