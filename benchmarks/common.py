"""What the benchmarks share: fresh processes side by side, medians, ratios, Markdown.

Only the standard library is imported here: a rank's process imports the script that launched it once more, and what
that takes would count as the harness's own cost.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.sweeps.experiment import Experiment
    from harness.trial.runner import Runner

HERE = Path(__file__).resolve().parent
Measured = dict[str, Any]
"""What one fresh process printed, or was measured to take."""
Settings = Mapping[str, Any]
"""Knob name -> value, the others at their defaults."""


def arguments(doc: str | None, **defaults: Any) -> argparse.Namespace:
    """Parse `--name value` options with these defaults; underscores are dashes on the command line."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        flag = {"action": "store_true"} if default is False else {"type": type(default), "default": default}
        parser.add_argument(f"--{name.replace('_', '-')}", **flag)
    return parser.parse_args()


def environment(*, default_malloc: bool = False) -> dict[str, str]:
    """The environment that the harness gives its ranks; with the allocator's own settings if asked for."""
    from harness.launchers.local import ENVIRONMENT

    given = {k: v for k, v in ENVIRONMENT.items() if not (default_malloc and k.startswith("MALLOC_"))}
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    return {**given, **os.environ, "PYTHONPATH": path}


def measure(command: Sequence[str], *, default_malloc: bool = False) -> Measured:
    """Run a script of this folder that prints one JSON object as its last line; `wall_s` is added."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], env=environment(default_malloc=default_malloc), capture_output=True, text=True
    )
    wall_s = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed with status {done.returncode}:\n{done.stderr[-3000:]}")
    found = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
    return {**json.loads(found), "wall_s": wall_s}


def inside(plan: Settings, *options: str) -> Measured:
    """One trial of a plan through the harness's Runner, in a fresh process."""
    return measure([str(HERE / "inside.py"), "--plan", json.dumps(plan), *options])


def plain(what: Sequence[str], plan: Settings, *options: str, default_malloc: bool = False) -> Measured:
    """One training by plain.py on two ranks under torchrun; `what` chooses the implementation."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(HERE / "plain.py"), *what, "--plan", json.dumps(plan), *options]
    return measure(command, default_malloc=default_malloc)


def interleaved(sides: Mapping[str, Callable[[], Measured]], repeats: int) -> dict[str, list[Measured]]:
    """Measure every side once, then every side once more, and so on, so that a busy spell hits them all."""
    found: dict[str, list[Measured]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name, side in sides.items():
            if sys.stderr.isatty():
                print(f"\r{repeat + 1}/{repeats} {name:60.60}", end="", file=sys.stderr, flush=True)
            found[name].append(side())
    if sys.stderr.isatty():
        print(f"\r{'':70}\r", end="", file=sys.stderr)
    return found


def values(runs: Sequence[Measured], name: str) -> list[float]:
    """One number of each run."""
    return [float(run[name]) for run in runs]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Median of the ratios of runs that were measured next to each other, with the smallest and largest."""
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(pairs):.2f} ({min(pairs):.2f}-{max(pairs):.2f})"


def ms(seconds: Sequence[float]) -> str:
    """Median, in ms."""
    return f"{statistics.median(seconds) * 1e3:.1f}"


def megabytes(runs: Sequence[Measured]) -> str:
    """Median peak of the worst rank above its start, in MB (10^6 bytes)."""
    return f"{statistics.median(values(runs, 'peak_memory_bytes')) / 1e6:.0f}"


def loss_difference(ours: Measured, theirs: Measured) -> str:
    """Largest relative difference of the first steps' losses: whether both sides train the same thing."""
    pairs = zip(ours["losses"], theirs["losses"], strict=False)
    return f"{max(abs(a - b) / abs(b) for a, b in pairs):.0e}"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *notes: str) -> None:
    """A Markdown table under the command that makes it, the date and the machine."""
    import torch

    from harness.machine.hardware import detect

    machine = detect()
    print(f"\n`python {shlex.join(('benchmarks/' + Path(sys.argv[0]).name, *sys.argv[1:]))}`")
    load = f", load {os.getloadavg()[0]:.1f} at the end"
    print(f"({date.today()}, {machine.hardware_id}, torch {torch.__version__}{load})\n")
    for line in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(line)} |")
    for note in notes:
        print(f"\n{note}")


def experiment(workload: str, folder: str = "unused") -> Experiment:
    """A default sweep on two ranks, prepared as the command prepares it; nothing is written."""
    from harness.sweeps.config import SweepConfig
    from harness.sweeps.experiment import prepare

    results, reports = Path(folder, "results"), Path(folder, "reports")
    return prepare(SweepConfig(workload=workload, world_size=2, results=results, reports=reports))


@contextmanager
def runner(workload: str, *, seconds: float = 2.5) -> Iterator[tuple[Runner, Experiment]]:
    """A Runner as a sweep makes it, with its results in a folder that is removed, and what it was prepared from."""
    from harness.launchers import create
    from harness.launchers.job import Measurement
    from harness.rank import preload_for
    from harness.store.store import Store
    from harness.trial.runner import Runner

    with tempfile.TemporaryDirectory() as folder, create("local", preload_for(workload)) as launcher:
        launcher.warm_up()
        prepared = experiment(workload, folder)
        next(iter(prepared.workloads.values())).prepare()
        made = Runner(
            launcher=launcher,
            store=Store(prepared.config.results),
            hardware_id="benchmark",
            sweep="benchmark",
            cores=prepared.hardware.usable_cores,
            measurement=Measurement(seconds=seconds),
        )
        yield made, prepared


def run_trial(made: Runner, prepared: Experiment, plan: Settings) -> Measured:
    """One trial; `fixed_s` is what Runner.run took beyond the training steps."""
    from harness.rank.observe import CATEGORIES

    workload = next(iter(prepared.workloads.values()))
    begin = time.perf_counter()
    result = made.run(prepared.plan(plan), workload, prepared.facts(workload))
    wall_s = time.perf_counter() - begin
    if result.outcome != "ok":
        sys.exit(f"{json.dumps(plan)} ended with {result.outcome}: {result.row['outcome_reason']}")
    steps = made.store.steps()
    losses = steps[steps["trial_id"] == result.trial_id].groupby("step")["loss"].mean()
    return {
        **{name: result.row[name] for name in ("step_time_s", "measured_steps", "peak_memory_bytes", "launch_s")},
        **{name: result.row[name] for name in ("setup_s", "teardown_s")},
        "tensor_bytes": sum(result.row[f"memory_{name}_bytes"] for name in CATEGORIES),
        "losses": [float(loss) for loss in losses[:8]],
        "fixed_s": wall_s - result.training_s,
    }
