"""The command line: parse, call, print. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from harness import __version__
from harness.errors import HarnessError, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.config import SweepConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Find the strategy that trains a model fastest on this hardware.",
    epilog="Example: python -m harness sweep",
)

NOTHING_SUCCEEDED, INTERRUPTED = 1, 130

Workload = Annotated[str | None, typer.Option(help="What to train: gpt-nano, gpt:blocks=6,width=384,heads=6, cnn, ...")]
Data = Annotated[Path | None, typer.Option(help="Text, .jsonl, .parquet or .npy tokens, or a folder of text.")]
Field = Annotated[str | None, typer.Option(help="Field of .jsonl files, column of .parquet files.")]
Tokenizer = Annotated[Path | None, typer.Option(help="JSON file of the tokenizers package.")]
SeqLen = Annotated[int | None, typer.Option(help="Tokens of one sample.")]
WorldSize = Annotated[int | None, typer.Option(help="Number of ranks.")]
Seed = Annotated[int | None, typer.Option(help="Of weights, data order and search.")]
MemoryLimit = Annotated[str | None, typer.Option(help="Memory of one rank, such as 6GiB.")]
Measure = Annotated[str | None, typer.Option(help="Budget of a trial's measured window, such as 2.5s.")]
PrecisionTarget = Annotated[str | None, typer.Option(help="A window ends when its interval is this narrow: 2%.")]
StartDeadline = Annotated[str | None, typer.Option(help="A trial without a first step hangs after this.")]
StepDeadline = Annotated[str | None, typer.Option(help="A rank without a sign of life hangs after this.")]
Results = Annotated[Path | None, typer.Option(help="Folder of the parquet files.")]
Reports = Annotated[Path | None, typer.Option(help="Folder of the HTML pages.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A knob's value, NAME=VALUE; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command(epilog="Example: python -m harness sweep --strategies ddp,zero2 --time-budget 5m")
def sweep(
    workload: Workload = None,
    data: Data = None,
    field: Field = None,
    tokenizer: Tokenizer = None,
    seq_len: SeqLen = None,
    global_batch: Annotated[str | None, typer.Option(help="Samples of a step; several: 8,16,32.")] = None,
    target_loss: Annotated[float | None, typer.Option(help="Loss of the objective time-to-loss.")] = None,
    strategies: Annotated[str | None, typer.Option(help="Strategies in play, such as ddp,zero2,precision.")] = None,
    world_size: WorldSize = None,
    precision: Annotated[str | None, typer.Option(help="Number formats in play, such as fp32,bf16_params.")] = None,
    set: Set = None,
    trials: Annotated[int | None, typer.Option(help="Launches, those of earlier runs included.")] = None,
    time_budget: Annotated[str | None, typer.Option(help="Wall time, such as 90s, 5m or 2h. [default: 3m]")] = None,
    sampler: Annotated[str | None, typer.Option(help="tpe, gp, random, grid, nsga2 or cmaes.")] = None,
    objective: Annotated[str | None, typer.Option(help="throughput, memory, pareto or time-to-loss.")] = None,
    memory_limit: MemoryLimit = None,
    headroom: Annotated[str | None, typer.Option(help="Memory the winner must leave free, such as 10%.")] = None,
    measure: Measure = None,
    precision_target: PrecisionTarget = None,
    racing: Annotated[
        bool | None, typer.Option("--racing/--no-racing", help="End a trial that is surely slower than the best.")
    ] = None,
    finalists: Annotated[int | None, typer.Option(help="Best plans that are launched again at the end.")] = None,
    relaunches: Annotated[int | None, typer.Option(help="How often each of them is at least; 0 for never.")] = None,
    resolution: Annotated[str | None, typer.Option(help="Difference between them that must show: 5%.")] = None,
    start_deadline: StartDeadline = None,
    step_deadline: StepDeadline = None,
    seed: Seed = None,
    results: Results = None,
    reports: Reports = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep; an existing one is resumed.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with these options; an option wins over it.")] = None,
    as_json: Json = False,
) -> None:
    """Search the plans of the strategies in play and rank them."""
    options = {key: value for key, value in locals().items() if key not in ("config", "as_json")}
    options |= {"strategies": _names(strategies), "precision": _names(precision), "set": tuple(set) if set else None}
    _guarded(lambda: _sweep(config, options | {"global_batch": _numbers(global_batch)}, as_json))


@app.command(epilog="Example: python -m harness run --set data_parallel=zero1 --set micro_batch_size=4")
def run(
    plan_id: Annotated[
        str | None, typer.Argument(help="A plan of the results folder; or give --plan or --set.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="TOML file with a table of knobs.")] = None,
    set: Set = None,
    workload: Workload = None,
    data: Data = None,
    field: Field = None,
    tokenizer: Tokenizer = None,
    seq_len: SeqLen = None,
    global_batch: Annotated[int | None, typer.Option(help="Samples of a step.")] = None,
    world_size: WorldSize = None,
    memory_limit: MemoryLimit = None,
    measure: Measure = None,
    precision_target: PrecisionTarget = None,
    start_deadline: StartDeadline = None,
    step_deadline: StepDeadline = None,
    seed: Seed = None,
    results: Results = None,
    name: Annotated[str, typer.Option(help="Sweep to record the trial in.")] = "runs",
    as_json: Json = False,
) -> None:
    """Run one plan and record it."""
    options = {key: value for key, value in locals().items() if key not in ("plan_id", "plan", "set", "as_json")}
    options["global_batch"] = None if global_batch is None else (global_batch,)
    _guarded(lambda: _run(plan_id, plan, set or [], options, as_json))


@app.command(epilog="Example: python -m harness report my-sweep")
def report(
    name: Annotated[str | None, typer.Argument(help="The sweep; the last one if left out.")] = None,
    results: Results = Path("results"),
    reports: Reports = Path("reports"),
) -> None:
    """Build the HTML page of a recorded sweep again."""
    _guarded(lambda: _report(name, results or Path("results"), reports or Path("reports")))


@app.command(epilog="Example: python -m harness doctor")
def doctor(results: Results = Path("results"), as_json: Json = False) -> None:
    """Say what this machine can run, what is missing, and how to mend it."""
    _guarded(lambda: _doctor(results or Path("results"), as_json))


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Find the strategy that trains a model fastest on this hardware."""
    if version:
        print(__version__)
        raise typer.Exit


