"""A model that is in no library, as a user would write it: a mixer of tokens and features over rows of digits.

python -m harness sweep --workload tests/example_model/mixer.py:workload
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from harness.workloads.own import TorchWorkload
from strategies.facts import Split

ROWS, SIDE, CLASSES, WIDTH, INNER = 512, 8, 5, 48, 67
IMAGES = torch.randn(ROWS, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


class Mixer(nn.Module):
    """Rows of an image mixed with each other, then the features of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(SIDE, SIDE)
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.norm, self.dropout = nn.LayerNorm(WIDTH), nn.Dropout(0.1)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.scale * self.rows(x.transpose(1, 2)).transpose(1, 2)
        return x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))


class Model(nn.Module):
    """Five of them, and a projection that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(SIDE, WIDTH)
        self.layers = nn.ModuleList(Mixer() for _ in range(5))
        self.head = nn.Linear(WIDTH, CLASSES)
        self.left_over = nn.Linear(WIDTH, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        for layer in self.layers:
            x = layer(x)
        logits: torch.Tensor = self.head(x.mean(1))
        return logits


def batch(step: int, indices: np.ndarray) -> dict[str, torch.Tensor]:
    """The sign of an image's sums says its class; one image in seven has none."""
    chosen = (torch.from_numpy(indices) * 31 + step * 17) % ROWS
    images = IMAGES[chosen]
    labels = (images.sum((1, 2)).abs().long() % CLASSES).masked_fill(chosen % 7 == 0, -100)
    return {"images": images, "labels": labels}


def loss(outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the images that have a class."""
    return F.cross_entropy(outputs, batch["labels"], reduction="sum"), (batch["labels"] >= 0).sum()


def accuracy(outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the images that have a class."""
    right = (outputs.argmax(-1) == batch["labels"]).sum()
    return right.float(), (batch["labels"] >= 0).sum().float()


def workload() -> TorchWorkload:
    """What `--workload tests/example_model/mixer.py:workload` trains."""
    return TorchWorkload(
        model=Model,
        batch=batch,
        loss=loss,
        metric=accuracy,
        global_batch_size=16,
        tensor_parallel={"layers.*.up": Split.COLUMN, "layers.*.down": Split.ROW},
    )
