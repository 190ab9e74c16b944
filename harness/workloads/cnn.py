"""A small convolutional classifier of handwritten digits: no tokens, no repeated blocks, accuracy beside the loss."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from harness.errors import InputError
from harness.workloads import initial
from harness.workloads.data import counter_hash
from harness.workloads.workload import Workload
from strategies.cross_entropy import cross_entropy
from strategies.facts import ModelFacts

if TYPE_CHECKING:
    import numpy.typing as npt

CLASSES = 10
SIDE = 8
"""Height and width of an image, in pixels."""
KERNEL = 3
GROUPS = 8
"""Groups of every GroupNorm."""


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Greyscale images and what they show. Holds bytes, so that it is hashable, comparable and quick to pickle."""

    pixels: bytes
    """`[n, 8, 8]` uint8, 0 to 16."""
    labels: bytes
    """`[n]` uint8, 0 to 9."""

    def __repr__(self) -> str:
        return f"Digits(n={len(self.labels)}, data_id={self.data_id!r})"

    @cached_property
    def data_id(self) -> str:
        """16 hexadecimal digits, a hash of images and labels."""
        return hashlib.sha256(self.pixels + self.labels).hexdigest()[:16]


def load_digits() -> Digits:
    """The 1,797 images that scikit-learn carries (https://archive.ics.uci.edu/dataset/80, the test part).

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise InputError(
            "the workload cnn needs the package scikit-learn: pip install 'distributed-harness[cnn]'"
        ) from None
    images, labels = datasets.load_digits(return_X_y=True)
    return Digits(pixels=images.astype(np.uint8).tobytes(), labels=labels.astype(np.uint8).tobytes())


class CnnModel(nn.Module):
    """Three convolutions, each with norm and ReLU, the later two with stride 2; mean over the image; a linear layer.

    GroupNorm and no dropout: each sample's result is its own, so dividing a batch changes nothing. Strides and a mean
    instead of pooling layers: their backward passes add in a fixed order on every device.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in _convolutions(channels):
            conv = nn.Conv2d(inputs, outputs, KERNEL, stride=stride, padding=KERNEL // 2, bias=False)
            layers += [conv, nn.GroupNorm(GROUPS, outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(4 * channels, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images `[batch, 1, 8, 8]` to logits `[batch, 10]`."""
        logits: torch.Tensor = self.head(self.features(images).mean((2, 3)))
        return logits


@dataclass(frozen=True, kw_only=True)
class Cnn(Workload):
    """Classification of 8 x 8 greyscale digits."""

    family: ClassVar[str] = "cnn"
    inputs: ClassVar[tuple[str, ...]] = ("images",)
    initial_values: ClassVar[str] = initial.METHOD
    metric_name: ClassVar[str | None] = "accuracy"

    digits: Digits
    """The images to train on."""
    channels: int = 32
    """Channels of the first convolution, a multiple of 8; the next two have twice and four times as many."""

    def __post_init__(self) -> None:
        if self.global_batch_size < 1:
            raise InputError(f"global_batch_size must be at least 1, but got {self.global_batch_size}")
        if self.channels < GROUPS or self.channels % GROUPS:
            raise InputError(f"channels must be a multiple of {GROUPS}, but got {self.channels}")

    @property
    def seq_len(self) -> int:
        return 1

    def identity(self) -> dict[str, Any]:
        return {**self.common_identity(), "channels": self.channels, "data": self.digits.data_id}

    def facts(self) -> ModelFacts:
        return ModelFacts(parameters=self.parameters, blocks=())

    @property
    def parameters(self) -> int:
        """Kernels, two vectors for each norm, and the linear layer with its bias."""
        features = sum(KERNEL**2 * i * o + 2 * o for i, o, _ in _convolutions(self.channels))
        return features + (4 * self.channels + 1) * CLASSES

    def build(self) -> nn.Module:
        return CnnModel(self.channels)

    def initial(self, name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        if len(shape) == 1:
            return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, device=device)
        # He et al. 2015 (arXiv:1502.01852): variance 2 / fan-in before a ReLU; the logits have none after them.
        std = math.sqrt((1.0 if name.startswith("head") else 2.0) / math.prod(shape[1:]))
        return initial.normal(self.seed, name, shape, std, device)

    def samples(self, step: int, indices: npt.ArrayLike) -> dict[str, torch.Tensor]:
        chosen = counter_hash(self.seed, step, indices) % np.uint64(len(self.digits.labels))
        pixels = np.frombuffer(self.digits.pixels, np.uint8).reshape(-1, 1, SIDE, SIDE)[chosen]
        labels = np.frombuffer(self.digits.labels, np.uint8)[chosen]
        images = torch.from_numpy(pixels.astype(np.float32) / 16)
        return {"images": images, "labels": torch.from_numpy(labels.astype(np.int64))}

    @property
    def predictions(self) -> float:
        return 1.0

    def loss(self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
        return cross_entropy(outputs, batch["labels"]), float(len(batch["labels"]))

    def metric(self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
        right = outputs.detach().argmax(-1) == batch["labels"]
        return right.float().sum(), float(len(right))

    def flops_per_step(self) -> float:
        """3 x forward: the backward pass multiplies twice as much (PaLM, arXiv:2204.02311, appendix B).

        The forward pass of a convolution is 2 K^2 C_in C_out H W FLOPs for an output of H x W (a multiplication and an
        addition for each weight at each place), of the linear layer 2 C_in C_out; norms and ReLUs are not counted.
        """
        forward, side = 2.0 * 4 * self.channels * CLASSES, SIDE
        for inputs, outputs, stride in _convolutions(self.channels):
            side //= stride
            forward += 2.0 * KERNEL**2 * inputs * outputs * side**2
        return 3 * forward * self.global_batch_size


def _convolutions(channels: int) -> tuple[tuple[int, int, int], ...]:
    """(input channels, output channels, stride) of each."""
    return (1, channels, 1), (channels, 2 * channels, 2), (2 * channels, 4 * channels, 2)
