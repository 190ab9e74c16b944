"""Makes a large results folder to measure with: real plans and columns, random values. No number in it was measured.

    python benchmarks/synthetic.py FOLDER [--sweeps 50] [--trials 2000] [--steps 50]

Everything in it is called synthetic: hardware, sweeps, and the version that recorded it. Each sweep has `trials` trials
and two ranks of `steps` steps for each that succeeded; the default is 100,000 trials and about 10 million step rows.
"""

from __future__ import annotations

import argparse
import itertools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

HARDWARE = ("synthetic-a-2c-24g-000000", "synthetic-b-4c-24g-000000", "synthetic-c-8c-24g-000000")
FAILED = 0.1
RANKS = 2
VERSION = "synthetic"


def plan_rows() -> list[dict[str, Any]]:
    """The columns that plans have, of some hundred of them."""
    import strategies
    from harness import workloads
    from harness.plan import complete
    from harness.trial.summary import plan_columns

    workload = workloads.create("gpt-nano", cache=Path("unused"))
    knobs = strategies.knobs(strategies.registry().values())
    kinds = itertools.product(("ddp", "zero1", "zero2"), (1, 2, 4), ("fp32", "bf16_autocast"), range(1, 51))
    return [
        plan_columns(
            complete({"data_parallel": kind, "dp": 2, "micro_batch_size": m, "precision": p, "bucket_mb": mb}, knobs),
            workload,
        )
        for kind, m, p, mb in kinds
    ]


def trials(plans: list[dict[str, Any]], sweep: int, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """The trials of one sweep."""
    frame = pd.DataFrame([plans[at] for at in rng.integers(len(plans), size=count)])
    rate = rng.uniform(1e3, 1e5, count)
    failed = rng.random(count) < FAILED
    began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=sweep)
    measured = {
        "tokens_per_s": rate,
        "tokens_per_s_low": 0.98 * rate,
        "tokens_per_s_high": 1.02 * rate,
        "step_time_s": 1024 / rate,
        "peak_memory_bytes": rng.integers(10**8, 10**9, count).astype(float),
        "comm_bytes_per_step": rng.integers(10**6, 10**8, count).astype(float),
        "mfu": rng.random(count),
        "loss_first": rng.uniform(4, 6, count),
        "loss_last": rng.uniform(2, 4, count),
        "launch_s": rng.uniform(0.02, 0.04, count),
        "setup_s": rng.uniform(0.2, 0.3, count),
        "warmup_s": rng.uniform(0.2, 0.4, count),
        "measure_s": rng.uniform(0.5, 2.5, count),
        "teardown_s": rng.uniform(0.02, 0.04, count),
    }
    frame = frame.assign(
        trial_id=[f"synthetic-{sweep:04}-{at:06}" for at in range(count)],
        role="search",
        started_at=[began + timedelta(seconds=3 * at) for at in range(count)],
        torch_version=VERSION,
        harness_version=VERSION,
        numerics=np.where(failed, "skipped", "pass"),
        outcome=np.where(failed, "oom_host", "ok"),
        outcome_reason=np.where(failed, "synthetic: it did not fit", None),
    )
    for name, values in measured.items():
        frame[name] = np.where(failed, np.nan, values)
    return frame


def steps(of: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Steps of every rank of the trials that succeeded."""
    ok = of[of["outcome"] == "ok"]
    each, rows = RANKS * count, len(ok) * RANKS * count
    number = np.tile(np.arange(count), len(ok) * RANKS)
    return pd.DataFrame(
        {
            "trial_id": np.repeat(ok["trial_id"].to_numpy(), each),
            "rank": np.tile(np.repeat(np.arange(RANKS), count), len(ok)),
            "step": number,
            "phase": np.where(number < 4, "warmup", "measure"),
            "step_time_s": np.repeat(ok["step_time_s"].to_numpy(), each) * rng.lognormal(0, 0.03, rows),
            "tokens": 1024,
            "loss": 5 - 0.02 * number + rng.normal(0, 0.01, rows),
            "grad_norm": rng.uniform(0.5, 2, rows),
            "memory_bytes": rng.integers(10**8, 10**9, rows),
        }
    )


def write(frame: pd.DataFrame, table: str, columns: Any, path: Path) -> None:
    """A frame as a parquet file of the store, columns that it lacks as nulls."""
    from harness.store.store import arrow_schema

    schema = arrow_schema(columns)
    arrays = [
        pa.array(frame[field.name], type=field.type, from_pandas=True)
        if field.name in frame
        else pa.nulls(len(frame), field.type)
        for field in schema
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays, schema=schema), path)


def build(folder: Path, sweeps: int, count: int, step_count: int, files: int = 1) -> None:
    """Make the folder.

    Args:
        folder: of the results.
        sweeps: how many, over three pieces of hardware in turn.
        count: trials of each.
        step_count: steps of each rank of a trial.
        files: of each sweep and table; many are what a sweep under way leaves.
    """
    from harness.store.records import SCHEMA_VERSION, STEPS, TRIALS
    from harness.store.store import Store

    plans, rng, store = plan_rows(), np.random.default_rng(0), Store(folder)
    for sweep in range(sweeps):
        hardware, name = HARDWARE[sweep % len(HARDWARE)], f"synthetic-{sweep:04}"
        rows = trials(plans, sweep, count, rng).assign(schema_version=SCHEMA_VERSION)
        of_steps = steps(rows, step_count, rng)
        for at in range(files):
            part = rows.iloc[at::files]
            in_part = of_steps[of_steps["trial_id"].isin(set(part["trial_id"]))] if files > 1 else of_steps
            place = f"hardware_id={hardware}/sweep={name}/part-{at:05}.parquet"
            write(in_part, "steps", STEPS, folder / "steps" / place)
            write(part, "trials", TRIALS, folder / "trials" / place)
        info = {"objective": "throughput", "wall_s": 3.0 * count, "training_s": 2.4 * count, "stopped": "synthetic"}
        store.write_sweep_info(hardware, name, info | {"command": "synthetic", "environment": {"torch": VERSION}})
    for cores, hardware in zip((2, 4, 8), HARDWARE, strict=True):
        store.write_peaks(hardware, {"usable_cores": cores, "copy_bytes_per_s": 1e10, "flops_per_s": {"fp32": 1e11}})


def main() -> None:
    """Make the folder that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in {"sweeps": 50, "trials": 2000, "steps": 56, "files": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    build(given.folder, given.sweeps, given.trials, given.steps, given.files)
    print(json.dumps({"folder": str(given.folder), "trials": given.sweeps * given.trials}))


if __name__ == "__main__":
    main()
