"""The command line of `watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.guarded import guarded

FENCE = "--"
"""What stands behind it is the script's command, word by word."""


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example: python -m harness watch -- torchrun --nproc-per-node 2 train.py")(watch)


def watch(
    command: Annotated[list[str] | None, typer.Argument(help="The script's command, after --.")] = None,
    knobs: Annotated[
        Path | None, typer.Option(help="TOML file that says where knobs go, and may have the command.")
    ] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="A knob's value, NAME=VALUE; may be repeated.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps to measure; without it until known.", min=1)] = None,
    time: Annotated[str, typer.Option(help="Budget of the measured steps, such as 10s.")] = "10s",
    precision_target: Annotated[str, typer.Option(help="They end when their interval is this narrow.")] = "1%",
    warmup_steps: Annotated[int, typer.Option(help="Steps that do not count.", min=3)] = 4,
    start_deadline: Annotated[str, typer.Option(help="A script without a first step hangs after this.")] = "5m",
    step_deadline: Annotated[str, typer.Option(help="A rank without a sign of life hangs after this.")] = "60s",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    print_alone: Annotated[
        str | None, typer.Option("--print", help="Print one field of that object alone, such as step_time_s.")
    ] = None,
) -> None:
    """Measure a training script as it stands: step time, samples per second, memory, losses, communication."""

    def run() -> int:
        from harness.cli import watch_commands

        return watch_commands.watch(
            command or [],
            knobs=(knobs, set or []),
            steps=steps,
            budget=time,
            precision=precision_target,
            warmup_steps=warmup_steps,
            deadlines=(start_deadline, step_deadline),
            as_json=as_json,
            alone=print_alone,
        )

    guarded(run)
