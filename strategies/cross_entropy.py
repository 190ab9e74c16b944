"""Losses that stay what they are when tensor parallelism divides the vocabulary, each a sum over predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from strategies.collectives import all_reduced

IGNORED = -100
"""Target of a place where nothing is to be predicted, as everywhere in torch."""


@dataclass(frozen=True)
class Divided:
    """How the last dimension of logits is divided over ranks."""

    first: int
    """Number of the first row of this rank's share."""
    rows: int
    """Rows of all shares together."""
    group: dist.ProcessGroup
    """The ranks that hold the shares."""


_divided: ContextVar[Divided | None] = ContextVar("divided", default=None)


@contextlib.contextmanager
def divided_vocabulary(how: Divided) -> Iterator[None]:
    """While it is entered, `cross_entropy` takes its logits for this rank's share of a vocabulary."""
    token = _divided.set(how)
    try:
        yield
    finally:
        _divided.reset(token)


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, *, ignored: int = IGNORED, smoothing: float = 0.0
) -> torch.Tensor:
    """Sum of the cross entropy over all predictions, in fp32.

    Args:
        logits: `[..., classes]`; this rank's share of the classes where tensor parallelism divides them.
        targets: `[...]`, numbers of classes.
        ignored: target of places that do not count.
        smoothing: share of each target that is spread over all classes (Szegedy et al. 2016, arXiv:1512.00567).
    """
    logits_NV, targets_N = logits.flatten(0, -2).float(), targets.flatten()
    how = _divided.get()
    if how is None:
        return F.cross_entropy(logits_NV, targets_N, reduction="sum", ignore_index=ignored, label_smoothing=smoothing)
    loss: Callable[..., torch.Tensor] = _VocabParallelCrossEntropy.apply
    return loss(logits_NV, targets_N, how, ignored, smoothing)


def predictions(targets: torch.Tensor, ignored: int = IGNORED) -> torch.Tensor:
    """How many of the targets count, a scalar in fp32."""
    return (targets != ignored).sum().float()


class _VocabParallelCrossEntropy(torch.autograd.Function):
    """The sum where the vocabulary is divided; no rank ever sees all logits."""

    @staticmethod
    def forward(
        ctx: Any, logits_NV: torch.Tensor, targets_N: torch.Tensor, how: Divided, ignored: int, smoothing: float
    ) -> torch.Tensor:
        highest_N = logits_NV.max(dim=-1).values
        dist.all_reduce(highest_N, op=dist.ReduceOp.MAX, group=how.group)
        shifted_NV = logits_NV - highest_N.unsqueeze(-1)
        here_N = (targets_N >= how.first) & (targets_N < how.first + logits_NV.shape[-1])
        index_N = (targets_N - how.first).masked_fill(~here_N, 0)
        target_N = shifted_NV.gather(-1, index_N.unsqueeze(-1)).squeeze(-1)
        sums = [target_N.masked_fill(~here_N, 0.0), *([shifted_NV.sum(-1)] if smoothing else [])]
        exp_NV = shifted_NV.exp_()
        all_N = all_reduced(torch.stack([exp_NV.sum(-1), *sums]), how.group)
        counts_N = targets_N != ignored
        loss_N = all_N[0].log() - (1 - smoothing) * all_N[1]
        if smoothing:
            loss_N -= smoothing / how.rows * all_N[2]
        ctx.save_for_backward(exp_NV.div_(all_N[0].unsqueeze(-1)), here_N, index_N, counts_N)
        ctx.smoothing, ctx.rows = smoothing, how.rows
        return loss_N.masked_fill(~counts_N, 0.0).sum()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        softmax_NV, here_N, index_N, counts_N = ctx.saved_tensors
        grad_NV = softmax_NV - ctx.smoothing / ctx.rows if ctx.smoothing else softmax_NV.clone()
        target_N = -(1 - ctx.smoothing) * here_N.to(grad_NV.dtype)
        grad_NV.scatter_add_(-1, index_N.unsqueeze(-1), target_N.unsqueeze(-1))
        return grad_NV.mul_((grad * counts_N).unsqueeze(-1)), None, None, None, None
