"""What a workload is: the thing that is trained, frozen, so that two trials of it did the same mathematics."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from strategies.facts import ModelFacts
from strategies.optimizer import OptimizerConfig

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Workload(ABC):
    """Base of the workload families. Instances are picklable: ranks receive them as they are."""

    family: ClassVar[str]
    """Name of the family, the first part of `--workload`."""
    metric_name: ClassVar[str | None] = None
    """What `metric` returns ("accuracy"), None if the family has no metric beside the loss."""

    inputs: ClassVar[tuple[str, ...]]
    """Names in a batch of what the model is called with, in order."""
    initial_values: ClassVar[str] = "its own"
    """What `initial` draws by, recorded beside the reference: with another rule a new one is trained."""

    name: str
    """Full name in tables, such as "gpt-nano"."""
    global_batch_size: int
    """Samples of one optimizer step over all ranks."""
    seed: int = 0
    """Seed of the initial weights and of the order of the data."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW's constants, the learning-rate schedule and the clipping norm."""

    @property
    def workload_id(self) -> str:
        """A hash of everything that is trained, the data's own hash included."""
        text = json.dumps({"family": self.family, **self.identity()}, sort_keys=True, default=str)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Every value that changes the mathematics: model, data hash, sequence length, batch, optimizer, seed."""

    def common_identity(self) -> dict[str, Any]:
        """The part of `identity` that every family shares."""
        return {"batch": self.global_batch_size, "seed": self.seed, "optimizer": asdict(self.optimizer)}

    def prepare(self) -> None:  # noqa: B027 - families that hold everything in memory have nothing to write
        """Write what ranks read from disk; called once in the parent, after everything was checked."""

    @property
    @abstractmethod
    def seq_len(self) -> int:
        """Tokens of one sample; 1 if samples are not sequences."""

    @abstractmethod
    def facts(self) -> ModelFacts:
        """What strategies may know without building the model."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The model, on whatever device is torch's default (ranks build it on "meta")."""

    @abstractmethod
    def initial(self, name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """The fp32 initial value of the parameter called `name`, from the seed and the name alone, on any device."""

    @abstractmethod
    def samples(self, step: int, indices: np.ndarray) -> Mapping[str, torch.Tensor]:
        """The samples with these indices (0 <= index < global_batch_size) in a step, name -> `[samples, ...]`.

        Depends on (seed, step, index) alone, so every plan trains on the same global batch.
        """

    @abstractmethod
    def loss(
        self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Sum of the losses of all predictions, a scalar in fp32, and how many they are.

        The loss of a step is the sum over its global batch over the number there, however a plan divides it.
        """

    @property
    def predictions(self) -> float | None:
        """Of each sample, if all have as many; None if only the data tell, and every step must count them."""
        return None

    def metric(
        self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | float] | None:
        """A second, detached figure of merit such as accuracy, a sum and a number likewise; or None."""
        return None

    @abstractmethod
    def flops_per_step(self) -> float:
        """Model FLOPs of one optimizer step over all ranks, recomputation not counted; docstrings name the source."""

    def shallow(self, blocks: int) -> Workload | None:
        """The same with so many blocks, which computes as this one does; None if there is no such thing."""
        fewer: dict[str, Any] = {"blocks": blocks, "name": f"{self.name}-blocks{blocks}"}
        return replace(self, **fewer) if isinstance(getattr(self, "blocks", None), int) else None

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the dropouts that were set to 0, because their masks would be others in each plan."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the data, in sentences, once they are prepared."""
        return ()

    def real_tokens(self, step: int) -> int | None:
        """Those of `tokens_per_step` that are no padding in a step; None if all are, or there are no tokens."""
        return None

    @property
    def tokens_per_step(self) -> int:
        """Tokens (or samples, if they are not sequences) of one optimizer step."""
        return self.global_batch_size * self.seq_len
