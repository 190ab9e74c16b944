"""What a block of a model holds and keeps, counted in a pass of a shallower one with tensors that have no content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.workloads import hollow, surveying
from harness.workloads.surveying import Survey
from strategies.facts import Counted

SHALLOW = 2
"""Blocks of a stack: the second one keeps nothing for the first time but what is its own."""


def count(
    survey: Survey,
    shallow: Callable[[], nn.Module],
    inputs: Sequence[str],
    batch: Mapping[str, torch.Tensor],
    width: int,
    inside: int,
) -> Counted | None:
    """What one sample takes; None if that depends on the values of tensors.

    Args:
        survey: of the whole model.
        shallow: makes it with `SHALLOW` blocks in each stack, without content.
        inputs: names of what it is called with.
        batch: some samples.
        width: features of the stream between blocks.
        inside: features of all heads of attention.
    """
    if not survey.blocks:
        return None
    model = shallow()
    model.train()
    surveying.without_dropout(model)
    stacks = Counter(name.rpartition(".")[0] for name in survey.blocks)
    last = {stack: model.get_submodule(f"{stack}.{SHALLOW - 1}") for stack in stacks}
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"), hollow.Grouped():
        surveying.without_content(model)
        held = {stack: _parameters(block) for stack, block in last.items()}
        watched = {stack: _Kept(model, block) for stack, block in last.items()}
        one = [torch.empty((1, *batch[name].shape[1:]), dtype=batch[name].dtype) for name in inputs]
        try:
            with torch.autograd.graph.saved_tensors_hooks(_packing(list(watched.values())), lambda kept: kept):
                outputs = model(*one)
        except torch._subclasses.fake_tensor.DataDependentOutputException:
            return None
        del outputs
    blocks = len(survey.blocks)

    def mean(of: Callable[[str], float]) -> float:
        return sum(of(stack) * number for stack, number in stacks.items()) / blocks

    def stream(stack: str) -> float:
        seen = watched[stack]
        # What goes into the layer after attention may be as wide as the stream, and is none.
        return max(seen.wide(width) - 4.0 * seen.tokens * width * (width == inside), 0.0)

    return Counted(
        block_parameters=mean(lambda stack: held[stack][0]),
        block_trained=mean(lambda stack: held[stack][1]),
        block_flops=survey.blocks_flops / blocks,
        forward_flops=survey.forward_flops,
        flops=survey.flops,
        outputs=survey.outputs,
        kept_stream=mean(stream),
        kept_inside=mean(lambda stack: watched[stack].total - stream(stack)),
    )


def _parameters(block: nn.Module) -> tuple[int, int]:
    """(all, trained)."""
    sizes = [(p.numel(), p.requires_grad) for p in block.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


@dataclass
class _Kept:
    """Storages that are kept between the begin and the end of a block's forward pass, parameters apart."""

    model: nn.Module
    block: nn.Module
    tokens: int = 0
    """Of the stream."""
    by_width: Counter[int] = field(default_factory=Counter)
    """Features of the last dimension -> bytes."""
    inside: bool = False

    def __post_init__(self) -> None:
        self.parameters = {p.untyped_storage()._cdata for p in self.model.parameters()}

        def begins(module: nn.Module, given: Any, named: Any) -> None:
            self.inside = True
            stream = given[0] if given else named["hidden_states"]
            self.tokens = stream.shape[-2]

        def ends(module: nn.Module, given: Any, made: Any) -> None:
            self.inside = False

        self.block.register_forward_pre_hook(begins, with_kwargs=True)
        self.block.register_forward_hook(ends)

    def wide(self, width: int) -> float:
        """Bytes of what is so wide."""
        return float(self.by_width[width])

    @property
    def total(self) -> float:
        return float(sum(self.by_width.values()))


def _packing(watched: Sequence[_Kept]) -> Callable[[torch.Tensor], torch.Tensor]:
    seen: set[int] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        for one in watched:
            if storage._cdata not in one.parameters and storage._cdata not in seen and one.inside:
                one.by_width[tensor.shape[-1] if tensor.ndim else 0] += storage.nbytes()
        seen.add(storage._cdata)
        return tensor

    return pack
