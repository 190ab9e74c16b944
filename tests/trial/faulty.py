"""A workload that goes wrong in a chosen way on rank 1."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
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
    """Name of a method, which rank 1 calls in step `STEP`; or "build"."""

    def build(self) -> nn.Module:
        if self.fault == "build" and _rank() == 1:
            raise ValueError("this model cannot be built")
        return super().build()

    def samples(self, step: int, indices: np.ndarray) -> dict[str, torch.Tensor]:
        if step == STEP and _rank() == 1:
            getattr(self, self.fault, lambda: None)()
        return super().samples(step, indices)

    def kill(self) -> None:
        """Die by a signal."""
        os.kill(os.getpid(), signal.SIGKILL)

    def spike(self) -> None:
        """Hold 400 MB for a moment."""
        torch.ones(100_000_000)

    def allocate(self) -> None:
        """Ask for more memory than there is."""
        torch.ones(2**60)

    def tell_sockets(self) -> None:
        """Print the addresses on which this process waits for others."""
        found = psutil.Process().net_connections("inet")
        print(json.dumps([each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN]))

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