def main() -> NoReturn:
    """Entry point of `python -m harness` and of the console script."""
    app(prog_name="python -m harness")
    sys.exit(0)


# -- the commands themselves


def _sweep(path: Path | None, options: dict[str, Any], as_json: bool) -> int:
    import time

    began = time.monotonic()
    from harness import launchers
    from harness.config import load_config
    from harness.display import SweepDisplay, print_result

    config = load_config(path, options)
    console = _console(to_stderr=as_json)
    with launchers.create("local") as launcher, SweepDisplay(console, config.seconds, config.trials) as display:
        launcher.warm_up()  # its imports take as long as ours and go on meanwhile
        from harness.experiment import prepare
        from harness.report.view import SweepView
        from harness.sweep import Sweep

        job = Sweep(prepare(config), display, launcher, began)
        try:
            ended = job.run()
        except (HarnessError, KeyboardInterrupt):
            display.close()
            _show_recorded(console, config, job)
            raise
    view = SweepView.read(job.store, ended.hardware_id, ended.name) if ended.page else None
    if view is not None:
        print_result(console, view, job.launches.repeats)
    _say_where(console, config, ended)
    if as_json:
        print(json.dumps(_answer(ended, view, job.launches.repeats)))
    if ended.summary.interrupted:
        return INTERRUPTED
    return 0 if view is not None and view.winner is not None else NOTHING_SUCCEEDED


def _show_recorded(console: Console, config: SweepConfig, job: Any) -> None:
    """After what ended the sweep early: what was recorded until then is whole, and the sweep can go on."""
    from harness.display import print_result
    from harness.repeat import resume_command
    from harness.report.view import SweepView

    if job.launches.launched:
        print_result(console, SweepView.read(job.store, job.hardware_id, job.name), job.launches.repeats)
    if job.begun:
        resume = resume_command(config, job.name)
        console.print(f"\nresume    {resume}", highlight=False, markup=False, soft_wrap=True)


