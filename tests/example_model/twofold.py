"""A model whose forward does not show that its blocks stand in a row, with stages that say it.

Its blocks take and return two things, a table is the model's own and is read at both ends, and something that is no
module runs before each block.

python -m harness sweep --workload tests/example_model/twofold.py:workload
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from harness.workloads.own import TorchWorkload
from strategies.stages import Stages

TOKENS, WIDTH, LENGTH = 23, 12, 6


class Block(nn.Module):
    """Returns what it adds beside its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        added = scale * torch.tanh(self.inner(self.norm(x)))
        return x + added, added


class Twofold(nn.Module):
    """The table is the first layer and, transposed, the last."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(TOKENS, WIDTH) / 4)
        self.places = nn.Parameter(torch.randn(LENGTH, WIDTH) / 4)
        self.layers = nn.ModuleList(Block() for _ in range(4))
        self.last = nn.LayerNorm(WIDTH)

    def begun(self, tokens: torch.Tensor) -> torch.Tensor:
        """`[samples, LENGTH, WIDTH]`"""
        return F.embedding(tokens, self.table) + self.places

    def ended(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """`[samples, LENGTH, TOKENS]`"""
        return F.linear(self.last(x), self.table)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.begun(tokens)
        for layer in self.layers:
            x, _ = layer(x.roll(1, 1), 0.5)
        return self.ended(x, tokens)


def batch(step: int, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens that count up, and the next of each."""
    first = torch.from_numpy(indices) * 7 + step * 3
    tokens = (first[:, None] + torch.arange(LENGTH + 1)) % TOKENS
    return tokens[:, :-1], tokens[:, 1:]


def loss(outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Of every token."""
    return F.cross_entropy(outputs.flatten(0, 1), batch["y"].flatten(), reduction="sum"), float(batch["y"].numel())


STAGES = Stages(begin=Twofold.begun, block=lambda layer, x, tokens: layer(x.roll(1, 1), 0.5)[0], end=Twofold.ended)


def workload() -> TorchWorkload:
    """What `--workload tests/example_model/twofold.py:workload` trains."""
    return TorchWorkload(
        model=Twofold, batch=batch, loss=loss, global_batch_size=16, seq_len=LENGTH, predictions=LENGTH, stages=STAGES
    )


def unsaid() -> TorchWorkload:
    """The same without stages."""
    return TorchWorkload(model=Twofold, batch=batch, loss=loss, global_batch_size=16, seq_len=LENGTH)
