"""From the events of a trial to its rows in the store."""

from __future__ import annotations

import itertools
from typing import Any

from harness import __version__, records, statistics
from harness.plan import Plan
from harness.trial.events import Event, EventReader
from harness.trial.numerics import Curve
from harness.trial.supervise import Trace
from harness.workloads.base import Workload


def plan_columns(plan: Plan, workload: Workload) -> dict[str, Any]:
    """The columns that follow from the plan and the workload alone."""
    get = plan.get
    return {
        "workload_id": workload.workload_id,
        "workload": workload.name,
        "plan_id": plan.plan_id,
        **{name: plan[name] for name in ("data_parallel", "dp", "tp", "pp", "micro_batch_size")},
        **{name: plan[name] for name in ("precision", "activation_checkpoint", "quantization", "compile")},
        "pp_schedule": get("pp_schedule"),
        "bucket_mb": get("bucket_mb"),
        "grad_accumulation": workload.global_batch_size // (int(plan["dp"]) * int(plan["micro_batch_size"])),
        "global_batch_size": workload.global_batch_size,
        "seq_len": workload.seq_len,
        "knobs": plan.to_json(),
        "world_size": plan.world_size,
        "flops_per_step": workload.flops_per_step(),
        "schema_version": records.SCHEMA_VERSION,
        "harness_version": __version__,
    }


def curve(trace: Trace) -> Curve:
    """Loss (mean over the ranks that see one) and gradient norm by step."""
    by_step: dict[int, list[Event]] = {}
    for reader in trace.readers:
        for event in reader.all("step"):
            by_step.setdefault(event["step"], []).append(event)
    losses = [_mean([e["loss"] for e in by_step[s]]) for s in sorted(by_step)]
    norms = [_mean([e["grad_norm"] for e in by_step[s]]) for s in sorted(by_step)]
    return Curve([v for v in losses if v is not None], [v for v in norms if v is not None])


def measured(trace: Trace) -> dict[str, Any]:
    """The columns that were measured; those of phases that were not reached are missing."""
    return {**_steps(trace), **_losses(trace), **_worst_of_ranks(trace), **_phases(trace)}


def step_rows(trial_id: str, trace: Trace) -> list[dict[str, Any]]:
    """One row for each step and rank."""
    tokens = trace.job.workload.tokens_per_step
    kept = ("step", "phase", "step_time_s", "loss", "grad_norm", "accuracy", "memory_bytes")
    return [
        {"trial_id": trial_id, "rank": rank, "tokens": tokens, **{name: event[name] for name in kept}}
        for rank, reader in enumerate(trace.readers)
        for event in reader.all("step")
    ]


def step_times(trace: Trace) -> list[float]:
    """Time of each measured step on the rank that was slowest in it, in s."""
    by_rank = [{e["step"]: e["step_time_s"] for e in r.all("step") if e["phase"] == "measure"} for r in trace.readers]
    common = set.intersection(*map(set, by_rank)) if by_rank else set()
    return [max(times[step] for times in by_rank) for step in sorted(common)]


def _steps(trace: Trace) -> dict[str, Any]:
    times = step_times(trace)
    if not times:
        return {}
    low, high = statistics.median_interval(times)
    middle, tokens = statistics.median(times), trace.job.workload.tokens_per_step
    return {
        "step_time_s": middle,
        "tokens_per_s": tokens / middle,
        "tokens_per_s_low": tokens / high,
        "tokens_per_s_high": tokens / low,
        "measured_steps": len(times),
    }


def _losses(trace: Trace) -> dict[str, Any]:
    losses = curve(trace).loss
    accuracy = _mean([e["accuracy"] for r in trace.readers if (e := r.last("step"))])
    return {"loss_first": losses[0], "loss_last": losses[-1], "accuracy_last": accuracy} if losses else {}


def _worst_of_ranks(trace: Trace) -> dict[str, Any]:
    found: dict[str, int] = {}
    for reader in trace.readers:
        for event in (reader.last("state"), reader.last("done")):
            for name, value in (event or {}).items():
                if name.endswith(("_bytes", "_bytes_per_step")):
                    found[name] = max(found.get(name, 0), int(value))
    return dict(found)


def _phases(trace: Trace) -> dict[str, Any]:
    """Where the time went, by the rank that was last to enter each phase."""
    begins = {name: _entered(trace.readers, name) for name in ("build", "warmup", "measure", "teardown")}
    edges = [trace.started, *begins.values(), trace.ended]
    names = ("launch_s", "setup_s", "warmup_s", "measure_s", "teardown_s")
    found = {}
    for name, (begin, end) in zip(names, itertools.pairwise(edges), strict=True):
        if begin is not None and end is not None:
            found[name] = end - begin
    return found


def _entered(readers: list[EventReader], phase: str) -> float | None:
    times = [next((e["t"] for e in r.all("phase") if e["name"] == phase), None) for r in readers]
    present = [t for t in times if t is not None]
    return max(present) if len(present) == len(readers) else None


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def training_seconds(trace: Trace) -> float:
    """Wall time of the trial that was spent in training steps, warm-up included, in s."""
    phases = _phases(trace)
    return float(phases.get("warmup_s", 0.0) + phases.get("measure_s", 0.0))
