"""What one rank does: build, warm up, measure, and tell as it goes. Runs in a process of its own."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist

import strategies
from harness.launchers.events import EventWriter
from harness.launchers.job import Job
from harness.rank.heap import give_back, sparing
from harness.rank.measure import RankTrial
from harness.rank.peak_memory import held_bytes, memory_of
from harness.workloads import hollow
from harness.workloads.workload import Workload
from strategies import recipe
from strategies.base import UnsuitableError
from strategies.facts import Facts
from strategies.knob import Settings
from strategies.training import Initial, Training

DEVICE_IS_FULL = (
    "cuda error: out of memory",
    "hip error: out of memory",
    "cuda out of memory",
    "cuda failure 2",
    "cuda failure 'out of memory'",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "hipblas_status_alloc_failed",
)
"""Of messages of the driver, NCCL, cuBLAS and cuDNN."""


def main(job: Job, rank: int) -> None:
    """Entry point of a rank's process; ends it with exit status 0, or 1 after writing an error event."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    output = os.open(job.output_of(rank), flags, 0o600)
    for standard in (1, 2):
        os.dup2(output, standard)
    # Its handler needs no interpreter: a rank that waits in a collective, or never returns from one, still tells where.
    faulthandler.register(signal.SIGUSR1, os.open(job.stacks_of(rank), flags, 0o600), all_threads=True)
    events = EventWriter(job.events_of(rank))
    try:
        run(job, rank, events)
        events.write("end")
    except BaseException as error:
        _tell(events, error)
        _leave(1)
    _leave(0)


def _tell(events: EventWriter, error: BaseException) -> None:
    try:
        events.error(error, outcome_of(error))
    except OSError:  # the events are what fails, as on a full disk; the output still reaches the parent
        traceback.print_exception(error)


def run(job: Job, rank: int, events: EventWriter) -> None:
    """Train for the warm-up and the measured window, writing events."""
    events.write("phase", name="build", held_bytes=held_bytes())
    device = device_of(rank, job.facts.device_type)
    memory = memory_of(device)
    if job.memory_limit is not None and device.type != "cpu":
        module = torch.get_device_module(device)
        total = module.get_device_properties(device).total_memory
        module.set_per_process_memory_fraction(min(1.0, job.memory_limit / total), device)
    torch.set_num_threads(job.threads)
    if job.world_size > 1:
        join(job, rank, device)
    training = build(job.workload, job.plan, job.facts, device)
    gc.collect()
    give_back()
    gc.freeze()  # what the build made stays; collecting it again in every step would only cost time
    trial = RankTrial(job, training, events, memory, rank)
    trial.warm_up()
    trial.measure()
    events.write("phase", name="teardown")
    training.engine.drain()
    if job.world_size > 1:
        dist.barrier()
    if device.type != "cpu":
        # The process ends next, and with it its communicators; taking them down in an orderly way can hang, and takes
        # part of a second in every launch.
        torch.accelerator.synchronize(device)
    elif job.world_size > 1:
        dist.destroy_process_group()


def build(
    workload: Workload, plan: Settings, facts: Facts, device: torch.device, initial: Initial | None = None
) -> Training:
    """The workload's model with the plan applied; `initial` gives other values than the workload's own."""
    with hollow.parameters():
        model = workload.build()
    return recipe.build(
        model,
        plan=plan,
        strategies=strategies.registry().values(),
        facts=facts,
        device=device,
        initial=initial or sparing(workload.initial),
        inputs=workload.inputs,
        loss=workload.loss,
        predictions=workload.predictions,
        metric=workload.metric if workload.metric_name else None,
        optimizer=workload.optimizer,
    )


def device_of(rank: int, device_type: str) -> torch.device:
    """The device of this rank, also made the current one.

    Raises:
        RuntimeError: the plan was made for an accelerator that torch does not find here.
    """
    if device_type == "cpu":
        return torch.device("cpu")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or accelerator.type != device_type:
        raise RuntimeError(f"torch finds {accelerator or 'no accelerator'} here, but the plan is for {device_type}")
    torch.accelerator.set_device_index(rank)
    return torch.device(device_type, rank)


def outcome_of(error: BaseException) -> str:
    """What kind of end an exception is."""
    if isinstance(error, UnsuitableError):
        return "infeasible"
    if isinstance(error, torch.OutOfMemoryError):
        return "oom_device"
    # What libraries beside the caching allocator cannot get comes as other exceptions, with these words in them.
    if isinstance(error, RuntimeError) and any(words in str(error).lower() for words in DEVICE_IS_FULL):
        return "oom_device"
    # The CPU allocator has no exception type of its own; its name stands in the message of the one it throws.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)):
        return "oom_host"
    return "crash"


def join(job: Job, rank: int, device: torch.device) -> None:
    """Meet the other ranks through a file in the job's folder: no port, no host name."""
    backend = dist.get_default_backend_for_device(device)
    dist.init_process_group(
        backend,
        init_method=f"file://{job.folder / 'rendezvous'}",
        rank=rank,
        world_size=job.world_size,
        timeout=timedelta(hours=1),  # the parent watches for hangs, with deadlines the user chose
        device_id=None if device.type == "cpu" else device,
    )


def _leave(status: int) -> None:
    """End at once: tearing down the interpreter takes longer than many a step and can itself hang."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # the rank closed it, or never had it
            stream.flush()
    os._exit(status)
