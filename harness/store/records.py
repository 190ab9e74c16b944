"""The columns of the store: name, type, unit, meaning. The schema page in results/README.md is made from this file.

Version history of the schema
    1   first version
    2   why a trial was launched and why its window ended; what disturbed it; memory at the peak by category, which adds
        up to memory_tensor_peak_bytes (memory_grads_bytes was what is held after backward, which is
        memory_grads_held_bytes now); communication by collective and how much of it is exposed; hardware peak, headroom
    3   the round of a final launch
    4   what the prediction says of each category of memory
    5   bucket_mb is 10^6 bytes of gradients in every strategy, and null under FSDP2 (before, MiB where torch made the
        buckets); readers of this package get rows of earlier versions in these words (`older.py`)
    6   what of a device is taken beside the allocator's memory, and what others did with it before a launch; by which
        rule and in which arithmetic a reference was made
    7   what numerics were compared with, where a model is too large for one process: a twin of it and the other plans;
        tokens that are no padding
    8   trials of somebody's script: which columns say what its plan is, its command, and what was seen of it; columns
        that only plans of our own strategies have are null there, and so is a reference's gradient norm
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

SCHEMA_VERSION = 8


class Outcome(StrEnum):
    """How a trial ended."""

    OK = "ok"
    INFEASIBLE = "infeasible"
    OOM_DEVICE = "oom_device"
    OOM_HOST = "oom_host"
    HANG = "hang"
    CRASH = "crash"
    NAN = "nan"
    NUMERICS = "numerics"
    PREEMPTED = "preempted"
    INTERRUPTED = "interrupted"
    STOPPED_EARLY = "stopped_early"


class Role(StrEnum):
    """Why a trial was launched."""

    SEARCH = "search"
    """The search asked for its plan."""
    AGAIN = "again"
    """The first launch of its plan was disturbed."""
    FINAL = "final"
    """Its plan is among the best: launches that decide between them, interleaved."""
    RUN = "run"
    """The user asked for this plan."""
    NIGHTLY = "nightly"
    """A suite asked for it."""
    BASELINE = "baseline"
    """It is the script as it stood: what its other plans are compared with."""


class Source(StrEnum):
    """What a trial's ranks ran."""

    RECIPE = "recipe"
    """A workload under strategies of this package."""
    SCRIPT = "script"
    """Somebody's script, started by its own command."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    type: str
    """"string", "int64", "float64", "bool" or "timestamp" (microseconds, UTC)."""
    meaning: str
    unit: str = ""
    required: bool = False
    """Whether a row without a value is refused."""


def _column(name: str, type: str, unit: str, meaning: str) -> Column:
    return Column(name.rstrip("!"), type, meaning, unit, required=name.endswith("!"))


PARTITIONS = (
    _column("hardware_id!", "string", "", "what it ran on: a readable slug plus a hash (partition)"),
    _column("sweep!", "string", "", "name of the sweep (partition)"),
)
"""Columns that stand in the folder names (hive partitioning), not in the files."""

TRIALS = (
    _column("trial_id!", "string", "", "one execution of a plan"),
    _column("study_trial", "int64", "", "number of the trial in the sweep's Optuna study, null outside a study"),
    _column("role", "string", "", "why it was launched: " + ", ".join(Role)),
    _column("round", "int64", "", "of a final launch: plans launched in one round are compared; null for others"),
    _column("workload_id!", "string", "", "hash of everything that is trained, data included"),
    _column("workload!", "string", "", "name of the workload"),
    _column("plan_id!", "string", "", "hash of every setting of the plan"),
    _column(
        "source",
        "string",
        "",
        "what its ranks ran: recipe (a workload under strategies of this package) or script (somebody's, by its own "
        "command); null before version 8: a recipe",
    ),
    _column("command", "string", "", "of a script: what was started, for a shell; null for recipes"),
    _column("outcome!", "string", "", "how the trial ended: " + ", ".join(Outcome)),
    _column("outcome_reason", "string", "", "why, in one sentence; null if ok"),
    _column(
        "failed_phase", "string", "", "phase in which the first rank failed: launch, build, warmup, measure or teardown"
    ),
    _column("failed_rank", "int64", "", "first rank that failed"),
    _column("failed_step", "int64", "", "last step that it was known to have finished"),
    _column(
        "evidence",
        "string",
        "",
        "what was seen of a trial that is not ok, as JSON: of each rank exit status or signal, last event, end of its "
        "output, traceback, stacks if it hangs, kernel counters",
    ),
    _column("started_at!", "timestamp", "", "when the trial was asked for, UTC"),
    _column("data_parallel", "string", "", "none, ddp, zero1, zero2, zero3 or the name of an added strategy"),
    _column("dp", "int64", "ranks", "data-parallel degree"),
    _column("tp", "int64", "ranks", "tensor-parallel degree"),
    _column("pp", "int64", "ranks", "pipeline stages"),
    _column("pp_schedule", "string", "", "gpipe, 1f1b or interleaved; null without a pipeline"),
    _column("micro_batch_size", "int64", "samples", "samples of one forward pass on one data-parallel rank"),
    _column("grad_accumulation", "int64", "", "micro-batches of one step on one data-parallel rank"),
    _column("global_batch_size", "int64", "samples", "samples of one optimizer step over all ranks"),
    _column("seq_len", "int64", "tokens", "length of one sample"),
    _column("precision", "string", "", "number formats of parameters, arithmetic and reduction"),
    _column(
        "bucket_mb", "float64", "MB", "gradients that ranks sum at once, 10^6 bytes; null where there are no buckets"
    ),
    _column("activation_checkpoint", "string", "", "none, full, nth or selective"),
    _column("quantization", "string", "", "quantised arithmetic or optimizer states, or none"),
    _column("compile", "bool", "", "whether the blocks were compiled"),
    _column("knobs!", "string", "", "every setting of the plan, as JSON"),
    _column("world_size", "int64", "ranks", "dp x tp x pp; of a script as many ranks as were seen, null if none was"),
    _column(
        "rate_of",
        "string",
        "",
        "what tokens_per_s counts: tokens (of encoder and decoder) or samples; null before version 8: samples where "
        "seq_len is 1",
    ),
    _column("tokens_per_s", "float64", "1/s", "tokens or samples of a step, as rate_of says, / step_time_s"),
    _column("tokens_per_s_low", "float64", "1/s", "lower end of the 95 % interval of tokens_per_s"),
    _column("tokens_per_s_high", "float64", "1/s", "upper end of the 95 % interval of tokens_per_s"),
    _column("real_tokens_per_s", "float64", "1/s", "those of tokens_per_s that are no padding; null where none is"),
    _column("step_time_s", "float64", "s", "median over the measured steps of the slowest rank"),
    _column("samples_per_step", "float64", "samples", "of a script's step over all ranks; null for recipes"),
    _column(
        "samples_from",
        "string",
        "",
        "where that is from: batches (its data loaders'), given (the knobs file), or why it is unknown",
    ),
    _column(
        "seen",
        "string",
        "",
        "what a script is made of, as JSON: engines, optimizers, devices, batch shapes, backward passes and skipped "
        "steps, steps of each rank, exit status, the observer's own time a step in s; null for recipes",
    ),
    _column("observer_trouble", "string", "", "how watching a script failed; null if it did not"),
    _column("measured_steps", "int64", "", "steps that count"),
    _column("warmup_steps", "int64", "", "steps before them, those included that the window found to be slower still"),
    _column("stop", "string", "", "why the window ended: precision, budget, steps, or slower than the best plan"),
    _column(
        "peak_memory_bytes",
        "int64",
        "B",
        "peak of the worst rank: allocated on a device, resident above the start on a CPU",
    ),
    _column(
        "peak_reserved_bytes",
        "int64",
        "B",
        "peak the allocator held on a device; on a CPU the peak resident set with the interpreter",
    ),
    _column(
        "memory_outside_bytes",
        "int64",
        "B",
        "what was taken of the device beside the allocator's memory when the window ended: the driver's context, "
        "communicators, other processes; null on a CPU, and under --memory-limit, which limits the allocator",
    ),
    _column(
        "memory_limit_bytes",
        "int64",
        "B",
        "what one rank may hold: the limit asked for, its device's memory, or its share of the machine's",
    ),
    _column("memory_tensor_peak_bytes", "int64", "B", "peak of the tensors of the worst rank, as the allocator counts"),
    _column("memory_params_bytes", "int64", "B", "parameters when the rank with the most tensors holds most"),
    _column("memory_grads_bytes", "int64", "B", "gradients and gradient buffers at that moment"),
    _column(
        "memory_optimizer_bytes",
        "int64",
        "B",
        "optimizer state and master weights (not those of FSDP2, which are its parameters) at that moment",
    ),
    _column(
        "memory_buffers_bytes", "int64", "B", "gathered parameters, communication buckets, model buffers at that moment"
    ),
    _column(
        "memory_activations_bytes", "int64", "B", "everything else at that moment: what backward needs, temporaries"
    ),
    _column("memory_grads_held_bytes", "int64", "B", "gradients and gradient buffers of the worst rank after backward"),
    _column(
        "comm_bytes_per_step",
        "int64",
        "B",
        "bytes that the busiest rank sends in a step, with algorithms that send least; null if compiled",
    ),
    _column("comm_calls_per_step", "int64", "", "collectives and sends of that rank in a step"),
    _column(
        "comm_by_collective",
        "string",
        "",
        "bytes and calls of that rank by operation of the backend, as JSON: over gloo collectives made "
        "of sends are sends",
    ),
    _column("comm_s", "float64", "s", "time in which a rank communicates in a profiled step"),
    _column("comm_exposed_s", "float64", "s", "the part of comm_s in which it computes nothing, on the worst rank"),
    _column("flops_per_step", "float64", "FLOP", "model FLOPs of a step over all ranks, recomputation not counted"),
    _column("mfu", "float64", "1", "model FLOPs utilisation: flops_per_step / step_time_s / peak_flops_per_s"),
    _column(
        "peak_flops_per_s",
        "float64",
        "FLOP/s",
        "dense peak of everything the trial ran on; null if unknown, or beaten",
    ),
    _column("peak_source", "string", "", "where that peak is from: measured, or the published figure"),
    _column("loss_first", "float64", "", "training loss of the first step"),
    _column("loss_last", "float64", "", "training loss of the last step"),
    _column("accuracy_last", "float64", "1", "accuracy on the last step's batch; null for workloads without one"),
    _column(
        "time_to_loss_s",
        "float64",
        "s",
        "steps the reference needs to the target loss x step_time_s; null if none was asked for",
    ),
    _column(
        "numerics!",
        "string",
        "",
        "pass, fail or skipped: losses and gradient norms against the fp32 reference, of a script against its baseline",
    ),
    _column(
        "numerics_max_rel_error",
        "float64",
        "1",
        "largest relative difference to the reference, a tenth of that of gradient norms and of later steps counted",
    ),
    _column("numerics_tolerance", "float64", "1", "the largest difference that passes, for the plan's number formats"),
    _column(
        "reference",
        "string",
        "",
        "what its numerics were compared with: process (one process in fp32); twin (the same plan on a model of fewer "
        "blocks with one process, and at full size with the curve that plans agree on); agreement (that curve alone, "
        "unless numerics is skipped); baseline (the script as it stood); null where nothing was to be compared, and "
        "before version 7",
    ),
    _column(
        "numerics_noise",
        "float64",
        "1",
        "largest relative difference of two launches of a script's baseline; null for recipes",
    ),
    _column("twin_blocks", "int64", "", "blocks of the twin that its kind of plan was checked on; null without one"),
    _column(
        "twin_max_rel_error",
        "float64",
        "1",
        "largest relative difference of the twin to one process, counted as numerics_max_rel_error; null without one",
    ),
    _column("predicted_step_time_s", "float64", "s", "prediction before the launch; null if none was made"),
    _column("predicted_peak_memory_bytes", "int64", "B", "prediction before the launch; null if none was made"),
    _column("predicted_memory_params_bytes", "int64", "B", "its part that parameters take, by the closed form"),
    _column("predicted_memory_grads_bytes", "int64", "B", "likewise gradients"),
    _column("predicted_memory_optimizer_bytes", "int64", "B", "likewise optimizer state and master weights"),
    _column("predicted_memory_buffers_bytes", "int64", "B", "likewise communication buckets and gathered parameters"),
    _column("predicted_memory_activations_bytes", "int64", "B", "likewise activations and temporaries"),
    _column("launch_s", "float64", "s", "from the launch to every rank running"),
    _column("setup_s", "float64", "s", "from every rank running to the first step's start"),
    _column("warmup_s", "float64", "s", "steps before the measured window, compilation included"),
    _column("measure_s", "float64", "s", "the measured window"),
    _column("teardown_s", "float64", "s", "from the last step's end to the last rank's end"),
    _column(
        "energy_j",
        "float64",
        "J",
        "of the measured window: the ranks' devices, or on a CPU its packages with all that runs; null if unread",
    ),
    _column("tokens_per_j", "float64", "1/J", "tokens or samples, as rate_of says, of the measured window / energy_j"),
    _column("load_before", "float64", "", "runnable processes, averaged over the minute before the launch"),
    _column("load_after", "float64", "", "the same after the end"),
    _column("cpu_mhz", "float64", "MHz", "frequency of the processor, mean of before and after"),
    _column("foreign_cpu_share", "float64", "1", "share of the usable cores' time that others took in the window"),
    _column("stolen_cpu_share", "float64", "1", "share that the hypervisor took from them"),
    _column("device_clock_mhz", "int64", "MHz", "lowest clock of all visible devices from the launch to the end"),
    _column("device_temperature_c", "int64", "C", "highest temperature of the devices meanwhile"),
    _column("device_power_w", "float64", "W", "sum over the devices of the trial of their mean power in the window"),
    _column(
        "device_busy_before", "float64", "", "share of the time in which the busiest device worked before the launch"
    ),
    _column(
        "device_used_before_bytes", "int64", "B", "memory of a device that others held before the launch, the most"
    ),
    _column("throttled_by", "string", "", "what held the devices' clocks down meanwhile; null if nothing or unknown"),
    _column("disturbed", "string", "", "why the numbers may be off, in one sentence; null if nothing was seen"),
    _column("schema_version!", "int64", "", "version of this table"),
    _column("harness_version!", "string", "", "version of the harness"),
    _column("torch_version!", "string", "", "version of torch"),
)

STEPS = (
    _column("trial_id!", "string", "", "the trial"),
    _column("rank!", "int64", "", "the rank"),
    _column("step!", "int64", "", "from 0, warm-up included"),
    _column("phase!", "string", "", "warmup or measure"),
    _column("step_time_s!", "float64", "s", "from the end of the rank's previous step to the end of this one"),
    _column("tokens", "int64", "", "tokens or samples of the step over all ranks, as rate_of says; null if unknown"),
    _column("loss", "float64", "", "mean loss of this rank's samples; null on pipeline stages that do not see it"),
    _column("grad_norm", "float64", "", "norm of the whole gradient before clipping"),
    _column("accuracy", "float64", "1", "accuracy on this rank's samples; null for workloads without one"),
    _column(
        "memory_bytes",
        "int64",
        "B",
        "memory of the rank at the end of the step; on a device when steps were told",
    ),
)

REFERENCES = (
    _column("workload_id!", "string", "", "the workload"),
    _column("step!", "int64", "", "from 0"),
    _column("loss!", "float64", "", "loss of one process in fp32, or of a script's baseline"),
    _column("grad_norm", "float64", "", "norm of the gradient before clipping; null of a script that does not clip"),
    _column("step_time_s!", "float64", "s", "time of the step, one process with every core or one device, or the plan"),
    _column("initial_values", "string", "", "rule that the initial weights were drawn by; null before version 6"),
    _column("arithmetic", "string", "", "what the curve was computed in: device, number format, torch's version"),
    _column("plan", "string", "", "settings of the plan whose curve it is, as JSON; null: one process in fp32"),
    _column(
        "witness", "string", "", "settings of the other plan that agreed with it at full size, as JSON; null: none"
    ),
)
"""The curve that every trial of a workload is compared with: of one process in fp32, or of a plan that is right on its
twin, where the model is too large for one process."""


def row(columns: tuple[Column, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """One row of a table: `values`, with None for every other column.

    Raises:
        KeyError: `values` has a name that is no column.
        ValueError: a required value is missing.
    """
    names = {column.name for column in columns}
    if unknown := set(values) - names:
        raise KeyError(f"no such column: {', '.join(sorted(unknown))}")
    if missing := [c.name for c in columns if c.required and values.get(c.name) is None]:
        raise ValueError(f"a row needs {', '.join(missing)}")
    return {column.name: values.get(column.name) for column in columns}
