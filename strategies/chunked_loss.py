"""The output projection and the loss for some tokens at a time, so that the logits of all are never there at once.

Where a vocabulary is large, logits `[tokens, vocabulary]`, their softmax and their gradient are the largest tensors of
a step. Here each chunk of tokens has its logits made, its loss taken and its gradients computed, before the next one
begins; what is kept are the gradients of what went into the projection, and of its weight (Hsu et al. 2024, "Liger
Kernel", arXiv:2410.10989). Nothing is computed twice, and nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from strategies.base import Slot, Strategy
from strategies.facts import Facts
from strategies.knob import Choice, Knob, Setting, Settings
from strategies.precision import AUTOCAST
from strategies.training import holds

if TYPE_CHECKING:
    from strategies.training import Batch, Loss, Training, Weighed

LARGE = 4096
"""Rows of a vocabulary from which chunks are searched: below it logits are small beside everything else."""


class ChunkedLoss(Strategy):
    """Logits of some tokens at a time; also where tensor parallelism divides the vocabulary."""

    name = "chunked_loss"
    slot = Slot.LOSS
    summary = "logits and loss of some tokens at a time"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Choice(
            name="loss_chunks",
            default=1,
            values=(1, 4, 8),
            implied=True,
            doc="pieces of a micro-batch's tokens whose logits are computed one after another",
            unit="chunks",
        ),
    )

    def active(self, plan: Settings) -> bool:
        return plan.get("loss_chunks", 1) != 1

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"loss_chunks": 4}] if len(self.searched(self.knobs[0], facts)) > 1 else []  # type: ignore[arg-type]

    def searched(self, knob: Choice, facts: Facts) -> tuple[Setting, ...]:
        large = facts.model.head and facts.model.vocab_size >= LARGE
        return tuple(chunks for chunks in knob.values if chunks == 1 or (large and int(chunks) <= facts.seq_len))

    def check(self, plan: Settings, facts: Facts) -> str | None:
        if not facts.model.head:
            return (
                f"loss_chunks needs a model that returns what a linear layer makes of each token, and a loss of each; "
                f"{facts.workload} is none"
            )
        if int(plan["loss_chunks"]) > facts.seq_len:
            return f"loss_chunks={plan['loss_chunks']} needs as many tokens, but a sample has {facts.seq_len}"
        return None

    def apply(self, training: Training) -> None:
        name = training.facts.model.head
        for part in training.parts:
            if holds(part, name):
                head = part.get_submodule(name)
                head.forward = _passed
                training.loss = _InChunks(training, head, training.loss)
                training.outputs = training.facts.model.stream


def _passed(hidden_BLD: torch.Tensor) -> torch.Tensor:
    return hidden_BLD


@dataclass
class _InChunks:
    """A loss of what goes into the output projection, in place of one of what comes out of it."""

    training: Training
    head: nn.Module
    """The projection, whose weight is there when a step runs."""
    loss: Loss
    """That of the logits."""

    def __call__(self, hidden_BLD: torch.Tensor, batch: Batch) -> Weighed:
        counts: list[torch.Tensor | float] = []
        total = _Chunked.apply(hidden_BLD, self.head.weight, self.head.bias, self, batch, counts)
        return total, sum(counts)

    def pieces(self, hidden_BLD: torch.Tensor, batch: Batch) -> Iterator[tuple[slice, Batch]]:
        """(tokens of each sample, what the batch has of them)."""
        length, chunks = hidden_BLD.shape[1], int(self.training.plan["loss_chunks"])
        for number in range(chunks):
            some = slice(number * length // chunks, (number + 1) * length // chunks)
            yield some, {n: t[:, some] if t.ndim > 1 and t.shape[1] == length else t for n, t in batch.items()}

    def dtype(self, hidden_BLD: torch.Tensor) -> torch.dtype:
        """In which the projection multiplies: the loss runs outside of the model, and so of its autocast."""
        return AUTOCAST.get(str(self.training.plan["precision"]), hidden_BLD.dtype)


class _Chunked(torch.autograd.Function):
    """The sum of the losses of all tokens; all gradients are computed forward, and scaled backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_BLD: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        how: _InChunks,
        batch: Batch,
        counts: list[torch.Tensor | float],
    ) -> torch.Tensor:
        low = how.dtype(hidden_BLD)
        seed, weight, bias = how.training.seed, weight_VD.to(low), None if bias_V is None else bias_V.to(low)
        of_hidden = torch.empty_like(hidden_BLD)
        # Sums over chunks are taken in fp32, as a product over all tokens takes its sum.
        of_weight, of_bias = (
            torch.zeros_like(p, dtype=torch.float32) if needed and p is not None else None
            for p, needed in zip((weight_VD, bias_V), ctx.needs_input_grad[1:3], strict=True)
        )

        def one(some: slice, its: Batch) -> torch.Tensor:
            hidden = hidden_BLD[:, some].to(low)
            logits = F.linear(hidden, weight, bias).requires_grad_()
            with torch.enable_grad():
                total, count = how.loss(logits, its)
                (grad,) = torch.autograd.grad(total * seed, logits)
            counts.append(count)
            of_hidden[:, some] = grad @ weight
            grad_NV, hidden_ND = grad.flatten(0, 1), hidden.flatten(0, 1)
            if of_weight is not None:
                if low is torch.float32:
                    of_weight.addmm_(grad_NV.T, hidden_ND)
                else:
                    of_weight.add_(grad_NV.T @ hidden_ND)
            if of_bias is not None:
                of_bias.add_(grad_NV.sum(0, dtype=torch.float32))
            return total.detach()

        # Each chunk's tensors are gone when the next begins.
        total = torch.stack([one(*piece) for piece in how.pieces(hidden_BLD, batch)]).sum()
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        ctx.seed, ctx.dtypes = seed, [None if p is None else p.dtype for p in (hidden_BLD, weight_VD, bias_V)]
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scale = grad / ctx.seed
        # In place: a weight of a large vocabulary is not to be there once more, and a graph is walked once.
        scaled = [
            None if saved is None else saved.mul_(scale).to(dtype)
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None, None)
