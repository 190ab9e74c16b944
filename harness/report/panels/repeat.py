"""How to repeat the sweep, look deeper, and use its data."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from harness.report.panels.panel import Fragment
from harness.report.sweep_view import SweepView

PROGRAM = "python -m harness"


@dataclass(frozen=True)
class Command:
    """One thing that can be done."""

    title: str
    text: str


@dataclass(frozen=True)
class Repeat:
    """The commands, and what they need."""

    commands: tuple[Command, ...]
    needs: str
    """Versions that the numbers depend on."""


def data(view: SweepView) -> Repeat:
    """Commands for this sweep; those that it did not record are left out."""
    name, journal = shlex.quote(view.sweep), f"studies/{view.hardware_id}/{view.sweep}.log"
    commands = [
        Command("The sweep, or what is left of it", str(view.info.get("command") or "")),
        Command("The winner alone", view.command(view.winner) if view.winner else ""),
        Command("This page, from the recorded trials", f"{PROGRAM} report {name}"),
        Command("The study, in optuna-dashboard", f"optuna-dashboard {shlex.quote(f'results/{journal}')}"),
        Command(
            "The trials, with DuckDB",
            "duckdb -c \"SELECT * FROM read_parquet('results/trials/**/*.parquet', hive_partitioning=true) "
            f"WHERE sweep='{view.sweep}'\"",
        ),
    ]
    return Repeat(tuple(command for command in commands if command.text), _needs(view))


def draw(repeat: Repeat) -> Fragment:
    """Each command with a button that copies it."""
    return Fragment(template="repeat.html", reading=repeat.needs, context={"repeat": repeat})


def _needs(view: SweepView) -> str:
    recorded: Any = view.info.get("environment")
    versions = dict(recorded) if isinstance(recorded, dict) else {}
    versions.setdefault("harness", view.rows[0]["harness_version"])
    versions.setdefault("torch", view.rows[0]["torch_version"])
    named = ", ".join(f"{name} {versions[name]}" for name in ("harness", "torch", "python") if versions.get(name))
    return f"Recorded with {named}, on {view.hardware_id}; another version or machine is another measurement."
