"""How long a results folder of many trials takes to open and rank. Goal: 10,000 trials in under 2 s.

The trials are synthetic: plans and columns are real ones, the measured values are random. They are recorded through
Store, one by one as trials end, which merges their files now and then; at last every sweep is merged as a finished
sweep is. Both states are read by fresh processes, whose whole wall time is given with the parts they measured.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import common

SWEEPS = 20
HARDWARE = "synthetic"


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Synthetic trials."""
    import strategies
    from harness import workloads
    from harness.plan import complete
    from harness.trial.summary import plan_columns

    workload = workloads.create("gpt-nano", cache=Path("unused"))
    knobs, rng = strategies.knobs(strategies.registry().values()), random.Random(0)
    kinds = itertools.product(("ddp", "zero1", "zero2"), (1, 2, 4), ("fp32", "bf16_autocast"), range(1, 51))
    plans = [
        complete({"data_parallel": kind, "dp": 2, "micro_batch_size": micro, "precision": p, "bucket_mb": mb}, knobs)
        for kind, micro, p, mb in kinds
    ]
    columns = [plan_columns(plan, workload) for plan in plans]
    for number in range(count):
        rate = rng.uniform(1e3, 1e5)
        yield {
            **columns[number % len(columns)],
            "trial_id": f"synthetic-{number:06}",
            "started_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
            "torch_version": "2.13.0",
            "outcome": "ok" if rng.random() < 0.9 else "infeasible",
            "numerics": "pass",
            "tokens_per_s": rate,
            "tokens_per_s_low": 0.98 * rate,
            "tokens_per_s_high": 1.02 * rate,
            "step_time_s": 1024 / rate,
            "peak_memory_bytes": rng.randrange(10**8, 10**9),
        }


def read(root: Path) -> None:
    """In a fresh process: open and rank everything, then one sweep as a report does."""
    begin = time.perf_counter()
    from harness.report.sweep_view import SweepView
    from harness.store.store import Store

    imported = time.perf_counter()
    trials = Store(root).trials()
    ranked = trials[trials["outcome"] == "ok"].sort_values("tokens_per_s", ascending=False)
    opened = time.perf_counter()
    of_sweep = SweepView.read(Store(root), HARDWARE, "synthetic-0").ranked
    done = time.perf_counter()
    found = {"import_s": imported - begin, "all_s": opened - imported, "sweep_s": done - opened}
    print(json.dumps({**found, "trials": len(trials), "ranked": len(ranked), "ranked_of_sweep": len(of_sweep)}))


def main() -> None:
    """Build the store, measure both states, print the table."""
    given = common.arguments(__doc__, trials=10_000, repeats=3, read="")
    if given.read:
        read(Path(given.read))
        return
    from harness.store.store import Store

    with tempfile.TemporaryDirectory() as folder:
        store, begin = Store(folder), time.perf_counter()
        for number, row in enumerate(rows(given.trials)):
            store.append(HARDWARE, f"synthetic-{number * SWEEPS // given.trials}", row)
        append_s = time.perf_counter() - begin
        reader = [str(common.HERE / "store.py"), "--read", folder]
        files = len(list(Path(folder).glob("trials/*/*/*.parquet")))
        unmerged = [common.measure(reader) for _ in range(given.repeats)]
        begin = time.perf_counter()
        for sweep in range(SWEEPS):
            store.merge(HARDWARE, f"synthetic-{sweep}")
        merge_s = time.perf_counter() - begin
        merged = [common.measure(reader) for _ in range(given.repeats)]
    if any(run["trials"] != given.trials for run in (*unmerged, *merged)):
        sys.exit("the store did not return every trial")
    parts = ("import_s", "all_s", "sweep_s", "wall_s")
    table = [
        [state, *(f"{statistics.median(common.values(runs, part)):.2f}" for part in parts)]
        for state, runs in ((f"{SWEEPS} merged sweeps", merged), (f"as recorded, {files} files", unmerged))
    ]
    header = ("state", "imports s", "open and rank all s", "open and rank one sweep s", "whole process s")
    made = f"Recording took {append_s / given.trials * 1e3:.1f} ms a trial, merging {merge_s:.1f} s in all."
    common.print_table(header, table, f"{given.trials} synthetic trials in {SWEEPS} sweeps. {made} Goal: 2 s.")


if __name__ == "__main__":
    main()
