"""Where the sweep ran and with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.report import format as fmt
from harness.report.panels.panel import Fragment
from harness.report.sweep_view import SweepView


@dataclass(frozen=True)
class Group:
    """Facts under one heading: (name, value), both for people."""

    title: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Environment:
    """The groups that have anything to say."""

    groups: tuple[Group, ...]
    problems: tuple[str, ...]


def data(view: SweepView) -> Environment:
    """What the sweep recorded of itself; the ids and versions of the trials where it recorded nothing."""
    first = view.rows[0]
    workload = {"workload": first["workload"], "workload_id": first["workload_id"], **_mapping(view, "workload")}
    versions = {"harness": first["harness_version"], "torch": first["torch_version"], **_mapping(view, "environment")}
    sweep = {name: view.info[name] for name in _SWEEP if view.info.get(name) is not None}
    groups = (
        _group("Hardware", {"hardware_id": view.hardware_id, **_mapping(view, "hardware")}),
        _group("Software", versions),
        _group("Workload", workload),
        _group("Sweep", {"sweep": view.sweep, **sweep}),
    )
    return Environment(groups, view.problems)


def draw(environment: Environment) -> Fragment:
    """Lists of facts, and the files that could not be read."""
    return Fragment(template="where_it_ran.html", context={"environment": environment})


_SWEEP = ("objective", "memory_limit_bytes", "sampler", "seed", "strategies", "started_at", "wall_s", "training_s")


def _mapping(view: SweepView, key: str) -> dict[str, Any]:
    value = view.info.get(key)
    return dict(value) if isinstance(value, Mapping) else {}


def _group(title: str, facts: Mapping[str, Any]) -> Group:
    return Group(title, tuple((_heading(name), value) for name, value in _flat(facts)))


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as "outer inner" names, so that every value stands on its own line."""
    lines: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{name} ")
        else:
            lines.append((f"{prefix}{name}", fmt.by_name(str(name), value)))
    return lines


def _heading(name: str) -> str:
    return name.removesuffix("_bytes").removesuffix("_s").replace("_", " ")
