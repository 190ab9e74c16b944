"""A workload of a few functions, as cells of a notebook define it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from harness.workloads.own import TorchWorkload

WIDTH = 4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, WIDTH)
        self.b = nn.Linear(WIDTH, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).relu())


def batch(step: int, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.from_numpy(indices).float() + step
    return rows[:, None] * torch.ones(3), rows.long() % 2


def example(scale: float = 1.0) -> TorchWorkload:
    def loss(outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        return scale * nn.functional.cross_entropy(outputs, batch["y"], reduction="sum"), len(batch["y"])

    return TorchWorkload(model=Net, batch=batch, loss=loss, global_batch_size=8)
