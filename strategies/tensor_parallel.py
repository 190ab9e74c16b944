"""Tensor parallelism: each block's matrices divided over neighbouring ranks, as in Megatron-LM.

Modules stay what they are and keep a share of their weight; hooks move the activations. Without sequence
parallelism the stream between blocks is whole on every rank (Shoeybi et al. 2019, arXiv:1909.08053); with it each
rank keeps its share of the tokens there (Korthikanti et al. 2022, arXiv:2205.05198).

    enter   forward: copy, or gather the sequence     backward: all-reduce, or reduce-scatter the sequence
    leave   forward: all-reduce, or reduce-scatter    backward: copy, or gather

Shares are as even as whole units allow (heads, features, vocabulary rows), so nothing has to divide evenly.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed as dist
from torch import nn
from torch.func import functional_call

from strategies.base import Slot, Strategy, UnsuitableError
from strategies.collectives import all_gather, all_reduced, reduce_scatter
from strategies.cross_entropy import Divided, divided_vocabulary
from strategies.facts import Facts, Split
from strategies.knob import Choice, Knob, Range, Setting, Settings

if TYPE_CHECKING:
    from strategies.training import Batch, Training, Weighed


class TensorParallel(Strategy):
    """Matrices divided by columns and rows over the tensor-parallel ranks, the loss computed on divided logits."""

    name = "tensor_parallel"
    slot = Slot.TENSOR
    summary = "each layer's matrices divided over the ranks of a group"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Range(name="tp", default=1, low=1, high=1024, integer=True, points=(1, 2, 4, 8), unit="ranks", doc="degree"),
        Choice(
            name="sequence_parallel",
            default=False,
            values=(False, True),
            doc="divide the stream between the matrices along the sequence",
            when={"tp": range(2, 1025)},
        ),
    )

    def active(self, plan: Settings) -> bool:
        return plan["tp"] != 1

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"tp": 2}, {"tp": 2, "sequence_parallel": True}]

    def check(self, plan: Settings, facts: Facts) -> str | None:
        tp, model = int(plan["tp"]), facts.model
        if not model.tensor_parallel:
            return f"{facts.workload} declares no layers that tensor parallelism could divide"
        for count, what in ((model.heads, "attention heads"), (model.vocab_size, "vocabulary rows")):
            if count and count < tp:
                return f"tp={tp} needs at least {tp} {what}, but {facts.workload} has {count}"
        if plan["sequence_parallel"] and not model.width:
            return f"{facts.workload} declares no stream that sequence_parallel could divide"
        if plan["sequence_parallel"] and facts.seq_len % tp:
            return f"sequence_parallel needs a sequence that tp divides, but got (seq_len={facts.seq_len}, tp={tp})"
        return None

    def apply(self, training: Training) -> None:
        Divider(training).divide()


def shares(total: int, world: int) -> list[int]:
    """How many of `total` units each rank holds, as even as can be, the larger shares first."""
    return [total // world + (rank < total % world) for rank in range(world)]


class Divider:
    """Cuts the weights of a training's parts and installs the hooks that move activations."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.group = training.group("tp")
        self.world, self.rank = training.degree("tp"), training.coordinate("tp")
        self.sequence = bool(training.plan["sequence_parallel"])

    def divide(self) -> None:
        """Divide every module that the model's facts name, and the loss if the vocabulary is divided."""
        facts = self.training.facts.model
        for part in self.training.parts:
            for path, module in list(part.named_modules()):
                for pattern, split in facts.tensor_parallel.items():
                    if fnmatch.fnmatchcase(path, pattern):
                        getattr(self, f"_{split.value}")(path, module)
            stem = getattr(part, "stem", None)
            if self.sequence and stem is not None:
                stem.register_forward_hook(lambda module, inputs, x: _KeepShare.apply(x, self.group))
        if Split.VOCAB in facts.tensor_parallel.values():
            first = sum(shares(facts.vocab_size, self.world)[: self.rank])
            self._divide_loss(Divided(first, facts.vocab_size, self.group))

    def _divide_loss(self, how: Divided) -> None:
        """The workload's own loss, of logits of which each rank has a share."""
        loss = self.training.loss

        def divided(logits: torch.Tensor, batch: Batch) -> Weighed:
            with divided_vocabulary(how):
                return loss(logits, batch)

        self.training.loss = divided

    # -- one method for each Split

    def _column(self, path: str, module: nn.Module) -> None:
        self._cut(path, module, dim=0, units=self._rows(path), unit=1)
        self._enter(module)

    def _column_qkv(self, path: str, module: nn.Module) -> None:
        heads, dim = self.training.facts.model.heads, self.training.facts.model.head_dim
        self._cut(path, module, dim=0, units=heads, unit=dim, repeats=3)
        self._enter(module)

    def _row(self, path: str, module: nn.Module) -> None:
        columns = self.training.full_shapes[f"{path}.weight"][1]
        self._cut(path, module, dim=1, units=columns, unit=1)
        self._leave(module)

    def _row_heads(self, path: str, module: nn.Module) -> None:
        facts = self.training.facts.model
        self._cut(path, module, dim=1, units=facts.heads, unit=facts.head_dim)
        self._leave(module)

    def _vocab(self, path: str, module: nn.Module) -> None:
        if not isinstance(module, nn.Embedding):
            self._column(path, module)
            return
        vocab = self._rows(path)
        self._cut(path, module, dim=0, units=vocab, unit=1)
        counts = shares(vocab, self.world)
        first, count = sum(counts[: self.rank]), counts[self.rank]

        def look_up(tokens: torch.Tensor) -> torch.Tensor:
            elsewhere = (tokens < first) | (tokens >= first + count)
            found = nn.functional.embedding((tokens - first).masked_fill(elsewhere, 0), module.weight)
            return _Leave.apply(found.masked_fill(elsewhere.unsqueeze(-1), 0), self.group)  # type: ignore[no-any-return]

        module.forward = look_up  # type: ignore[method-assign, assignment]

    def _sequence(self, path: str, module: nn.Module) -> None:
        if not self.sequence:
            return
        inner = type(module).forward

        # Each rank sees only its tokens, so the gradients of these small weights are partial sums.
        def forward(x: torch.Tensor) -> torch.Tensor:
            module.forward = inner.__get__(module)
            weights = {name: _Enter.apply(p, self.group) for name, p in module.named_parameters()}
            try:
                return functional_call(module, weights, (x,))  # type: ignore[no-any-return]
            finally:
                module.forward = forward

        module.forward = forward

    # -- helpers

    def _rows(self, path: str) -> int:
        return self.training.full_shapes[f"{path}.weight"][0]

    def _cut(self, path: str, module: nn.Module, *, dim: int, units: int, unit: int, repeats: int = 1) -> None:
        """Replace a weight that is `repeats` times `units` units wide along `dim` by this rank's share, and the bias of
        divided outputs likewise."""
        counts = shares(units, self.world)
        begin, length = sum(counts[: self.rank]) * unit, counts[self.rank] * unit

        def cut(full: torch.Tensor) -> torch.Tensor:
            pieces = [piece.narrow(dim, begin, length) for piece in full.chunk(repeats, dim)]
            return torch.cat(pieces, dim) if repeats > 1 else pieces[0]

        self._put(f"{path}.weight", module.weight, cut)  # type: ignore[arg-type]
        if dim == 0 and getattr(module, "bias", None) is not None:
            self._put(f"{path}.bias", module.bias, cut)  # type: ignore[arg-type]

    def _put(self, name: str, whole: nn.Parameter, cut: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Let a parameter, under all of its names, be this rank's share of it."""
        if name not in self.training.slices:
            tied = [n for n, p in self._meta_parameters() if p is whole]
            divided = nn.Parameter(cut(whole.detach()), requires_grad=whole.requires_grad)
            for other in {name, *tied}:
                self.training.slices[other] = cut
                self._replace(other, divided)

    def _meta_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [item for part in self.training.parts for item in part.named_parameters(remove_duplicate=False)]

    def _replace(self, name: str, parameter: nn.Parameter) -> None:
        owner, _, attribute = name.rpartition(".")
        for part in self.training.parts:
            if any(n == name for n, _ in part.named_parameters(remove_duplicate=False)):
                setattr(part.get_submodule(owner), attribute, parameter)

    def _enter(self, module: nn.Module) -> None:
        function: Any = _GatherSequence if self.sequence else _Enter
        module.register_forward_pre_hook(lambda module, inputs: (function.apply(inputs[0], self.group),))

    def _leave(self, module: nn.Module) -> None:
        function: Any = _ScatterSequence if self.sequence else _Leave
        if getattr(module, "bias", None) is None:
            module.register_forward_hook(lambda module, inputs, output: function.apply(output, self.group))
            return
        if type(module) is not nn.Linear:
            raise UnsuitableError(f"a {type(module).__name__} with a bias cannot be divided by its inputs")

        # Added once, to the sum over the ranks; of divided tokens each rank has a partial sum of its gradient.
        def forward(x: torch.Tensor) -> torch.Tensor:
            out = function.apply(nn.functional.linear(x, module.weight), self.group)
            bias = _Enter.apply(module.bias, self.group) if self.sequence else module.bias
            return out + bias.to(out.dtype)  # type: ignore[no-any-return]

        module.forward = forward  # type: ignore[method-assign, assignment]


class _Enter(torch.autograd.Function):
    """Copy forward, all-reduce backward (Megatron's f)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return all_reduced(grad.contiguous(), ctx.group), None


class _Leave(torch.autograd.Function):
    """All-reduce forward, copy backward (Megatron's g)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        return all_reduced(x.contiguous(), group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


def _gather(x_BLD: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    whole = x_BLD.new_empty(world, *x_BLD.shape)
    whole[rank].copy_(x_BLD)
    all_gather(whole.view(-1), group).wait()
    return whole.transpose(0, 1).flatten(1, 2)


def _scatter_sum(x_BLD: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    world = dist.get_world_size(group)
    batch, length, width = x_BLD.shape
    by_rank = x_BLD.view(batch, world, length // world, width).transpose(0, 1).contiguous()
    return reduce_scatter(by_rank.view(-1), group).wait().view(batch, length // world, width)


class _GatherSequence(torch.autograd.Function):
    """Gather the sequence forward, reduce-scatter it backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _gather(x, group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _scatter_sum(grad.contiguous(), ctx.group), None


class _ScatterSequence(torch.autograd.Function):
    """Reduce-scatter the sequence forward, gather it backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _scatter_sum(x, group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _gather(grad.contiguous(), ctx.group), None


class _KeepShare(torch.autograd.Function):
    """Keep this rank's share of the sequence forward, gather backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return x.chunk(dist.get_world_size(group), dim=1)[dist.get_rank(group)].clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _gather(grad.contiguous(), ctx.group), None
