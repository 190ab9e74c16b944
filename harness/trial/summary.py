"""From the events of a trial to its rows in the store."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from harness import statistics
from harness.launchers.events import Event, EventReader
from harness.plan import Plan
from harness.rank.counters import differences
from harness.store import records
from harness.trial.numerics import Curve
from harness.trial.supervise import Trace
from harness.workloads.workload import Workload


def plan_columns(plan: Plan, workload: Workload) -> dict[str, Any]:
    """The columns that follow from the plan and the workload alone."""
    get = plan.get
    return {
        "workload_id": workload.workload_id,
        "workload": workload.name,
        "source": records.Source.RECIPE,
        "rate_of": "samples" if workload.seq_len == 1 else "tokens",
        **{name: plan[name] for name in ("data_parallel", "dp", "tp", "pp", "micro_batch_size")},
        **{name: plan[name] for name in ("precision", "activation_checkpoint", "quantization", "compile")},
        "pp_schedule": get("pp_schedule"),
        "bucket_mb": get("bucket_mb"),
        "grad_accumulation": workload.global_batch_size // (int(plan["dp"]) * int(plan["micro_batch_size"])),
        "global_batch_size": workload.global_batch_size,
        "seq_len": workload.seq_len,
        "world_size": plan.world_size,
        "flops_per_step": workload.flops_per_step(),
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
    return {
        **_steps(trace),
        **_losses(trace),
        **_memory(trace),
        **_communication(trace),
        **_phases(trace),
        **interference(trace),
    }


def step_rows(trial_id: str, trace: Trace) -> list[dict[str, Any]]:
    """One row for each step and rank. What the window found to be warm-up still is marked so."""
    tokens = trace.job.tokens_per_step
    kept = ("step", "phase", "step_time_s", "loss", "grad_norm", "accuracy", "memory_bytes")
    rows = [
        {"trial_id": trial_id, "rank": rank, "tokens": tokens, **{name: event[name] for name in kept}}
        for rank, reader in enumerate(trace.readers)
        for event in reader.all("step")
    ]
    steps = window(trace)
    early = set(sorted(steps)[: statistics.warmup_length(list(steps.values()))])
    for row in rows:
        if row["step"] in early:
            row["phase"] = "warmup"
    return rows


def window(trace: Trace) -> dict[int, float]:
    """Step of the window -> its time on the rank that was slowest in it, in s."""
    by_rank = [{e["step"]: e["step_time_s"] for e in r.all("step") if e["phase"] == "measure"} for r in trace.readers]
    common = set.intersection(*map(set, by_rank)) if by_rank else set()
    return {step: max(times[step] for times in by_rank) for step in sorted(common)}


def _steps(trace: Trace) -> dict[str, Any]:
    by_step = window(trace)
    all_times = list(by_step.values())
    warmup = statistics.warmup_length(all_times)
    times = all_times[warmup:]
    if not times:
        return {}
    low, high = statistics.median_interval(times)
    middle, tokens = statistics.median(times), trace.job.tokens_per_step
    real = _mean([trace.job.real_tokens(step) for step in list(by_step)[warmup:]])
    done = trace.readers[0].last("done") or {}
    return {
        "step_time_s": middle,
        "tokens_per_s": None if tokens is None else tokens / middle,
        "tokens_per_s_low": None if tokens is None else tokens / high,
        "tokens_per_s_high": None if tokens is None else tokens / low,
        "real_tokens_per_s": None if real is None else real / middle,
        "measured_steps": len(times),
        "warmup_steps": trace.job.measurement.warmup_steps + warmup,
        "stop": done.get("stop"),
    }


def _losses(trace: Trace) -> dict[str, Any]:
    losses = curve(trace).loss
    accuracy = _mean([e["accuracy"] for r in trace.readers if (e := r.last("step"))])
    return {"loss_first": losses[0], "loss_last": losses[-1], "accuracy_last": accuracy} if losses else {}


MEMORY = tuple(f"memory_{category}_bytes" for category in ("params", "grads", "optimizer", "buffers", "activations"))
"""What the bytes at a rank's peak are for; together they are its tensors."""


