"""The command line of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.guarded import guarded
from harness.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog="Example: python -m harness predict --workload 1.3b --cluster 64x8xH100 --top 10")(predict)
    app.command(epilog="Example: python -m harness replay --table runs.csv --hardware A100-80 --samplers guided,tpe")(
        replay
    )


def predict(
    workload: Annotated[
        str | None, typer.Option(help="What to train: 1.3b, gpt:blocks=80,width=8192,heads=64, hf:path/config.json.")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="NODESxDEVICESxNAME; this machine if left out.")] = None,
    table: Annotated[Path | None, typer.Option(help="CSV file of runs to predict.")] = None,
    hardware: Annotated[str | None, typer.Option(help="What they ran on: a device, or a TOML file.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="A knob's value, NAME=VALUE; may be repeated.")] = None,
    global_batch: Annotated[int | None, typer.Option(help="Samples of a step.", min=1)] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens of one sample.", min=1)] = None,
    vocab: Annotated[
        int | None, typer.Option(help="Rows of the embedding; the workload's own if left out.", min=1)
    ] = None,
    world_size: Annotated[int | None, typer.Option(help="Ranks of this machine.", min=1)] = None,
    top: Annotated[int, typer.Option(help="Plans to show.", min=1)] = 10,
    fits: Annotated[
        bool, typer.Option("--fits", help="The smallest number of each described device that trains the workload.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Trace the worst rank of the first plan without devices.")
    ] = False,
    page: Annotated[bool, typer.Option("--page", help="Write a page with what-if plots too.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of the parquet files.")] = Path("results"),
    reports: Annotated[Path, typer.Option(help="Folder of the HTML pages.")] = Path("reports"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Predict memory and step time of plans without running them, for a cluster, this machine or a table."""

    def run() -> int:
        from harness.cli import predict_commands as commands

        options = {
            "global_batch": global_batch,
            "seq_len": seq_len,
            "vocab": vocab,
            "world_size": world_size,
            "results": results,
        }
        return commands.predict(
            workload=workload,
            cluster=cluster,
            table_file=table,
            hardware=hardware,
            pairs=set or [],
            options=options,
            top=top,
            fits=fits,
            trace=trace,
            page=page,
            reports=reports,
            as_json=as_json,
        )

    guarded(run)


def replay(
    table: Annotated[Path | None, typer.Option(help="CSV file: an exhaustive table of runs.")] = None,
    hardware: Annotated[str | None, typer.Option(help="What they ran on: a device, or a TOML file.")] = None,
    also: Annotated[
        list[Path] | None, typer.Option(help="Other tables that constants may be fitted to; may be repeated.")
    ] = None,
    sweep: Annotated[str | None, typer.Option(help="Instead of a table: a sweep of the results folder.")] = None,
    samplers: Annotated[str, typer.Option(help="Which to compare.")] = "guided,tpe,random,grid",
    budget: Annotated[int, typer.Option(help="Launches of a search.", min=1)] = 10,
    repeats: Annotated[int, typer.Option(help="Of each search, with other seeds.", min=1)] = 50,
    results: Annotated[Path, typer.Option(help="Folder of the parquet files.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """How well samplers search: regret on a recorded exhaustive table."""

    def run() -> int:
        from harness.sweeps import recorded_grids as replays

        names = tuple(name.strip() for name in samplers.split(",") if name.strip())
        if (table is None) == (sweep is None):
            raise InputError("give either --table FILE.csv with --hardware NAME, or --sweep NAME of the results folder")
        if sweep is not None:
            return replays.of_sweep(results, sweep, names=names, budget=budget, repeats=repeats, as_json=as_json)
        if table is None or hardware is None:
            raise InputError("--table needs --hardware, a device such as A100-80 or a TOML file")
        return replays.of_table(
            table, hardware, others=also or (), names=names, budget=budget, repeats=repeats, as_json=as_json
        )

    guarded(run)
