"""What adaptive windows and racing save, and whether they ever end the plan that would have won.

An exhaustive table is recorded first: every plan of a small grid, each with the same long fixed window. Then sweeps
over this table are replayed in random orders, by the rules the ranks use (harness.rank.stopping), against a fixed
measurement of 20 steps. Nothing but the order and the rules is simulated: each step's time is a recorded one.

    steps      time in steps, of all plans together, as a share of the fixed measurement's
    whole      the same with every launch's own time (launch, set-up, warm-up, teardown) on both sides
    regret     how much slower than the table's best plan the chosen one is, by all of its recorded steps
    ended      replays in which racing ended the plan that all steps say is best

Goal: at most 60 % of the time at the same regret; the best plan is never ended.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
from dataclasses import replace
from typing import Any

import common

FIXED_STEPS = 20
KINDS: tuple[dict[str, Any], ...] = (
    {"data_parallel": "ddp"},
    {"data_parallel": "zero1"},
    {"data_parallel": "zero1", "zero1_impl": "torch"},
    {"data_parallel": "zero2"},
    {"data_parallel": "zero3"},
    {"tp": 2},
    {"pp": 2},
)


def grid() -> list[dict[str, Any]]:
    """Every kind at two micro-batch sizes and two number formats."""
    sizes, formats = (2, 4), ("fp32", "bf16")
    return [{**k, "micro_batch_size": m, "precision": p} for k, m, p in itertools.product(KINDS, sizes, formats)]


def record(steps: int, workload: str) -> list[dict[str, Any]]:
    """Each plan's step times on the slowest rank, and what its launch took besides."""
    from harness.launchers.job import Measurement

    found = []
    with common.runner(workload) as (made, prepared):
        made.measurement = Measurement(min_steps=steps, max_steps=steps)
        task = next(iter(prepared.workloads.values()))
        for number, settings in enumerate(grid(), start=1):
            print(f"\r{number}/{len(grid())}", end="", file=sys.stderr, flush=True)
            result = made.run(prepared.plan(settings), task, prepared.facts(task))
            if result.outcome != "ok":
                sys.exit(f"{settings} ended with {result.outcome}: {result.row['outcome_reason']}")
            rows = made.store.steps()
            rows = rows[(rows["trial_id"] == result.trial_id)]
            window = rows[rows["step"] >= Measurement().warmup_steps].groupby("step")["step_time_s"].max()
            parts = ("launch_s", "setup_s", "warmup_s", "teardown_s")
            found.append({"times": list(window), "besides_s": sum(result.row[part] for part in parts)})
    print(file=sys.stderr)
    return found


def window(times: list[float], settings: Any) -> tuple[list[float], Any]:
    """The steps that are run, and why they end; looked at after every step."""
    from harness.rank.stopping import why_stop

    for count in range(1, len(times) + 1):
        if stop := why_stop(times[:count], settings):
            return times[:count], stop
    return times, None


def replay(table: list[dict[str, Any]], order: list[int], settings: Any) -> tuple[float, int, set[int]]:
    """(time in steps, the chosen plan, plans ended by racing) of one sweep."""
    from harness.rank.stopping import Stop
    from harness.statistics import median, median_interval

    spent, medians, ended = 0.0, {}, set()
    rival: float | None = None
    for plan in order:
        times, stop = window(table[plan]["times"], replace(settings, rival_step_time_s=rival))
        spent += sum(times)
        if stop is Stop.SLOWER:
            ended.add(plan)
            continue
        medians[plan] = median(times)
        slowest = median_interval(times)[1]
        rival = slowest if rival is None else min(rival, slowest)
    return spent, min(medians, key=medians.__getitem__), ended


def main() -> None:
    """Record, replay, print the table."""
    given = common.arguments(__doc__, steps=40, replays=1000, workload="gpt-nano")
    from harness.sweeps.config import SweepConfig

    table = record(given.steps, given.workload)
    truth = [statistics.median(entry["times"]) for entry in table]
    best, besides = min(range(len(table)), key=truth.__getitem__), sum(entry["besides_s"] for entry in table)
    fixed = [statistics.median(entry["times"][:FIXED_STEPS]) for entry in table]
    fixed_s = sum(sum(entry["times"][:FIXED_STEPS]) for entry in table)
    settings, rng = SweepConfig().measurement, random.Random(0)
    shares, wholes, regrets, lost = [], [], [], 0
    for _ in range(given.replays):
        order = rng.sample(range(len(table)), len(table))
        spent, chosen, ended = replay(table, order, settings)
        shares.append(spent / fixed_s)
        wholes.append((spent + besides) / (fixed_s + besides))
        regrets.append(truth[chosen] / truth[best] - 1)
        lost += best in ended
    regret = truth[min(range(len(table)), key=fixed.__getitem__)] / truth[best] - 1
    row = [f"{statistics.median(shares):.0%}", f"{statistics.median(wholes):.0%}", f"{max(wholes):.0%}"]
    row += [f"{statistics.mean(regrets):.1%}", f"{regret:.1%}", f"{lost} of {given.replays}"]
    header = ("steps", "whole", "whole, worst order", "regret", "regret of the fixed measurement", "best plan ended")
    common.print_table(header, [row], f"{len(table)} plans, {given.steps} recorded steps each.")


if __name__ == "__main__":
    main()
