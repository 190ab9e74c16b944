"""What the commands do; each imports what it needs, so that no command waits for what another one needs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.guarded import INTERRUPTED, NOTHING_SUCCEEDED
from harness.errors import HarnessError, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.sweeps.config import SweepConfig


def sweep(path: Path | None, options: dict[str, Any], as_json: bool) -> int:
    import time

    began = time.monotonic()
    from harness.sweeps.config import load_config
    from harness.sweeps.display import SweepDisplay, print_result
    from harness.sweeps.starting import launcher_for, sweep_of

    config = load_config(path, options)
    console = _console(to_stderr=as_json)
    with (
        launcher_for(config) as launcher,
        SweepDisplay(console, None if config.time_budget is None else config.seconds, config.trials) as display,
    ):
        job = sweep_of(config, display, launcher, began)
        from harness.report.sweep_view import SweepView

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
    from harness.report.sweep_view import SweepView
    from harness.sweeps.command_lines import resume_command
    from harness.sweeps.display import print_result

    if job.launches.launched:
        print_result(console, SweepView.read(job.store, job.hardware_id, job.name), job.launches.repeats)
    if job.begun:
        resume = resume_command(config, job.name)
        console.print(f"\nresume    {resume}", highlight=False, markup=False, soft_wrap=True)


def _say_where(console: Console, config: SweepConfig, ended: Any) -> None:
    from harness.sweeps.command_lines import resume_command
    from harness.sweeps.display import shares

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


def run(plan_id: str | None, path: Path | None, pairs: list[str], options: dict[str, Any], as_json: bool) -> int:
    from harness.sweeps.display import print_trial
    from harness.sweeps.single import run_once

    console = _console(to_stderr=as_json)
    result = run_once(plan_id, path, pairs, options, console)
    print_trial(console, result)
    if as_json:
        print(json.dumps({name: _plain(value) for name, value in result.row.items()}))
    return 0 if result.row["outcome"] == "ok" else NOTHING_SUCCEEDED


def report(name: str | None, results: Path, reports: Path, formats: tuple[str, ...]) -> int:
    from harness import report as pages
    from harness.store.store import Store

    pages.check(formats)
    store = Store(results)
    hardware_id, sweep_name = chosen(store, name)
    try:
        print(pages.build(store, hardware_id, sweep_name, reports))
        for path in pages.also(formats, store, hardware_id, sweep_name, reports):
            print(path)
    finally:
        for problem in store.problems:
            print(f"warning: {problem}", file=sys.stderr)
    return 0


def chosen(store: Any, name: str | None) -> tuple[str, str]:
    """(hardware_id, sweep) of the sweep of this name, of the last one if there is no name."""
    from harness.errors import UnknownNameError

    known = store.sweeps()
    if not known:
        raise InputError(f"{store.root} holds no sweep; run one first: python -m harness sweep")
    fits = [pair for pair in known if name is None or pair[1] == name]
    if not fits:
        raise UnknownNameError("sweep", str(name), {sweep for _, sweep in known})
    hardware_id, sweep_name = fits[-1]
    return str(hardware_id), str(sweep_name)


def watch(name: str | None, results: Path, port: int) -> int:
    from harness import report as pages
    from harness.store.store import Store

    store = Store(results)
    hardware_id, sweep_name = chosen(store, name)
    try:
        server = pages.pages(store, hardware_id, sweep_name, port)
    except OSError as error:
        raise InputError(f"port {port} cannot be served: {error.strerror}; choose another --port, or none") from None
    print(f"{sweep_name}: {server.address} (Ctrl-C ends this)", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def compare(folders: list[Path], asked: dict[str, Any], format: str, reports: Path) -> int:
    from harness.report import comparison

    answer, problems = comparison.compare(folders, format, reports, **asked)
    print(answer)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return 0


def compact(results: Path) -> int:
    from harness.store.store import Store

    store = Store(results)
    known = store.sweeps()
    if not known:
        raise InputError(f"{results} holds no sweep; run one first: python -m harness sweep")
    for hardware_id, sweep_name in known:
        before = store.files(hardware_id, sweep_name)
        store.merge(hardware_id, sweep_name)
        print(f"{hardware_id} {sweep_name}: {before} files, now {store.files(hardware_id, sweep_name)}")
    for problem in store.problems:
        print(f"warning: {problem}", file=sys.stderr)
    return 0


def doctor(results: Path, as_json: bool) -> int:
    from dataclasses import asdict

    from harness.machine.doctor import State, examine

    findings = examine(results)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.state:8} {finding.name:20} {finding.found}")
            if finding.fix:
                print(f"{'':8} {'':20} fix: {finding.fix}")
    return NOTHING_SUCCEEDED if any(finding.state is State.MISSING for finding in findings) else 0


def self_test(as_json: bool) -> int:
    """Launch each kind of thing once and print what works."""
    from dataclasses import asdict

    from harness.sweeps.self_test import State, bench, examine
    from harness.version import __version__

    with bench() as made:
        hardware = made.experiment.hardware
        if not as_json:
            print(
                f"harness {__version__}, torch {hardware.torch_build}, {hardware.hardware_id}, "
                f"{made.experiment.world_size} ranks on {hardware.device_type}"
            )
        lines = []
        for line in examine(made):
            lines.append(line)
            if not as_json:
                print(f"{line.state:8} {line.check:18} {line.seconds:5.1f} s  {line.found}", flush=True)
    if as_json:
        print(json.dumps([asdict(line) for line in lines]))
    return NOTHING_SUCCEEDED if any(line.state is State.FAILED for line in lines) else 0


def without_workload(given: Sequence[str]) -> int:
    """Raise InputError: these options of a workload were given without one."""
    names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
    raise InputError(f"doctor takes {names} with --workload alone; say which workload is to be looked at")


def examine_workload(options: Mapping[str, Any], as_json: bool) -> int:
    """What was derived of a workload, and what is refused."""
    from dataclasses import asdict

    from harness.sweeps.config import load_config
    from harness.sweeps.derived import examine
    from harness.sweeps.display import waited
    from harness.sweeps.experiment import prepare

    experiment = prepare(load_config(None, {name: value for name, value in options.items() if value is not None}))
    with waited(_console(to_stderr=True)):
        lines = list(examine(experiment))
    if as_json:
        print(json.dumps([asdict(line) for line in lines]))
        return 0
    width = max(len(line.name) for line in lines)
    for line in lines:
        print(f"{line.state:8} {line.name:{width}} {line.found}")
    return 0


def calibrate(options: dict[str, Any], as_json: bool) -> int:
    """Measure what predictions are made from, whether it is known or not; the options are fields of `SweepConfig`."""
    from harness import launchers
    from harness.errors import MeasurementError
    from harness.rank import preload_for
    from harness.store.store import Store
    from harness.sweeps.config import load_config
    from harness.sweeps.experiment import prepare
    from harness.sweeps.runners import calibrated, make_runner

    experiment = prepare(load_config(None, options))
    store, hardware_id = Store(experiment.config.results), experiment.hardware.hardware_id
    with launchers.create("local", preload_for(experiment.config.workload)) as launcher:
        found = calibrated(experiment, make_runner(experiment, launcher, store, "calibration"), anew=True)
    if found.peak is None or found.ranks is None:
        raise MeasurementError("the machine could not be measured; what was known of it is kept")
    if as_json:
        print(json.dumps({"hardware_id": hardware_id, **(store.peaks(hardware_id) or {})}))
        return 0
    ranks = found.ranks
    best: dict[str, float] = {}
    for product in ranks["matmul"]:
        best[product["format"]] = max(best.get(product["format"], 0.0), product["flops_per_s"])
    print(f"{hardware_id}, {experiment.world_size} ranks at once, each")
    for name, rate in best.items():
        print(f"  products in {name:5} {rate / 1e9:10,.1f} GFLOP/s")
    print(f"  element-wise      {ranks['elementwise_bytes_per_s'] / 1e9:10,.2f} GB/s")
    print(f"  one operator      {1e6 * ranks['operator_s']:10,.1f} us")
    if "all_reduce_bytes_per_s" in ranks:
        print(f"  all-reduce        {ranks['all_reduce_bytes_per_s'] / 1e9:10,.2f} GB/s")
        print(f"  its latency       {1e6 * ranks['all_reduce_latency_s']:10,.0f} us")
    _print_probes(ranks.get("probes", []))
    return 0


def _print_probes(rows: Sequence[Mapping[str, Any]]) -> None:
    """Short trainings: what is not as in the first of them, and what it took."""
    from harness.rank.probe import DEPTH

    if not rows:
        return
    usual = rows[0]["plan"]
    print(f"{DEPTH} blocks, one micro-batch {'pass':>42} {'update':>10}")
    for row in rows:
        plan = row["plan"]
        said = [f"{name}={value}" for name, value in plan.items() if name in usual and usual[name] != value]
        own = [f"{name}={plan[name]}" for name in plan if name.endswith("_impl") or name == "reshard_after_forward"]
        label = " ".join([*said, *own]) or "one rank, everything at its default"
        print(f"  {label:52} {1e3 * row['pass_s']:7,.1f} ms {1e3 * row['update_s']:7,.1f} ms")


def _console(*, to_stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=to_stderr)
    return console if console.is_terminal else Console(stderr=to_stderr, width=160)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
