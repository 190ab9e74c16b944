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
from torch import nn
from torch.func import functional_call

from strategies.base import Slot, Strategy, UnsuitableError
from strategies.cross_entropy import Divided, divided_vocabulary
from strategies.facts import EXPERT_TILE, Facts
from strategies.knob import Choice, Knob, Range, Setting, Settings
from strategies.movements import Enter, GatherSequence, KeepShare, Leave, ScatterSequence
from strategies.training import holds

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
        if model.quantized:
            return f"{facts.workload} keeps matrices in blocks of 4 bits, which tensor parallelism would cut through"
        heads = (model.kv_heads, "key-value heads") if model.kv_heads else (model.heads, "attention heads")
        for count, what in (heads, (model.vocab_size, "vocabulary rows")):
            if count and count < tp:
                return f"tp={tp} needs at least {tp} {what}, but {facts.workload} has {count}"
        if plan["sequence_parallel"] and not (model.sequence_parallel and model.stream):
            return f"layers of {facts.workload} may need every token, so sequence_parallel cannot divide its stream"
        if plan["sequence_parallel"] and model.stream[0] % tp:
            return f"sequence_parallel needs a sequence that tp divides, but got (seq_len={model.stream[0]}, tp={tp})"
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
        self.entered: set[str] = set()
        """Modules into which the stream is moved, for all that they hold."""

    def divide(self) -> None:
        """Divide every module that the model's facts name, and the loss if the vocabulary of the outputs is divided."""
        facts = self.training.facts.model
        for part in self.training.parts:
            for path, module in list(part.named_modules()):
                if next(module.parameters(), None) is None:
                    continue  # on another stage
                for pattern, split in facts.tensor_parallel.items():
                    if fnmatch.fnmatchcase(path, pattern):
                        getattr(self, f"_{split.value}")(path, module)
                for pattern, names in facts.counts.items():
                    if fnmatch.fnmatchcase(path, pattern):
                        for name in names:
                            setattr(module, name, self._count(path, name, getattr(module, name)))
            if self.sequence and holds(part, facts.blocks[0]):
                self._on_stream(part.get_submodule(facts.blocks[0]), KeepShare)

    def _divide_loss(self, how: Divided) -> None:
        """The workload's own loss, of logits of which each rank has a share."""
        loss = self.training.loss

        def divided(logits: torch.Tensor, batch: Batch) -> Weighed:
            with divided_vocabulary(how):
                return loss(logits, batch)

        self.training.loss = divided

    # -- one method for each Split

    def _column(self, path: str, module: nn.Module, units: int | None = None, repeats: int = 1) -> None:
        for name in ("weight", "bias"):
            if getattr(module, name, None) is not None:
                self._cut(path, module, name, dim=outputs(module, name), units=units, repeats=repeats)
        if type(module).__name__ == "Conv1D":
            module.nf = module.weight.shape[1]  # type: ignore[assignment, index]
        if not isinstance(module, nn.Embedding) and not any(path.startswith(f"{above}.") for above in self.entered):
            self._enter(module)

    def _column_heads(self, path: str, module: nn.Module) -> None:
        self._column(path, module, units=self._key_value_heads)

    def _column_qkv(self, path: str, module: nn.Module) -> None:
        self._column(path, module, units=self.training.facts.model.heads, repeats=3)

    def _row(self, path: str, module: nn.Module, units: int | None = None) -> None:
        self._cut(path, module, "weight", dim=1 - outputs(module, "weight"), units=units)
        self._leave(module)

    def _row_heads(self, path: str, module: nn.Module) -> None:
        self._row(path, module, units=self._key_value_heads)

    def _vocab(self, path: str, module: nn.Module) -> None:
        rows = self.training.full_shapes[f"{path}.weight"][0]
        counts = shares(rows, self.world)
        first, count = sum(counts[: self.rank]), counts[self.rank]
        if not isinstance(module, nn.Embedding):
            self._column(path, module)
            self._divide_loss(Divided(first, rows, self.group))
            return
        self._cut(path, module, "weight", dim=0)
        if module.padding_idx is not None:
            module.padding_idx = module.padding_idx - first if first <= module.padding_idx < first + count else None
        inner = module.forward

        def look_up(tokens: torch.Tensor) -> torch.Tensor:
            elsewhere = (tokens < first) | (tokens >= first + count)
            found = inner((tokens - first).masked_fill(elsewhere, 0))
            return Leave.apply(found.masked_fill(elsewhere.unsqueeze(-1), 0), self.group)  # type: ignore[no-any-return]

        module.forward = look_up  # type: ignore[method-assign, assignment]

    def _experts(self, path: str, module: nn.Module) -> None:
        hidden = self.training.full_shapes[f"{path}.down_proj"][2]
        tiles = hidden // EXPERT_TILE if hidden % EXPERT_TILE == 0 else hidden
        self._cut(path, module, "gate_up_proj", dim=1, units=tiles, repeats=2)
        self._cut(path, module, "down_proj", dim=2, units=tiles)
        # What goes in is the stream and the weights of the experts, which a router makes on every rank.
        self._on_inputs(module, Enter, lambda value: value.requires_grad)
        module.register_forward_hook(lambda module, inputs, output: Leave.apply(output, self.group))

    def _input(self, path: str, module: nn.Module) -> None:
        self.entered.add(path)
        self._on_stream(module, GatherSequence if self.sequence else Enter)

    def _sequence(self, path: str, module: nn.Module) -> None:
        if self.sequence:
            self._whole(path, module)

    def _whole(self, path: str, module: nn.Module) -> None:
        inner = type(module).forward

        # Each rank sees only its share, so the gradients of these small weights are partial sums.
        def forward(x: torch.Tensor) -> torch.Tensor:
            module.forward = inner.__get__(module)
            weights = {name: Enter.apply(p, self.group) for name, p in module.named_parameters()}
            try:
                return functional_call(module, weights, (x,))  # type: ignore[no-any-return]
            finally:
                module.forward = forward

        module.forward = forward

    # -- shares

    @property
    def _key_value_heads(self) -> int:
        return self.training.facts.model.kv_heads or self.training.facts.model.heads

    def _count(self, path: str, name: str, number: int) -> int:
        """This rank's share of a number of heads, or of features of heads."""
        if number % self._key_value_heads:
            raise UnsuitableError(f"{path}.{name}={number} is no multiple of the {self._key_value_heads} heads")
        return number // self._key_value_heads * shares(self._key_value_heads, self.world)[self.rank]

    def _cut(
        self, path: str, module: nn.Module, attribute: str, *, dim: int, units: int | None = None, repeats: int = 1
    ) -> None:
        """Replace a weight that is `repeats` times `units` units wide along `dim` by this rank's share."""
        length = self.training.full_shapes[f"{path}.{attribute}"][dim] // repeats
        units = units or length
        if length % units:
            raise UnsuitableError(f"{path} has {length} features, which its {units} heads do not divide")
        counts, unit = shares(units, self.world), length // units
        begin, kept = sum(counts[: self.rank]) * unit, counts[self.rank] * unit

        def cut(full: torch.Tensor) -> torch.Tensor:
            pieces = [piece.narrow(dim, begin, kept) for piece in full.chunk(repeats, dim)]
            return torch.cat(pieces, dim) if repeats > 1 else pieces[0]

        self._put(f"{path}.{attribute}", getattr(module, attribute), cut)

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

    # -- movements

    def _enter(self, module: nn.Module) -> None:
        function: Any = GatherSequence if self.sequence else Enter
        module.register_forward_pre_hook(lambda module, inputs: (function.apply(inputs[0], self.group),))

    def _on_stream(self, module: nn.Module, function: Any) -> None:
        """Move the stream that goes into a module, however it is passed; whether or not it is trained, it has its width
        and the dimensions that it has between blocks, which no mask or position has."""
        model = self.training.facts.model
        dims = 1 + (len(model.stream) or 2)
        self._on_inputs(module, function, lambda value: value.ndim == dims and value.shape[-1] == model.width)

    def _on_inputs(self, module: nn.Module, function: Any, chosen: Callable[[torch.Tensor], bool]) -> None:
        def moved(value: Any) -> Any:
            there = isinstance(value, torch.Tensor) and value.is_floating_point() and chosen(value)
            return function.apply(value, self.group) if there else value

        module.register_forward_pre_hook(
            lambda module, args, kwargs: (tuple(map(moved, args)), {k: moved(v) for k, v in kwargs.items()}),
            with_kwargs=True,
        )

    def _leave(self, module: nn.Module) -> None:
        function: Any = ScatterSequence if self.sequence else Leave
        if getattr(module, "bias", None) is None:
            module.register_forward_hook(lambda module, inputs, output: function.apply(output, self.group))
            return
        transposed = outputs(module, "weight") == 1
        if type(module) is not nn.Linear and not transposed:
            raise UnsuitableError(f"a {type(module).__name__} with a bias cannot be divided by its inputs")

        # Added once, to the sum over the ranks; of divided tokens each rank has a partial sum of its gradient.
        def forward(x: torch.Tensor) -> torch.Tensor:
            weight: Any = module.weight
            out = function.apply(nn.functional.linear(x, weight.T if transposed else weight), self.group)
            bias = Enter.apply(module.bias, self.group) if self.sequence else module.bias
            return out + bias.to(out.dtype)  # type: ignore[no-any-return]

        module.forward = forward


def outputs(module: nn.Module, name: str) -> int:
    """The dimension of a module's weight or bias that counts outputs: the last one of embeddings, and of layers that
    keep their weight transposed, as GPT-2's Conv1D."""
    last = isinstance(module, nn.Embedding) or type(module).__name__ == "Conv1D"
    return 1 if name == "weight" and last else 0
