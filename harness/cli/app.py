"""The command line: what can be asked for. What the commands do stands in harness.cli.commands."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from harness.cli import commands
from harness.cli import knobs_init as cli_knobs
from harness.cli import nightly as cli_nightly
from harness.cli import predict as cli_predict
from harness.cli import watch as cli_watch
from harness.cli.guarded import guarded
from harness.cli.helping import LONG, MEASURE, RESULTS, SEARCH, TRAIN, Commands, Grouped
from harness.errors import InputError
from harness.machine import surroundings
from harness.version import __version__

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Find the strategy that trains a model fastest on this hardware.",
    epilog="Example: python -m harness sweep",
)

store_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look after the results folder.")
app.add_typer(store_app, name="store")
app.add_typer(cli_nightly.app, name="nightly")
app.add_typer(cli_knobs.app, name="knobs")
cli_predict.register(app)
cli_watch.register(app)

_train = partial(typer.Option, rich_help_panel=TRAIN)
_search = partial(typer.Option, rich_help_panel=SEARCH)
_long = partial(typer.Option, rich_help_panel=LONG)
_measured = partial(typer.Option, rich_help_panel=MEASURE)
_recorded = partial(typer.Option, rich_help_panel=RESULTS)

Workload = Annotated[
    str | None, _train(help="What to train: gpt-nano, gpt:blocks=6,width=384,heads=6, cnn, my_model.py:workload")
]
Data = Annotated[Path | None, _train(help="Text, .jsonl, .parquet or .npy tokens, or a folder of text.")]
Field = Annotated[str | None, _train(help="Field of .jsonl files, column of .parquet files.")]
Tokenizer = Annotated[Path | None, _train(help="JSON file of the tokenizers package.")]
SeqLen = Annotated[int | None, _train(help="Tokens of one sample.")]
KeepDropout = Annotated[
    bool | None, _train("--keep-dropout", help="Keep the model's dropout, with the same masks in every plan.")
]
TrustRemoteCode = Annotated[
    bool | None, _train("--trust-remote-code", help="Run code that the folder of hf:PATH brings.")
]
WorldSize = Annotated[int | None, _search(help="Number of ranks.")]
Seed = Annotated[int | None, _train(help="Of weights, data order and search.")]
MemoryLimit = Annotated[str | None, _search(help="Memory of one rank, such as 6GiB.")]
Measure = Annotated[str | None, _measured(help="Budget of a trial's measured window, such as 2.5s.")]
PrecisionTarget = Annotated[str | None, _measured(help="A window ends when its interval is this narrow: 2%.")]
StartDeadline = Annotated[str | None, _measured(help="A trial without a first step hangs after this.")]
CompileDeadline = Annotated[str | None, _measured(help="The same of a plan that compiles kernels. [default: 10m]")]
StepDeadline = Annotated[str | None, _measured(help="A rank without a sign of life hangs after this.")]
HardwareLabel = Annotated[str | None, _recorded(help="Part of the hardware_id, such as ib-400g.")]
Results = Annotated[Path | None, _recorded(help="Folder of the parquet files.")]
Reports = Annotated[Path | None, _recorded(help="Folder of the HTML pages.")]
Reference = Annotated[
    str | None, _measured(help="What losses are compared with: auto, process, or twin where one process is too small.")
]
Set = Annotated[list[str] | None, _search("--set", help="A knob's value, NAME=VALUE; may be repeated.")]
Json = Annotated[bool, _recorded("--json", help="Print one JSON object instead of text.")]


@app.command(cls=Grouped, epilog="Example: python -m harness sweep --strategies ddp,zero2 --time-budget 5m")
def sweep(
    script: Annotated[
        str | None, _train(help="Command of a script to tune, {name} for each knob; instead of a workload.")
    ] = None,
    knobs: Annotated[Path | None, _train(help="TOML file with a script's knobs; it may have the command.")] = None,
    baseline: Annotated[
        list[str] | None, _train(help="A script's knob, NAME=VALUE, where what it is compared with is no default.")
    ] = None,
    keep: Annotated[bool | None, _recorded("--keep", help="Keep what a script leaves in its trial's folder.")] = None,
    workload: Workload = None,
    data: Data = None,
    field: Field = None,
    tokenizer: Tokenizer = None,
    seq_len: SeqLen = None,
    keep_dropout: KeepDropout = None,
    trust_remote_code: TrustRemoteCode = None,
    global_batch: Annotated[str | None, _train(help="Samples of a step; several: 8,16,32.")] = None,
    target_loss: Annotated[float | None, _train(help="Loss of the objective time-to-loss.")] = None,
    strategies: Annotated[str | None, _search(help="Strategies in play, such as ddp,zero2,precision.")] = None,
    world_size: WorldSize = None,
    precision: Annotated[str | None, _search(help="Number formats in play, such as fp32,bf16_params.")] = None,
    set: Set = None,
    trials: Annotated[int | None, _long(help="Launches, those of earlier runs included.")] = None,
    time_budget: Annotated[
        str | None, _long(help="Wall time, such as 90s, 5m or 2h. [default: 3m, 10m on GPUs]")
    ] = None,
    sampler: Annotated[str | None, _search(help="guided, tpe, gp, random, grid, nsga2 or cmaes.")] = None,
    objective: Annotated[str | None, _search(help="throughput, memory, pareto or time-to-loss.")] = None,
    memory_limit: MemoryLimit = None,
    headroom: Annotated[str | None, _search(help="Memory the winner must leave free, such as 10%.")] = None,
    measure: Measure = None,
    precision_target: PrecisionTarget = None,
    racing: Annotated[
        bool | None, _measured("--racing/--no-racing", help="End a trial that is surely slower than the best.")
    ] = None,
    finalists: Annotated[int | None, _measured(help="Best plans that are launched again at the end.")] = None,
    relaunches: Annotated[int | None, _measured(help="Fresh launches of each at least; 0: none. [default: 3]")] = None,
    resolution: Annotated[str | None, _measured(help="Difference between them that must show. [default: 5%]")] = None,
    reference: Reference = None,
    start_deadline: StartDeadline = None,
    compile_deadline: CompileDeadline = None,
    step_deadline: StepDeadline = None,
    hardware_label: HardwareLabel = None,
    seed: Seed = None,
    results: Results = None,
    reports: Reports = None,
    also: Annotated[str | None, _recorded(help="Other formats beside the page: csv,tensorboard.")] = None,
    name: Annotated[str | None, _recorded(help="Name of the sweep; an existing one is resumed.")] = None,
    config: Annotated[Path | None, _train(help="TOML file with these options; an option wins over it.")] = None,
    as_json: Json = False,
) -> None:
    """Search the plans of the strategies in play and rank them."""
    options = {key: value for key, value in locals().items() if key not in ("config", "as_json")}
    options |= {"strategies": _names(strategies), "precision": _names(precision), "set": tuple(set) if set else None}
    options |= {"also": _names(also), "baseline": tuple(baseline) if baseline else None}
    guarded(lambda: commands.sweep(config, options | {"global_batch": _numbers(global_batch)}, as_json))


@app.command(cls=Grouped, epilog="Example: python -m harness run --set data_parallel=zero1 --set micro_batch_size=4")
def run(
    plan_id: Annotated[
        str | None, typer.Argument(help="A plan of the results folder; or give --plan or --set.")
    ] = None,
    plan: Annotated[Path | None, _search(help="TOML file with a table of knobs.")] = None,
    set: Set = None,
    workload: Workload = None,
    data: Data = None,
    field: Field = None,
    tokenizer: Tokenizer = None,
    seq_len: SeqLen = None,
    keep_dropout: KeepDropout = None,
    trust_remote_code: TrustRemoteCode = None,
    global_batch: Annotated[int | None, _train(help="Samples of a step.")] = None,
    world_size: WorldSize = None,
    memory_limit: MemoryLimit = None,
    measure: Measure = None,
    precision_target: PrecisionTarget = None,
    start_deadline: StartDeadline = None,
    reference: Reference = None,
    compile_deadline: CompileDeadline = None,
    step_deadline: StepDeadline = None,
    hardware_label: HardwareLabel = None,
    seed: Seed = None,
    results: Results = None,
    name: Annotated[str, _recorded(help="Sweep to record the trial in.")] = "runs",
    as_json: Json = False,
) -> None:
    """Run one plan and record it."""
    options = {key: value for key, value in locals().items() if key not in ("plan_id", "plan", "set", "as_json")}
    options["global_batch"] = None if global_batch is None else (global_batch,)
    guarded(lambda: commands.run(plan_id, plan, set or [], options, as_json))


@app.command(cls=Grouped, epilog="Example: python -m harness report my-sweep")
def report(
    name: Annotated[str | None, typer.Argument(help="The sweep; the last one if left out.")] = None,
    results: Results = Path("results"),
    reports: Reports = Path("reports"),
    also: Annotated[str | None, typer.Option(help="Other formats beside the page: csv,tensorboard.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the page to this machine, and refresh it while the sweep runs.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of --watch; 0 for any that is free.", min=0, max=65535)] = 0,
) -> None:
    """Build the HTML page of a recorded sweep again."""
    formats = _names(also) or ()
    folders = (results or Path("results"), reports or Path("reports"))
    guarded(lambda: commands.watch(name, folders[0], port) if watch else commands.report(name, *folders, formats))


@app.command(cls=Grouped, epilog="Example: python -m harness compare results elsewhere/results --format markdown")
def compare(
    folders: Annotated[list[Path] | None, typer.Argument(help="Results folders; results if left out.")] = None,
    workload: Annotated[str | None, typer.Option(help="Name or workload_id; all if left out.")] = None,
    sweeps: Annotated[str | None, typer.Option(help="Sweeps to compare, such as monday,tuesday.")] = None,
    price: Annotated[Path | None, typer.Option(help="TOML file: hardware_id = price of an hour.")] = None,
    format: Annotated[str, typer.Option(help="html, markdown or json.")] = "html",
    reports: Reports = Path("reports"),
) -> None:
    """Compare strategies across hardware, world sizes and versions."""
    asked = {"workload": workload, "sweeps": _names(sweeps), "price": price}
    guarded(lambda: commands.compare(folders or [Path("results")], asked, format, reports or Path("reports")))


@store_app.command(epilog="Example: python -m harness store compact")
def compact(results: Results = Path("results")) -> None:
    """Turn the many small files of recorded sweeps into few; readers and running sweeps are not disturbed."""
    guarded(lambda: commands.compact(results or Path("results")))


@app.command(cls=Grouped, epilog="Example: python -m harness doctor")
def doctor(
    results: Results = Path("results"),
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure anew what predictions are made from, in about 15 s.")
    ] = False,
    self_test: Annotated[
        bool,
        typer.Option("--self-test", help="Launch each kind of thing once, in under two minutes, and say what works."),
    ] = False,
    workload: Workload = None,
    data: Data = None,
    field: Field = None,
    tokenizer: Tokenizer = None,
    seq_len: SeqLen = None,
    keep_dropout: KeepDropout = None,
    trust_remote_code: TrustRemoteCode = None,
    world_size: WorldSize = None,
    as_json: Json = False,
) -> None:
    """Say what this machine can run, what is missing, and how to mend it."""
    folder = results or Path("results")
    about = {
        "data": data,
        "field": field,
        "tokenizer": tokenizer,
        "seq_len": seq_len,
        "keep_dropout": keep_dropout,
        "trust_remote_code": trust_remote_code,
    }
    if workload is None and (given := [name for name, value in about.items() if value is not None]):
        guarded(lambda: commands.without_workload(given))
    asked = {"results": folder, "workload": workload, "world_size": world_size, **about}
    if self_test:
        guarded(lambda: commands.self_test(as_json))
    if calibrate:
        guarded(lambda: commands.calibrate(asked, as_json))
    if workload is not None:
        guarded(lambda: commands.examine_workload(asked, as_json))
    guarded(lambda: commands.doctor(folder, as_json))


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Find the strategy that trains a model fastest on this hardware."""
    if version:
        print(__version__)
        raise typer.Exit


def main() -> NoReturn:
    """Entry point of `python -m harness` and of the console script."""
    surroundings.clear()  # before torch is imported, which would bind this process too
    words = sys.argv[1:]
    ours = words.index(cli_watch.FENCE) if cli_watch.FENCE in words else len(words)
    app([*map(at_home, words[:ours]), *words[ours:]], prog_name="python -m harness")
    sys.exit(0)


# -- helpers


def at_home(word: str) -> str:
    """A word of the command line with `~` resolved where shells leave it alone: after the = of an option."""
    option, equals, path = word.partition("=")
    if not (option.startswith("--") and equals):
        return os.path.expanduser(word) if word.startswith("~/") else word
    return f"{option}={os.path.expanduser(path)}"


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(number) for number in text.split(","))
    except ValueError:
        raise InputError(f"the global batch is one number, or several separated by commas, but got {text!r}") from None
