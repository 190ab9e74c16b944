"""What a block of a model holds and keeps, counted in a pass of a shallower one with tensors that have no content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

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
    stacks = Counter(name.rpartition(".")[0] for name in survey.blocks)
    exact, low = (_kept(shallow(), inputs, batch, tuple(stacks), dtype) for dtype in (torch.float32, torch.bfloat16))
    if exact is None or low is None:
        return None
    held = {stack: seen.parameters_of_block for stack, seen in exact.items()}
    blocks = len(survey.blocks)

    def mean(of: Callable[[str], float]) -> float:
        return sum(of(stack) * number for stack, number in stacks.items()) / blocks

    def stream(seen: _Kept) -> float:
        # What goes into the layer after attention may be as wide as the stream, and is none.
        return max(seen.wide(width) - seen.size * seen.tokens * width * (width == inside), 0.0)

    return Counted(
        block_parameters=mean(lambda stack: held[stack][0]),
        block_trained=mean(lambda stack: held[stack][1]),
        block_flops=survey.blocks_flops / blocks,
        forward_flops=survey.forward_flops,
        flops=survey.flops,
        outputs=survey.outputs,
        kept_stream=(mean(lambda stack: stream(exact[stack])), mean(lambda stack: stream(low[stack]))),
        kept_inside=(
            mean(lambda stack: exact[stack].total - stream(exact[stack])),
            mean(lambda stack: low[stack].total - stream(low[stack])),
        ),
    )


def _kept(
    model: nn.Module,
    inputs: Sequence[str],
    batch: Mapping[str, torch.Tensor],
    stacks: Sequence[str],
    dtype: torch.dtype,
) -> dict[str, _Kept] | None:
    """Stack -> what its last block keeps of one sample; None if that depends on the values of tensors."""
    model.train().to(dtype)
    surveying.without_dropout(model)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"), hollow.Grouped():
        surveying.without_content(model)
        watched = {stack: _Kept(model, model.get_submodule(f"{stack}.{SHALLOW - 1}"), dtype) for stack in stacks}
        one = [
            torch.empty((1, *t.shape[1:]), dtype=dtype if t.is_floating_point() else t.dtype)
            for t in (batch[name] for name in inputs)
        ]
        keeping = torch.autograd.graph.saved_tensors_hooks(_packing(list(watched.values())), lambda kept: kept)
        try:
            with keeping, hollow.one_sequence(inputs):
                outputs = model(*one)
        except (DataDependentOutputException, DynamicOutputShapeException):
            return None
        del outputs
    return watched


@dataclass
class _Kept:
    """Storages that are kept between the begin and the end of a block's forward pass, parameters apart."""

    model: nn.Module
    block: nn.Module
    dtype: torch.dtype
    """Of the parameters."""
    tokens: int = 0
    """Of the stream."""
    by_width: Counter[int] = field(default_factory=Counter)
    """Features of the last dimension -> bytes; 0 for what is no row of vectors."""
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

    @property
    def size(self) -> int:
        """Bytes of an element of the parameters."""
        return self.dtype.itemsize

    @property
    def parameters_of_block(self) -> tuple[int, int]:
        """(all, trained)."""
        sizes = [(p.numel(), p.requires_grad) for p in self.block.parameters()]
        return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)

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
                one.by_width[tensor.shape[-1] if tensor.ndim in (2, 3) else 0] += storage.nbytes()
        seen.add(storage._cdata)
        return tensor

    return pack
