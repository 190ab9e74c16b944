"""A workload that goes wrong in a chosen way, on a chosen rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from harness.workloads.gpt import Gpt
from tests.tiny import gpt

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

STEP = 3
"""Step in which the faults of a step happen."""


@dataclass(frozen=True, kw_only=True)
class Faulty(Gpt):
    """The tiny transformer, with the identity of the one that is sound; in one process, as the reference, it is."""

    fault: str
    """Name of a method, which rank 1 calls in step `STEP`; "build" on rank 1; "nan" or "scale" on every rank."""

    def build(self) -> nn.Module:
        if self.fault == "build" and _rank() == 1:
            raise ValueError("this model cannot be built")
        return super().build()

    def samples(self, step: int, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        if step == STEP and _rank() == 1:
            getattr(self, self.fault, lambda: None)()
        return super().samples(step, indices)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = super().loss(outputs, targets)
        if _rank() is None or self.fault not in ("nan", "scale"):
            return loss
        return loss * torch.nan if self.fault == "nan" else 2 * loss - loss.detach()

    def kill(self) -> None:
        """Die by a signal."""
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self) -> None:
        """End as if all were done."""
        os._exit(0)

    def fail(self) -> None:
        """End with an exit status."""
        os._exit(3)

    def hang(self) -> None:
        """Wait for what never comes."""
        threading.Event().wait()

    def hold(self) -> None:
        """Hold 400 MB and wait."""
        held = torch.ones(100_000_000)
        threading.Event().wait()
        del held

    def spike(self) -> None:
        """Hold 400 MB for a moment."""
        torch.ones(100_000_000)

    def allocate(self) -> None:
        """Ask for more memory than there is."""
        torch.ones(2**60)

    def speak(self) -> None:
        """Write to standard output and error, and let a child do so."""
        print("said on standard output")
        print("said on standard error", file=sys.stderr)
        subprocess.run(["echo", "said by a child"], check=True)


def _rank() -> int | None:
    return dist.get_rank() if dist.is_initialized() else None


def faulty(fault: str) -> Gpt:
    """The tiny transformer with a fault."""
    return gpt(Faulty, fault=fault)
