"""Small workloads, and a short way to run their plans for real."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import strategies
from harness.launchers.job import Measurement
from harness.launchers.launcher import Launcher
from harness.plan import Plan, complete
from harness.search import feasible
from harness.store.store import Store
from harness.trial.runner import Runner
from harness.workloads import initial
from harness.workloads.gpt import Gpt
from harness.workloads.workload import Workload
from strategies import Facts, Knob, Setting
from strategies.cross_entropy import IGNORED, cross_entropy, predictions

STEPS = 8
"""Steps that are compared with one process in fp32."""


@dataclass(frozen=True)
class Stairs:
    """Tokens that need no file: each window climbs through the vocabulary in steps of its own height."""

    vocab_size: int = 64
    data_id: str = "stairs"
    description: str = "stairs"

    def windows(self, step: int, indices: npt.ArrayLike, seq_len: int, seed: int) -> npt.NDArray[np.int64]:
        """`[len(indices), seq_len + 1]`, from (seed, step, index) alone."""
        drawn = [
            np.random.default_rng([seed, step, index]).integers(1, self.vocab_size, 2)
            for index in np.asarray(indices).tolist()
        ]
        start, height = np.array(drawn, np.int64).T[:, :, None]
        return np.asarray((start + height * np.arange(seq_len + 1)) % self.vocab_size, np.int64)

    def store(self) -> None:
        """Nothing to write."""


def gpt(kind: type[Gpt] = Gpt, *, vocab: int = 64, **changes: Any) -> Gpt:
    """A transformer of 0.2 M parameters, whose every size can be changed, or a `kind` of it."""
    sizes: dict[str, Any] = {"global_batch_size": 8, "blocks": 4, "width": 64, "heads": 4, "seq": 32}
    name = "tiny" if kind is Gpt else f"tiny-{kind.__name__.lower()}"
    return kind(name=name, data=Stairs(vocab), **{**sizes, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Spare(Gpt):
    """A transformer with a weight that has no part in the loss."""

    def build(self) -> nn.Module:
        model = super().build()
        model.head.spare = nn.Linear(self.width, self.width, bias=False)  # type: ignore[union-attr]
        return model


@dataclass(frozen=True, kw_only=True)
class Uneven(Gpt):
    """A transformer with labels smoothed, of which some samples have many, some few and one in seven none at all."""

    def samples(self, step: int, indices: np.ndarray) -> dict[str, torch.Tensor]:
        batch = super().samples(step, indices)
        kept = torch.as_tensor(indices) * 5 % 7 * self.seq // 6
        return {**batch, "next": batch["next"].masked_fill(torch.arange(self.seq) >= kept[:, None], IGNORED)}

    @property
    def predictions(self) -> None:  # type: ignore[override]
        return None

    def loss(self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, Any]:
        return cross_entropy(outputs, batch["next"], smoothing=0.1), predictions(batch["next"])


@dataclass(frozen=True, kw_only=True)
class Frozen(Gpt):
    """A transformer of which the embedding and the first block are not trained."""

    def build(self) -> nn.Module:
        model = super().build()
        for module in (model.stem, model.blocks["0"]):  # type: ignore[index, operator]
            for parameter in module.parameters():  # type: ignore[union-attr]
                parameter.requires_grad_(False)
        return model


class Scaled(nn.Module):
    """A head after a table that is no parameter and is not saved."""

    def __init__(self, head: nn.Module, width: int) -> None:
        super().__init__()
        self.norm, self.logits = head.norm, head.logits
        self.register_buffer("table", 1 + torch.arange(width) / width, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits(self.norm(x) * self.table)  # type: ignore[no-any-return, operator]


@dataclass(frozen=True, kw_only=True)
class Buffered(Gpt):
    """A transformer whose head multiplies by a buffer."""

    def build(self) -> nn.Module:
        model = super().build()
        model.head = Scaled(model.head, self.width)  # type: ignore[arg-type]
        return model


@dataclass(frozen=True, kw_only=True)
class Biased(Gpt):
    """A transformer whose matrices in the blocks have biases, each value another."""

    def build(self) -> nn.Module:
        model = super().build()
        for block in model.blocks.values():  # type: ignore[operator, union-attr]
            for part in block.modules():
                if isinstance(part, nn.Linear):
                    part.bias = nn.Parameter(torch.empty(part.out_features))
        return model

    def initial(self, name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        if name.endswith("bias"):
            return initial.normal(self.seed, name, shape, 0.5, device)
        return super().initial(name, shape, device)


def knobs() -> tuple[Knob, ...]:
    """The knobs of every registered strategy."""
    return strategies.knobs(strategies.registry().values())


def facts(workload: Workload, world_size: int) -> Facts:
    """What strategies may know of a workload on this machine's CPU."""
    return Facts(
        device_type="cpu",
        world_size=world_size,
        global_batch_size=workload.global_batch_size,
        seq_len=workload.seq_len,
        workload=workload.name,
        model=workload.facts(),
        extras=frozenset(name for name in ("torchao",) if importlib.util.find_spec(name)),
        compiler=shutil.which("g++") is not None,
    )


def plan(settings: Mapping[str, Setting]) -> Plan:
    """The plan with these settings; two or more data-parallel ranks use ddp unless told otherwise."""
    kind = {"data_parallel": "ddp"} if settings.get("dp", 1) != 1 else {}
    return complete({**kind, **settings}, knobs())


def why_not(settings: Mapping[str, Setting], workload: Workload) -> str | None:
    """Why a plan of these settings cannot run, in one sentence, or None."""
    tried = plan(settings)
    return feasible.why_not(tried, facts(workload, tried.world_size), strategies.registry().values())


class Laboratory:
    """Runs plans as trials whose first `STEPS` steps are compared with one process in fp32.

    Args:
        launcher: starts the ranks.
        folder: of the store.
        reference_steps: length of that process's curve.
    """

    def __init__(self, launcher: Launcher, folder: Path, reference_steps: int = STEPS) -> None:
        self.reference_steps = reference_steps
        self.runner = Runner(
            launcher=launcher,
            store=Store(folder),
            hardware_id="here",
            sweep="tests",
            cores=2,
            measurement=Measurement(warmup_steps=STEPS, min_steps=1, max_steps=1, seconds=0.0),
        )

    def follows(self, settings: Mapping[str, Setting], workload: Workload) -> dict[str, Any]:
        """The row of a plan that follows one process: within 1e-4 relative in loss in fp32, 1e-3 in gradient norm."""
        row = self.run(settings, workload)
        assert row["outcome_reason"] is None, row["outcome_reason"]
        assert (row["outcome"], row["numerics"]) == ("ok", "pass")
        assert row["numerics_max_rel_error"] <= row["numerics_tolerance"]
        return row

    def run(self, settings: Mapping[str, Setting], workload: Workload, **changes: Any) -> dict[str, Any]:
        """The recorded row of a plan of these settings.

        Args:
            settings: knob -> value.
            workload: what to train.
            changes: fields of the `Runner` that are different this time.
        """
        if workload.workload_id not in self.runner.references:
            self.runner.reference(plan({"micro_batch_size": 1}), workload, facts(workload, 1), self.reference_steps)
        tried = plan(settings)
        runner = replace(self.runner, **changes)
        return runner.run(tried, workload, facts(workload, tried.world_size)).row
