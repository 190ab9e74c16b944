"""Rows of invented trials: no number here was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from harness.store.records import SCHEMA_VERSION, TRIALS

HARDWARE, SWEEP, WORKLOAD = "synthetic-2core-0000", "synthetic", "gpt-nano-0000000000"
MIB = 1024**2
COLUMNS = {column.name for column in TRIALS}
PLAN: dict[str, Any] = {
    "data_parallel": "ddp",
    "dp": 2,
    "tp": 1,
    "pp": 1,
    "micro_batch_size": 4,
    "precision": "fp32",
    "activation_checkpoint": "none",
    "quantization": "none",
    "compile": "off",
    "bucket_mb": 8.0,
}
INFO: dict[str, Any] = {
    "command": "python -m harness sweep --name synthetic",
    "objective": "throughput",
    "hardware": {"cpu": "Imaginary CPU", "memory_bytes": 8 * 1024**3},
    "environment": {"python": "3.11"},
    "wall_s": 180.0,
    "training_s": 140.0,
}


def trial(
    trial_id: str, tokens_per_s: float = 1000.0, plan: Mapping[str, Any] | None = None, **columns: Any
) -> dict[str, Any]:
    """A complete ok row; `plan` changes settings, `columns` change anything else."""
    knobs = PLAN | dict(plan or {})
    number = int("".join(filter(str.isdigit, trial_id)) or 0)
    same = {name: knobs[name] for name in knobs if name in COLUMNS and name != "compile"}
    return {
        "trial_id": trial_id,
        "workload_id": WORKLOAD,
        "workload": "gpt-nano",
        "plan_id": f"plan{number}",
        "outcome": "ok",
        "started_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
        **same,
        "compile": knobs["compile"] != "off",
        "grad_accumulation": 1,
        "global_batch_size": 8,
        "seq_len": 100,
        "knobs": json.dumps(knobs),
        "world_size": knobs["dp"] * knobs["tp"] * knobs["pp"],
        "tokens_per_s": tokens_per_s,
        "tokens_per_s_low": 0.98 * tokens_per_s,
        "tokens_per_s_high": 1.02 * tokens_per_s,
        "step_time_s": 800 / tokens_per_s,
        "measured_steps": 8,
        "peak_memory_bytes": 400 * MIB,
        "memory_params_bytes": 40 * MIB,
        "memory_grads_bytes": 40 * MIB,
        "memory_optimizer_bytes": 80 * MIB,
        "memory_buffers_bytes": 10 * MIB,
        "memory_activations_bytes": 200 * MIB,
        "comm_bytes_per_step": 40 * MIB,
        "comm_by_collective": '{"all_reduce": {"bytes": 41943040, "calls": 3}}',
        "comm_s": 0.05,
        "comm_exposed_s": 0.02,
        "role": "search",
        "loss_first": 5.0,
        "loss_last": 4.0,
        "numerics": "pass",
        "numerics_max_rel_error": 2e-6,
        "numerics_tolerance": 1e-4,
        "launch_s": 0.2,
        "setup_s": 0.3,
        "schema_version": SCHEMA_VERSION,
        "harness_version": "0.1.0",
        "torch_version": "2.0",
        **columns,
    }


def failure(
    trial_id: str, outcome: str, reason: str, plan: Mapping[str, Any] | None = None, **columns: Any
) -> dict[str, Any]:
    """A row that measured nothing."""
    row = trial(trial_id, plan=plan, outcome=outcome, outcome_reason=reason, numerics="skipped", **columns)
    measured = (
        "tokens_per_s",
        "step_time_s",
        "peak_",
        "memory_",
        "loss_",
        "numerics_",
        "measured_",
        "comm_",
        "launch_s",
        "setup_s",
    )
    return {name: value for name, value in row.items() if not name.startswith(measured)}


def step_rows(row: Mapping[str, Any], steps: int = 10, warmup: int = 2) -> list[dict[str, Any]]:
    """Two ranks, the second 10 % slower; losses 1e-6 off the reference; warm-up five times as slow."""
    return [
        {
            "trial_id": row["trial_id"],
            "rank": rank,
            "step": step,
            "phase": "warmup" if step < warmup else "measure",
            "step_time_s": row["step_time_s"]
            * (5 if step < warmup else 1 + 0.01 * (step % 3))
            * (1.1 if rank else 1.0),
            "tokens": 800,
            "loss": (5 - 0.1 * step) * (1 + 1e-6) + (0.5 if rank else -0.5),
        }
        for rank in range(2)
        for step in range(steps)
    ]


def final(of: Mapping[str, Any], number: int, tokens_per_s: float) -> dict[str, Any]:
    """A final launch of the plan of a row."""
    rates = {f"tokens_per_s{end}": tokens_per_s for end in ("", "_low", "_high")}
    step = {"step_time_s": 800 / tokens_per_s, "started_at": of["started_at"] + timedelta(hours=number)}
    launch = {"trial_id": f"{of['trial_id']}-final{number}", "role": "final", "round": number}
    return {**of, **launch, **rates, **step}


def decided() -> list[dict[str, Any]]:
    """`typical` with final launches of b2 and c3, which turn their order around."""
    rows = typical()
    b2, c3 = rows[1], rows[2]
    slow = [final(b2, at, rate) for at, rate in enumerate((1040.0, 1050.0, 1060.0), start=1)]
    fast = [final(c3, at, rate) for at, rate in enumerate((1090.0, 1100.0, 1110.0), start=1)]
    return [*rows, *slow, *fast]


def typical() -> list[dict[str, Any]]:
    """A sweep with a winner (b2), one tie (c3), a ddp baseline (a1) and two failures."""
    return [
        trial("a1", 1000.0),
        trial("b2", 1100.0, {"data_parallel": "zero2", "micro_batch_size": 8}, peak_memory_bytes=300 * MIB),
        trial("c3", 1090.0, {"data_parallel": "zero2", "precision": "bf16_autocast"}, peak_memory_bytes=250 * MIB),
        trial("d4", 700.0, {"data_parallel": "zero3"}, peak_memory_bytes=200 * MIB, memory_optimizer_bytes=20 * MIB),
        failure(
            "e5",
            "oom_host",
            "rank 1 was killed",
            {"dp": 1, "tp": 2, "data_parallel": "none"},
            failed_phase="warmup",
            failed_rank=1,
            failed_step=0,
        ),
        failure("f6", "infeasible", "6 heads do not divide by 4", {"tp": 4}),
    ]
