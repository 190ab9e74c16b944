"""The command line of `knobs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.guarded import guarded

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Write the file that says what can be turned about a script."
)


@app.callback()
def top() -> None:
    """Write the file that says what can be turned about a script."""


@app.command(epilog="Example: python -m harness knobs init --for deepspeed")
def init(
    tool: Annotated[
        str, typer.Option("--for", help="deepspeed, accelerate, trainer, lightning, torchtitan, megatron.")
    ],
    output: Annotated[Path, typer.Option(help="File to write; one that exists is left alone.")] = Path("knobs.toml"),
) -> None:
    """Write a knobs file for a tool, with what is worth turning about it, and say what is to be filled in."""

    def run() -> int:
        from harness.cli import knobs_commands

        return knobs_commands.init(tool, output)

    guarded(run)
