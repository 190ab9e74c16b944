"""What a rank is told: everything it needs to run one plan, picklable."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.plan import Plan
from harness.workloads.workload import Workload
from strategies.facts import Facts


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How long a trial runs."""

    warmup_steps: int = 4
    """Steps before the window opens; also the steps whose losses and gradient norms are compared."""
    min_steps: int = 5
    """Fewest steps of the window, those not counted that it finds to be warm-up still."""
    max_steps: int = 1000
    """Most steps of the window."""
    least_seconds: float = 0.0
    """Shortest window that ends for its precision, in s: few steps in a row say less of a launch than they seem to."""
    seconds: float = 2.5
    """Budget of the window, in s: it ends then, precise or not."""
    precision: float | None = None
    """The window ends when half the 95 % interval of its median is at most this share of the median; None: never."""
    rival_step_time_s: float | None = None
    """Upper end of the interval of the best plan so far, in s: a window wholly beyond it ends early; None: no race."""


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """When a rank counts as hanging, in s."""

    start: float = 120.0
    """From the launch to the end of the first step of every rank."""
    compiling: float = 600.0
    """Likewise of a plan that compiles kernels in its first step."""
    step: float = 60.0
    """Between any two signs of life after that."""


@dataclass(frozen=True, kw_only=True)
class Launch(ABC):
    """What is the same of every trial, whatever its ranks run: how it is followed, judged and recorded."""

    folder: Path
    """Where each rank writes its events and output, and where they meet."""
    memory_limit: int | None = None
    """Bytes one rank may hold; on a device its allocator enforces it, on a CPU the parent watches."""
    measurement: Measurement = field(default_factory=Measurement)

    @property
    @abstractmethod
    def device_type(self) -> str:
        """What the ranks compute on, "cpu" or a name of torch's."""

    @property
    @abstractmethod
    def skips_infinite_gradients(self) -> bool:
        """Whether an infinite gradient is no failure, because the step is then left out."""

    @property
    @abstractmethod
    def tokens_per_step(self) -> int | None:
        """Of all ranks together; None where they must be counted."""

    def real_tokens(self, step: int) -> int | None:
        """Those of a step that are no padding; None where none is, or nobody knows."""
        return None

    @property
    def stacks_signal(self) -> int:
        """What asks a rank to write the Python stack of each of its threads."""
        return signal.SIGUSR1

    @abstractmethod
    def outputs(self) -> Sequence[Path]:
        """Where what is printed goes: named pipes that the parent reads."""

    def events_of(self, rank: int) -> Path:
        """The file a rank appends its events to."""
        return self.folder / f"rank{rank}.events"

    def stacks_of(self, rank: int) -> Path:
        """Where a rank writes the Python stack of each of its threads when the parent asks for them."""
        return self.folder / f"rank{rank}.stacks"


@dataclass(frozen=True, kw_only=True)
class Job(Launch):
    """One trial as its ranks see it."""

    workload: Workload
    plan: Plan
    facts: Facts
    threads: int
    """CPU threads of each rank."""
    profile: bool = False
    """Whether a warm-up step runs under torch.profiler."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.plan.world_size

    @property
    def device_type(self) -> str:
        return self.facts.device_type

    @property
    def skips_infinite_gradients(self) -> bool:
        return self.plan["precision"] == "fp16"

    @property
    def tokens_per_step(self) -> int:
        return self.workload.tokens_per_step

    def real_tokens(self, step: int) -> int | None:
        return self.workload.real_tokens(step)

    def output_of(self, rank: int) -> Path:
        """Where a rank's standard output and error go: a named pipe that the parent reads."""
        return self.folder / f"rank{rank}.output"

    def outputs(self) -> Sequence[Path]:
        return [self.output_of(rank) for rank in range(self.world_size)]