def _memory(trace: Trace) -> dict[str, Any]:
    """Peaks of the worst rank, and the breakdown of the rank with the most tensors."""
    found: dict[str, Any] = {}
    for kind, names in (
        ("done", ("peak_memory_bytes", "peak_reserved_bytes", "memory_outside_bytes")),
        ("state", ("memory_grads_held_bytes", "memory_tensor_peak_bytes")),
    ):
        for name in names:
            values = [int(event[name]) for event in _last(trace, kind) if name in event]
            found |= {name: max(values)} if values else {}
    states = [event for event in _last(trace, "state") if all(name in event for name in MEMORY)]
    if states:
        worst = max(states, key=lambda event: sum(event[name] for name in MEMORY))
        found |= {name: int(worst[name]) for name in MEMORY}
    return found


def _communication(trace: Trace) -> dict[str, Any]:
    """Of the rank that sends most."""
    found: dict[str, Any] = {}
    states = [event for event in _last(trace, "state") if "comm_bytes_per_step" in event]
    if states:
        busiest = max(states, key=lambda event: event["comm_bytes_per_step"])
        names = ("comm_bytes_per_step", "comm_calls_per_step", "comm_by_collective")
        found |= {name: busiest[name] for name in names if name in busiest}
    return found


def profiled(trace: Trace) -> dict[str, Any]:
    """What the profiler saw: communication of the rank that waits longest, the largest peak of tensors."""
    profiles = _last(trace, "profile")
    if not profiles:
        return {}
    longest = max(profiles, key=lambda event: event["comm_exposed_s"])
    peaks = [event["memory_tensor_peak_bytes"] for event in profiles if "memory_tensor_peak_bytes" in event]
    found = {name: longest[name] for name in ("comm_s", "comm_exposed_s")}
    return found | ({"memory_tensor_peak_bytes": max(peaks)} if peaks else {})


def interference(trace: Trace) -> dict[str, Any]:
    """Energy of the window, and what others took of the processors meanwhile, as shares of their whole time."""
    windows = []
    for reader in trace.readers:
        opened = next((e for e in reader.all("phase") if e["name"] == "measure"), None)
        closed = reader.last("done")
        if opened is None or closed is None:
            return {}
        windows.append(differences(opened, closed) | {"wall_s": closed.get("closed", closed["t"]) - opened["t"]})
    energies = [window["energy_j"] for window in windows if "energy_j" in window]
    found: dict[str, Any] = {"energy_j": sum(energies) if energies else None}
    first = windows[0]
    whole = first["wall_s"] * (trace.readers[0].last("done") or {}).get("cpus", 0)
    if "busy_cpu_s" in first and whole > 0:
        ours = sum(window["cpu_s"] for window in windows)
        found["foreign_cpu_share"] = max(0.0, (first["busy_cpu_s"] - ours) / whole)
        found["stolen_cpu_share"] = first["stolen_cpu_s"] / whole
    return found


def window_tokens(trace: Trace) -> int:
    """Tokens of every step of the window, those included that do not count."""
    return len(window(trace)) * (trace.job.tokens_per_step or 0)


def _last(trace: Trace, kind: str) -> list[Event]:
    return [event for reader in trace.readers if (event := reader.last(kind)) is not None]


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
    if phase == "teardown":  # a script is ended in the middle of its training
        ends = [reader.last("done") for reader in readers]
        times = [done["t"] if time is None and done else time for time, done in zip(times, ends, strict=True)]
    present = [t for t in times if t is not None]
    return max(present) if len(present) == len(readers) > 0 else None


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def training_seconds(trace: Trace) -> float:
    """Wall time of the trial that was spent in training steps, warm-up included, in s."""
    phases = _phases(trace)
    return float(phases.get("warmup_s", 0.0) + phases.get("measure_s", 0.0))