def _say_where(console: Console, config: SweepConfig, ended: Any) -> None:
    from harness.display import shares
    from harness.repeat import resume_command

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    share = shares(ended.training_s, ended.wall_s)
    trials = f"{ended.summary.launched} trials in {ended.wall_s:.0f} s, {share} of it in training steps"
    say(f"\n{trials}; {ended.summary.stopped}")
    say(f"results   {config.results}/trials, {config.results}/steps")
    if ended.page is not None:
        say(f"report    {ended.page}")
    if ended.summary.interrupted:
        say(f"resume    {resume_command(config, ended.name)}")


def _answer(ended: Any, view: Any, repeats: dict[str, str]) -> dict[str, Any]:
    """What a script may want to know of a sweep; `winners` has the first of each ranking."""
    winners = [_winner(row, repeats) for row in view.winners] if view is not None else []
    return {
        "sweep": ended.name,
        "hardware_id": ended.hardware_id,
        "stopped": ended.summary.stopped,
        "trials": ended.summary.launched_in_all,
        "outcomes": view.outcomes if view is not None else {},
        "winner": winners[0] if winners else None,
        "winners": winners,
        "report": None if ended.page is None else str(ended.page),
    }


def _winner(row: Any, repeats: dict[str, str]) -> dict[str, Any]:
    return {**{name: _plain(value) for name, value in row.items()}, "repeat": repeats.get(row["trial_id"])}


def _run(plan_id: str | None, path: Path | None, pairs: list[str], options: dict[str, Any], as_json: bool) -> int:
    from harness.display import print_trial
    from harness.single import run_once

    console = _console(to_stderr=as_json)
    result = run_once(plan_id, path, pairs, options)
    print_trial(console, result)
    if as_json:
        print(json.dumps({name: _plain(value) for name, value in result.row.items()}))
    return 0 if result.row["outcome"] == "ok" else NOTHING_SUCCEEDED


def _report(name: str | None, results: Path, reports: Path) -> int:
    from harness import report as pages
    from harness.errors import UnknownNameError
    from harness.store import Store

    store = Store(results)
    known = store.sweeps()
    if not known:
        raise InputError(f"{results} holds no sweep; run one first: python -m harness sweep")
    chosen = [pair for pair in known if name is None or pair[1] == name]
    if not chosen:
        raise UnknownNameError("sweep", str(name), {sweep for _, sweep in known})
    hardware_id, sweep_name = chosen[-1]
    try:
        print(pages.build(store, hardware_id, sweep_name, reports))
    finally:
        for problem in store.problems:
            print(f"warning: {problem}", file=sys.stderr)
    return 0


def _doctor(results: Path, as_json: bool) -> int:
    from dataclasses import asdict

    from harness.doctor import State, examine

    findings = examine(results)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.state:8} {finding.name:20} {finding.found}")
            if finding.fix:
                print(f"{'':8} {'':20} fix: {finding.fix}")
    return NOTHING_SUCCEEDED if any(finding.state is State.MISSING for finding in findings) else 0


# -- helpers


def _guarded(command: Callable[[], int]) -> None:
    """Run a command; errors that are the user's print as one or two lines, with their own exit code."""
    try:
        with _interrupted_once():
            code = command()
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    raise typer.Exit(code)


@contextlib.contextmanager
def _interrupted_once() -> Iterator[None]:
    """Treat SIGTERM, which schedulers send, like Ctrl-C. The first signal ends the command; others that follow while
    it records what it has are ignored."""
    both = (signal.SIGINT, signal.SIGTERM)

    def interrupt(signum: int, frame: object) -> None:
        for number in both:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, interrupt)) for number in both]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler or signal.SIG_DFL)


def _console(*, to_stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=to_stderr)
    return console if console.is_terminal else Console(stderr=to_stderr, width=160)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(number) for number in text.split(","))
    except ValueError:
        raise InputError(f"the global batch is one number, or several separated by commas, but got {text!r}") from None


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
