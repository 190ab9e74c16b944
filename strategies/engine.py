"""What a data-parallel strategy leaves behind: where the gradients are, how they are summed, who updates what."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

NORM_LENGTH = 1 << 16
"""Longest piece whose norm is taken at once on a CPU, in elements."""


@dataclass(frozen=True)
class State:
    """The tensors of training state that a rank holds, quantised ones as what they are stored in."""

    params: list[torch.Tensor]
    grads: list[torch.Tensor]
    optimizer: list[torch.Tensor]
    """Moments, step counters, master weights."""


class Engine(ABC):
    """Gradients and optimizer of one rank."""

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """Entered around the forward and backward pass of each micro-batch of a step without a pipeline."""
        return contextlib.nullcontext()

    @abstractmethod
    def set_lr(self, lr: float) -> None:
        """Learning rate of the coming update."""

    @abstractmethod
    def finish_gradients(self) -> None:
        """Wait until every gradient is summed over the data-parallel ranks."""

    @abstractmethod
    def gradients_of(self, names: Set[str]) -> list[torch.Tensor]:
        """This rank's pieces of the gradients of parameters by their first names, in the order of the names; each is
        there between `finish_gradients` and `zero_gradients`, and may be changed in place."""

    @abstractmethod
    def norm(self) -> torch.Tensor:
        """Norm of the mean gradient over all ranks and parameters, a scalar that is equal on every rank."""

    @abstractmethod
    def scale(self, factor: float | torch.Tensor) -> None:
        """Multiply the gradients; called once between `norm` and `step`."""

    @abstractmethod
    def step(self, skip: torch.Tensor | None = None) -> None:
        """Update the parameters.

        Args:
            skip: a scalar that is 1.0 if a gradient overflowed, and nothing may change, and 0.0 if not.
        """

    @abstractmethod
    def zero_gradients(self) -> None:
        """Forget the gradients of this step."""

    def drain(self) -> None:  # noqa: B027 - only engines with communication in flight have something to do
        """Wait for whatever is still under way, so that the ranks can end together."""

    @abstractmethod
    def state(self) -> State:
        """What this rank holds; gradients are there between `finish_gradients` and `zero_gradients`."""


def clean(name: str) -> str:
    """A parameter's name without what DistributedDataParallel puts before it."""
    return name.removeprefix("module.")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's piece of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def decay_groups(items: Iterable[tuple[float, nn.Parameter]]) -> list[dict[str, object]]:
    """Parameter groups, one for each weight decay."""
    groups: dict[float, list[nn.Parameter]] = {}
    for decay, parameter in items:
        groups.setdefault(decay, []).append(parameter)
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Change the learning rate of every group, in place where the optimizer keeps it in a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def global_norm(gradients: list[tuple[torch.Tensor, float]], device: torch.device, *, reduce: bool) -> torch.Tensor:
    """Square root of the sum of squares over all ranks.

    Each gradient's square is weighted by the share that keeps replicas from being counted twice, so one sum over
    the whole world serves every combination of data, tensor and pipeline parallelism.

    Args:
        gradients: (this rank's piece, its share).
        device: that of this rank.
        reduce: False if every rank already holds every gradient.
    """
    total = torch.zeros((), device=device)
    for weight in sorted({share for _, share in gradients}):
        pieces = [grad for grad, share in gradients if share == weight]
        if device.type == "cpu":
            # There the norm of one long fp32 tensor adds up its squares one by one and loses digits.
            pieces = [part for grad in pieces for part in grad.reshape(-1).split(NORM_LENGTH)]
        norms = torch._foreach_norm(pieces, 2, dtype=torch.float32)
        total += torch.stack(norms).square().sum() * (weight if reduce else 1.0)
    if reduce:
        dist.all_reduce(total)
    return total.sqrt()


def take_step(optimizer: torch.optim.Optimizer, skip: torch.Tensor | None) -> None:
    """Have an optimizer update its parameters, unless `skip` is 1.0; its kernel looks, if it is one that can.

    The others are asked here, which has the host wait until a device has caught up.
    """
    inner = getattr(optimizer, "optim", optimizer)  # of a ZeroRedundancyOptimizer
    if isinstance(inner, torch.optim.AdamW) and all(group["fused"] for group in inner.param_groups):
        inner.found_inf = skip  # type: ignore[attr-defined]  # as torch.amp.GradScaler tells fused optimizers
    elif skip is not None and skip.item():
        return
    optimizer.step()


def multiply(tensors: list[torch.Tensor], factor: float | torch.Tensor) -> None:
    """Multiply tensors in place; a factor on a device in each one's format, or there were a kernel for each of them."""
    if isinstance(factor, float):
        torch._foreach_mul_(tensors, factor)
        return
    for dtype in {tensor.dtype for tensor in tensors}:
        torch._foreach_mul_([tensor for tensor in tensors if tensor.dtype == dtype], factor.to(dtype))


def size(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of this rank's pieces, quantised ones counted as they are stored."""
    return sum(t.numel() * t.element_size() for t in stored(tensors))


def stored(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The plain tensors of this rank that hold these: pieces of distributed ones, parts of quantised ones."""
    return [part for tensor in tensors for part in _parts(local(tensor.detach()))]


def optimizer_state(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The tensors an optimizer keeps from step to step."""
    inner = getattr(optimizer, "optim", optimizer)
    return stored(v for state in inner.state.values() for v in state.values() if isinstance(v, torch.Tensor))


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    if hasattr(tensor, "__tensor_flatten__") and type(tensor) is not torch.Tensor:
        names, _ = tensor.__tensor_flatten__()
        return [part for name in names for part in _parts(getattr(tensor, name))]
    return [tensor]
