"""What a trial costs beyond its training steps, against launching the same training with torchrun.

Goal: at most 0.6 s, and at most 1/6 of torchrun. The harness's side is Runner.run (fork, build, teardown, both parquet
files) without the warm-up and measured steps, as a sweep's later trials run it: with its fork server up. To this comes
what the search takes from one trial's result to the next plan. torchrun's side is the wall time of the command
without the same steps.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from harness.sweeps.experiment import Experiment

TRIALS = 25
"""Trials of the search that is timed; the sampler draws the first ten at random."""


def search_seconds(experiment: Experiment) -> float:
    """Median time from one trial's result to the next plan: tell, ask, check, and the journal on disk."""
    from harness.search import loop
    from harness.search.evaluation import Budget, Evaluation
    from harness.search.study import open_study
    from harness.store.records import Outcome

    rng = random.Random(0)
    told: list[float] = []
    gaps: list[float] = []

    def refuse(plan: Any, ticket: Any, reason: str) -> Evaluation:
        return Evaluation(trial_id="", outcome=Outcome.INFEASIBLE, values=None, reason=reason)

    def evaluate(plan: Any, ticket: Any) -> Evaluation:
        if told:
            gaps.append(time.perf_counter() - told[-1])
        told.append(time.perf_counter())
        return Evaluation(trial_id="", outcome=Outcome.OK, values=(rng.random(),))

    with tempfile.TemporaryDirectory() as folder:
        study = open_study(Path(folder, "study.log"), "fixed-cost", ["maximize"])
        loop.run(study, experiment.spaces(), evaluate, refuse, Budget(trials=TRIALS))
    return statistics.median(gaps)


def main() -> None:
    """Measure and print the table."""
    given = common.arguments(__doc__, repeats=7, workload="gpt-nano", seconds=0.5)
    plans = {name: {"data_parallel": name, "dp": 2, "micro_batch_size": 4} for name in ("ddp", "zero3")}
    options = ("--workload", given.workload, "--seconds", str(given.seconds))
    with common.runner(given.workload, seconds=given.seconds) as (runner, experiment):
        common.run_trial(runner, experiment, plans["ddp"])  # the fork server is up after this
        sides: dict[str, Any] = {}
        for name, plan in plans.items():
            sides[f"{name} harness"] = partial(common.run_trial, runner, experiment, plan)
            sides[f"{name} torchrun"] = partial(common.plain, ["--strategy", name], plan, *options)
        found = common.interleaved(sides, given.repeats)
        asking = search_seconds(experiment)
    rows = []
    for name in plans:
        ours = [cost + asking for cost in common.values(found[f"{name} harness"], "fixed_s")]
        theirs = [run["wall_s"] - run["training_s"] for run in found[f"{name} torchrun"]]
        phases = [common.ms(common.values(found[f"{name} harness"], p)) for p in ("launch_s", "setup_s", "teardown_s")]
        row = [name, *phases, common.ms([asking]), common.ms(ours), common.ms(theirs), common.ratio(ours, theirs)]
        rows.append(row)
    header = ("strategy", "launch ms", "set-up ms", "teardown ms", "search ms", "harness ms", "torchrun ms", "ratio")
    common.print_table(header, rows, "Medians; the ratio is of neighbouring runs, with its range. Goal: 600 ms, 0.17.")


if __name__ == "__main__":
    main()
