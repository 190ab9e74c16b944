"""ZeRO-3: parameters divided as well, gathered unit by unit when they are needed. PyTorch's FSDP2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, Comm, ReduceScatter

from strategies.base import Slot, Strategy
from strategies.collectives import all_gather, exchanges_chunks, reduce_scatter
from strategies.facts import Facts
from strategies.knob import Choice, Knob, Range, Setting, Settings
from strategies.parameter_engine import ParameterEngine

if TYPE_CHECKING:
    from strategies.training import Training


class Zero3(Strategy):
    """Parameters, gradients and optimizer state divided (Rajbhandari et al. 2020; PyTorch's fully_shard)."""

    name = "zero3"
    slot = Slot.DATA
    summary = "parameters, gradients and optimizer states divided over the data-parallel ranks (FSDP2)"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Range(
            name="blocks_per_unit",
            default=1,
            low=1,
            high=16,
            integer=True,
            log=True,
            points=(1, 2, 4),
            doc="blocks that are gathered together",
            unit="blocks",
            when={"data_parallel": ("zero3",)},
        ),
        Range(
            name="prefetch",
            default=1,
            low=0,
            high=4,
            integer=True,
            points=(0, 1, 2),
            doc="units gathered ahead of the one that computes; 0 leaves it to FSDP2, which gathers one in backward",
            unit="units",
            when={"data_parallel": ("zero3",)},
        ),
        Choice(
            name="reshard_after_forward",
            default=True,
            values=(True, False),
            doc="free a unit's parameters between its forward and backward pass",
            when={"data_parallel": ("zero3",)},
        ),
    )

    def active(self, plan: Settings) -> bool:
        return plan["data_parallel"] == self.name

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"data_parallel": self.name}, {"data_parallel": self.name, "reshard_after_forward": False}]

    def check(self, plan: Settings, facts: Facts) -> str | None:
        units = max(1, len(facts.model.blocks) // int(plan["pp"]))
        if int(plan["blocks_per_unit"]) > units:
            return f"blocks_per_unit={plan['blocks_per_unit']} exceeds the {units} blocks that a rank holds"
        return check_fsdp2(plan, facts)

    def apply(self, training: Training) -> None:
        plan = training.plan
        shard(
            training,
            blocks_per_unit=int(plan["blocks_per_unit"]),
            prefetch=int(plan["prefetch"]),
            reshard_after_forward=bool(plan["reshard_after_forward"]),
        )


def check_fsdp2(plan: Settings, facts: Facts) -> str | None:
    """Why FSDP2 cannot run a plan, in one sentence, or None."""
    if facts.model.shared_blocks:
        return f"FSDP2 needs shared weights in one unit, but {facts.workload} shares one between blocks"
    return None


def shard(training: Training, *, blocks_per_unit: int, prefetch: int, reshard_after_forward: bool) -> None:
    """Apply fully_shard to groups of blocks and to the rest of each part.

    Every unit gets its values just before it is sharded, so no rank ever holds more than its shards and one unit.
    """
    policy = _policy(training)
    options: dict[str, Any] = {"mesh": training.mesh["dp"], "mp_policy": policy}
    for part in training.parts:
        blocks = training.units(part)
        units = [blocks[i : i + blocks_per_unit] for i in range(0, len(blocks), blocks_per_unit)]
        for unit in units:
            for name, block in unit:
                training.materialise(block, name)
            modules = [block for _, block in unit]
            target = modules[0] if len(modules) == 1 else modules
            fully_shard(target, reshard_after_forward=reshard_after_forward, **options)
        training.materialise(part)
        fully_shard(part, reshard_after_forward=False, **options)
        _set_prefetch([unit[0][1] for unit in units], prefetch)
        _set_collectives(part, training)
    training.engine = FsdpEngine(training, sharded=True)


def _policy(training: Training) -> MixedPrecisionPolicy:
    if not training.master_weights:
        return MixedPrecisionPolicy(reduce_dtype=training.reduce_dtype)
    low, training.param_dtype = training.param_dtype, torch.float32
    return MixedPrecisionPolicy(param_dtype=low, reduce_dtype=training.reduce_dtype)


def _set_prefetch(units: Sequence[nn.Module], depth: int) -> None:
    if depth == 0:
        return
    for i, unit in enumerate(units):
        assert isinstance(unit, FSDPModule)
        unit.set_modules_to_forward_prefetch(list(units[i + 1 : i + 1 + depth]))  # type: ignore[arg-type]
        unit.set_modules_to_backward_prefetch(list(reversed(units[max(0, i - depth) : i])))  # type: ignore[arg-type]


def _set_collectives(part: nn.Module, training: Training) -> None:
    if not exchanges_chunks(training.group("dp")):
        return
    for module in part.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_all_gather(_ChunkAllGather())
            module.set_custom_reduce_scatter(_ChunkReduceScatter())


class _Allocates(Comm):
    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _ChunkAllGather(_Allocates, AllGather):
    """FSDP2's all-gather by this package's point-to-point exchange; the input is already this rank's chunk."""

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> None:
        mine = output_tensor.chunk(dist.get_world_size(group))[dist.get_rank(group)]
        if mine.data_ptr() != input_tensor.data_ptr():
            mine.copy_(input_tensor)
        all_gather(output_tensor, group).wait()  # FSDP2 itself waits for torch's own work handles only


class _ChunkReduceScatter(_Allocates, ReduceScatter):
    """FSDP2's reduce-scatter by this package's point-to-point exchange."""

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        output_tensor.view(-1).copy_(reduce_scatter(input_tensor.view(-1), group).wait())
        if op == dist.ReduceOp.AVG:
            output_tensor.div_(dist.get_world_size(group))


class FsdpEngine(ParameterEngine):
    """FSDP2 reduces every micro-batch's gradients into shards; the last backward of a step ends the overlap."""

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        return self._marked(last)

    @contextlib.contextmanager
    def _marked(self, last: bool) -> Iterator[None]:
        for part in self.training.parts:
            if isinstance(part, FSDPModule):
                part.set_is_last_backward(last)
        yield
