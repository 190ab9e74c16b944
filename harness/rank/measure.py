"""The steps of one rank: warm-up, two of them watched, then the free-running window."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from harness.launchers.events import EventWriter
from harness.launchers.job import Job
from harness.rank.agreement import Agreement
from harness.rank.clock import clock_for
from harness.rank.counters import Counters
from harness.rank.observe import RandomNumbers, watching
from harness.rank.peak_memory import Memory
from harness.rank.profile import profiled, settle
from harness.rank.stopping import Stop, why_stop
from strategies.base import UnsuitableError
from strategies.training import StepResult, Training

OBSERVED_STEP = 2
"""Warm-up step that runs under the observer: the first one also sets up optimizer state and lazy buffers."""
PROFILED_STEP = 3
"""Warm-up step that runs under the profiler, where the job asks for it."""
TURN_S = 0.1
"""How often the ranks compare their step times, in s of steps."""
MOST_STEPS_A_TURN = 50


class RankTrial:
    """The steps of one rank.

    Args:
        job: what to run.
        training: built.
        events: where to tell.
        memory: of this rank's device.
        rank: which one this is.
    """

    def __init__(self, job: Job, training: Training, events: EventWriter, memory: Memory, rank: int) -> None:
        self.job, self.training, self.events, self.memory = job, training, events, memory
        self.clock = clock_for(training.device)
        self.counters = Counters(rank, training.device)
        self.indices = np.array(training.sample_indices)
        self.next_step = 0
        self.waiting: list[tuple[int, StepResult, int]] = []
        self.group = self._control_group()

    def warm_up(self) -> None:
        """Steps that are kept but marked; one runs under the observer, and one may run under the profiler."""
        self.events.write("phase", name="warmup")
        self.clock.restart()
        watch: dict[int, Callable[[], None]] = {0: self._first_step, OBSERVED_STEP: self._observed_step}
        if self.job.profile:
            watch[PROFILED_STEP] = self._profiled_step
        for step in range(self.job.measurement.warmup_steps):
            watched = None if self.job.plan["compile"] else watch.get(step)
            watched() if watched else self.step("warmup")
        self._report("warmup", self.clock.all())
        watched_steps = [] if self.job.plan["compile"] else list(watch)
        self.usual = [t for i, t in enumerate(self.clock.all()) if i > 0 and i not in watched_steps] or self.clock.all()

    def measure(self) -> None:
        """A free-running window that one barrier opens, until it has seen enough."""
        turn = self._steps_a_turn()
        self._check_memory_limit()
        gc.collect()
        self.memory.reset_peak()
        self._barrier()
        self.events.write("phase", name="measure", **self.counters.read())
        self.clock.restart()
        stop = self._run_window(turn)
        times = self.clock.all()  # waits for a device, which runs ahead of this process
        read = {**self.counters.read(), "closed": time.monotonic()}
        peaks = {"peak_memory_bytes": self.memory.peak(), "peak_reserved_bytes": self.memory.reserved()}
        outside = {} if self.memory.outside() is None else {"memory_outside_bytes": self.memory.outside()}
        self._report("measure", times)
        self.events.write("done", **peaks, **outside, **read, stop=str(stop))

    def _run_window(self, turn: int) -> Stop:
        settings = self.job.measurement
        fixed = settings.max_steps <= settings.min_steps
        agreement = Agreement(lambda times: why_stop(times, settings), self.group)
        for number in range(1, settings.max_steps + 1):
            self.step("measure")
            if not fixed and number % turn == 0 and (stop := agreement.turn(self.clock.finished())):
                return stop
        agreement.close()
        return Stop.STEPS

    def _check_memory_limit(self) -> None:
        """The peak until here is about to be forgotten, and the parent may not have looked when it was reached."""
        limit, peak = self.job.memory_limit, self.memory.peak()
        if limit is not None and peak > limit and self.training.device.type == "cpu":
            raise MemoryError(f"it held {peak} B where the memory limit is {limit} B")

    # -- one step

    def step(self, phase: str) -> None:
        """One step, with everything that is told of it."""
        device = self.training.device
        samples = self.job.workload.samples(self.next_step, self.indices)
        result = self.training.step(self.next_step, {name: sent(tensor, device) for name, tensor in samples.items()})
        self.clock.mark()
        self.waiting.append((self.next_step, result, self.memory.now()))
        if self.clock.immediate:
            self._report(phase, self.clock.finished())
        else:
            self.events.write("beat", step=self.next_step)
        self.next_step += 1

    def _report(self, phase: str, times: Sequence[float]) -> None:
        """Write the steps that are done. Reading a loss waits for the device, so there it is done after the window."""
        for (step, result, held), seconds in zip(self.waiting, times[len(times) - len(self.waiting) :], strict=True):
            self.events.write(
                "step",
                step=step,
                phase=phase,
                step_time_s=seconds,
                loss=_number(result.loss),
                grad_norm=_number(result.grad_norm),
                accuracy=_number(result.metric),
                memory_bytes=held,
            )
        self.waiting.clear()

    # -- the watched steps

    def _first_step(self) -> None:
        with RandomNumbers() as drawn:
            self.step("warmup")
        if drawn.by is not None:
            raise UnsuitableError(
                f"the model draws random numbers ({drawn.by}), in each plan others, so that no two plans can be "
                "compared: set its dropout to 0"
            )

    def _observed_step(self) -> None:
        device = self.training.device
        if device.type != "cpu":
            self.memory.reset_peak()
        with watching(self.training) as observer:
            self.step("warmup")
        sent = {name: {"bytes": total, "calls": calls} for name, (total, calls) in sorted(observer.sent.items())}
        allocated = {} if device.type == "cpu" else {"memory_tensor_peak_bytes": self.memory.peak()}
        self.standing_bytes = observer.standing_bytes()
        self.events.write(
            "state",
            **{f"memory_{category}_bytes": part for category, part in observer.at_peak().items()},
            memory_grads_held_bytes=observer.grads_held_bytes,
            **allocated,
            comm_bytes_per_step=sum(entry["bytes"] for entry in sent.values()),
            comm_calls_per_step=sum(entry["calls"] for entry in sent.values()),
            comm_by_collective=json.dumps(sent),
        )

    def _profiled_step(self) -> None:
        def step() -> None:
            self.step("warmup")
            # The profiler must not end before what it watches; a gather that would go on into the next step counts as
            # exposed here.
            self.training.engine.drain()
            if self.group is not None:
                settle(self.group)

        found = profiled(step, self.training.device)
        if not found:
            return
        peak = found.pop("allocated_peak_bytes", None)
        columns: dict[str, Any] = {} if peak is None else {"memory_tensor_peak_bytes": self.standing_bytes + int(peak)}
        self.events.write("profile", **found, **columns)

    # -- the ranks together

    def _control_group(self) -> dist.ProcessGroup | None:
        """All ranks, over the host: a question to the other ranks must not queue behind the device's work."""
        if self.job.world_size == 1:
            return None
        if self.training.device.type == "cpu":
            return dist.group.WORLD
        group: dist.ProcessGroup = dist.new_group(backend="gloo")
        return group

    def _steps_a_turn(self) -> int:
        """How many steps lie between two comparisons, equal on all ranks."""
        usual = torch.tensor(statistics.median(self.usual), dtype=torch.float64)
        if self.group is not None:
            dist.all_reduce(usual, dist.ReduceOp.MAX, self.group)
        return max(1, min(MOST_STEPS_A_TURN, round(TURN_S / max(usual.item(), 1e-6))))

    def _barrier(self) -> None:
        if self.job.world_size > 1:
            dist.barrier()


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A batch on the device. From pageable memory the host would wait for the copy, and lose its lead."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _number(value: torch.Tensor | None) -> float | None:
    return None if value is None else float(value)
