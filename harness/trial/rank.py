"""What one rank does: build, warm up, measure, and tell as it goes. Runs in a process of its own."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import statistics
import sys
import traceback
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import strategies
from harness.trial.clock import clock_for
from harness.trial.events import EventWriter
from harness.trial.job import Job
from harness.trial.memory import Memory, held_bytes, memory_of
from harness.trial.observe import Observer
from strategies import recipe
from strategies.training import StepResult, Training

OBSERVED_STEP = 1
"""Step that runs under the observer: the first one also sets up optimizer state and lazy buffers."""


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
    if job.memory_limit is not None and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, job.memory_limit / total), device)
    torch.set_num_threads(job.threads)
    if job.world_size > 1:
        _join(job, rank, device)
    training = build(job, device)
    gc.collect()
    gc.freeze()  # what the build made stays; collecting it again in every step would only cost time
    trial = RankTrial(job, training, events, memory)
    trial.warm_up()
    trial.measure()
    events.write("phase", name="teardown")
    training.engine.drain()
    if job.world_size > 1:
        dist.barrier()
        dist.destroy_process_group()


def build(job: Job, device: torch.device) -> Training:
    """The workload's model with the plan applied."""
    workload = job.workload
    with torch.device("meta"):
        model = workload.build()
    return recipe.build(
        model,
        plan=job.plan,
        strategies=strategies.registry().values(),
        facts=job.facts,
        device=device,
        initial=workload.initial,
        loss=workload.loss,
        metric=workload.metric if workload.metric_name else None,
        optimizer=workload.optimizer,
    )


class RankTrial:
    """The steps of one rank."""

    def __init__(self, job: Job, training: Training, events: EventWriter, memory: Memory) -> None:
        self.job, self.training, self.events, self.memory = job, training, events, memory
        self.clock = clock_for(training.device)
        self.indices = np.array(training.sample_indices)
        self.next_step = 0
        self.waiting: list[tuple[int, StepResult]] = []
        self.times: list[float] = []

    def warm_up(self) -> None:
        """Steps that are kept but marked; one of them runs under the observer."""
        self.events.write("phase", name="warmup")
        self.clock.mark()
        for step in range(self.job.measurement.warmup_steps):
            if step == OBSERVED_STEP and not self.job.plan["compile"]:
                self._observed_step()
            else:
                self._step("warmup")
        self._report("warmup")

    def measure(self) -> None:
        """A free-running window that one barrier opens."""
        count = self._agree_on_steps()
        self._check_memory_limit()
        self.memory.reset_peak()
        self._barrier()
        self.events.write("phase", name="measure", steps=count)
        self.clock.intervals()
        self.clock.mark()
        self.clock.intervals()
        for _ in range(count):
            self._step("measure")
        self._report("measure")
        self.events.write("done", peak_memory_bytes=self.memory.peak(), peak_reserved_bytes=self.memory.reserved())

    def _check_memory_limit(self) -> None:
        """The peak until here is about to be forgotten, and the parent may not have looked when it was reached."""
        limit, peak = self.job.memory_limit, self.memory.peak()
        if limit is not None and peak > limit and self.training.device.type == "cpu":
            raise MemoryError(f"it held {peak} B where the memory limit is {limit} B")

    def _step(self, phase: str) -> None:
        device = self.training.device
        inputs, targets = self.job.workload.samples(self.next_step, self.indices)
        result = self.training.step(
            self.next_step, inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        )
        self.clock.mark()
        self.waiting.append((self.next_step, result))
        if self.clock.immediate:
            self._report(phase)
        else:
            self.events.write("beat", step=self.next_step)
        self.next_step += 1

    def _observed_step(self) -> None:
        engine = self.training.engine
        observer, whole = Observer(), Observer()
        inner = self.training.forward_backward
        finish = engine.finish_gradients
        state = {}

        def watched(inputs: torch.Tensor, targets: torch.Tensor) -> Any:
            with observer:
                return inner(inputs, targets)

        def finished() -> None:
            finish()
            state["bytes"] = engine.state_bytes()

        self.training.forward_backward = watched
        engine.finish_gradients = finished  # type: ignore[method-assign]
        try:
            with whole:
                self._step("warmup")
        finally:
            self.training.forward_backward = inner
            del engine.finish_gradients
        held = state["bytes"]
        self.events.write(
            "state",
            memory_params_bytes=held.params,
            memory_grads_bytes=held.grads,
            memory_optimizer_bytes=held.optimizer,
            memory_activations_bytes=observer.peak_bytes(),
            comm_bytes_per_step=int(whole.sent_bytes),
        )

    def _report(self, phase: str) -> None:
        """Write the steps that are done. Reading a loss waits for the device, so there it is done after the window."""
        intervals = self.clock.intervals()
        for (step, result), seconds in zip(self.waiting, intervals, strict=True):
            self.times.append(seconds)
            self.events.write(
                "step",
                step=step,
                phase=phase,
                step_time_s=seconds,
                loss=_number(result.loss),
                grad_norm=_number(result.grad_norm),
                accuracy=_number(result.metric),
                memory_bytes=self.memory.now(),
            )
        self.waiting.clear()

    def _agree_on_steps(self) -> int:
        """The number of measured steps, from the slowest rank's undisturbed warm-up steps, equal on all ranks."""
        settings = self.job.measurement
        usual = statistics.median(self.times[OBSERVED_STEP + 1 :] or self.times)
        if self.job.world_size > 1:
            slowest = torch.tensor(usual, device=self.training.device)
            dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
            usual = slowest.item()
        return max(settings.min_steps, min(settings.max_steps, round(settings.seconds / max(usual, 1e-6))))

    def _barrier(self) -> None:
        if self.job.world_size > 1:
            dist.barrier()


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
    if isinstance(error, torch.OutOfMemoryError):
        return "oom_device"
    # The CPU allocator has no exception type of its own; its name stands in the message of the one it throws.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)):
        return "oom_host"
    return "crash"


def _join(job: Job, rank: int, device: torch.device) -> None:
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


def _number(value: torch.Tensor | None) -> float | None:
    return None if value is None else float(value)


def _leave(status: int) -> None:
    """End at once: tearing down the interpreter takes longer than many a step and can itself hang."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # the rank closed it, or never had it
            stream.flush()
    os._exit(status)
