"""The options of `python -m harness sweep` as arguments: the same names, defaults and texts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from harness.errors import InputError
from harness.sweeps.config import SweepConfig, checked, load_config

Names = str | Sequence[str]
"""Several as on the command line, "ddp,zero2", or as a list."""
PathLike = str | os.PathLike[str]
LISTS = ("strategies", "precision", "also")
PATHS = ("data", "tokenizer", "knobs", "results", "reports")


class Options(TypedDict, total=False):
    """What a sweep may be told beside the usual; `SweepConfig` says what each means and has its default."""

    data: PathLike
    field: str
    tokenizer: PathLike
    keep_dropout: bool
    trust_remote_code: bool
    script: str
    knobs: PathLike
    baseline: Mapping[str, object] | str | Sequence[str]
    """A script's knobs where what it is compared with is not at its default; as `set`."""
    keep: bool
    target_loss: float
    global_batch: int | str | Sequence[int]
    precision: Names
    set: Mapping[str, object] | str | Sequence[str]
    """Knobs that are not searched: {"bucket_mb": 8}, or "NAME=VALUE" as often as needed."""
    sampler: str
    objective: str
    memory_limit: str
    headroom: str
    measure: str
    precision_target: str
    racing: bool
    finalists: int
    relaunches: int
    resolution: str
    reference: str
    start_deadline: str
    compile_deadline: str
    step_deadline: str
    hardware_label: str
    reports: PathLike
    also: Names
    config: PathLike
    """TOML file with these options; an argument wins over it."""


def parsed(given: Mapping[str, Any]) -> SweepConfig:
    """Arguments as a sweep's configuration; None means that an argument was not given.

    Raises:
        InputError: a value cannot be used.
        UnknownNameError: there is no such option.
    """
    options = {name: value for name, value in given.items() if value is not None}
    file = options.pop("config", None)
    for name in LISTS:
        if name in options:
            options[name] = _names(options[name])
    for name in PATHS:
        if name in options:
            options[name] = _path(name, options[name])
    for name in ("set", "baseline"):
        if name in options:
            options[name] = _settings(options[name])
    if "global_batch" in options:
        options["global_batch"] = _numbers(options["global_batch"])
    return load_config(None if file is None else Path(_path("config", file)), checked(options))


def _names(value: Any) -> Any:
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return list(value) if isinstance(value, Sequence) else value


def _path(name: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name} must be a path, but got {value!r}")
    return os.path.expanduser(os.fspath(value))


def _settings(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [f"{name}={str(v).lower() if isinstance(v, bool) else v}" for name, v in value.items()]
    return [value] if isinstance(value, str) else list(value)


def _numbers(value: Any) -> Any:
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, Sequence) else [value]
    try:
        return [int(item) if isinstance(item, str) else item for item in items]
    except ValueError:
        raise InputError(f"the global batch is one number, or several separated by commas, but got {value!r}") from None
