"""The engine of trainings whose gradients stay where autograd leaves them, in `.grad` of each parameter."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

import torch
from torch import nn

from strategies.engine import (
    Engine,
    State,
    decay_groups,
    global_norm,
    local,
    multiply,
    optimizer_state,
    set_lr,
    stored,
    take_step,
)

if TYPE_CHECKING:
    from strategies.training import Training


class ParameterEngine(Engine):
    """Gradients in `.grad` of each parameter: one process, DDP, ZeroRedundancyOptimizer, FSDP2.

    Args:
        training: after its parts were wrapped.
        sharded: whether each data-parallel rank holds another piece of each gradient (FSDP2's DTensors).
        optimizer: made over the parameters if not given.
    """

    def __init__(
        self, training: Training, *, sharded: bool = False, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        self.training = training
        named = training.trained()
        self.names, self.parameters = [name for name, _ in named], [p for _, p in named]
        self.shares = [training.share(name, sharded=sharded) for name, _ in named]
        self.replicated = all(share == 1.0 / training.facts.world_size for share in self.shares)
        master = training.master_weights and not sharded
        self.masters = [nn.Parameter(p.detach().float()) for p in self.parameters] if master else self.parameters
        self.optimizer = optimizer or training.make_optimizer(
            decay_groups((training.weight_decay(name), m) for (name, _), m in zip(named, self.masters, strict=True))
        )

    def set_lr(self, lr: float) -> None:
        set_lr(self.optimizer, lr)

    def finish_gradients(self) -> None:
        if self.masters is not self.parameters:
            for master, p in zip(self.masters, self.parameters, strict=True):
                master.grad = None if p.grad is None else p.grad.float()
                p.grad = None

    def _gradients(self) -> list[tuple[torch.Tensor, float]]:
        pairs = zip(self.masters, self.shares, strict=True)
        return [(local(p.grad), share) for p, share in pairs if p.grad is not None and local(p.grad).numel()]

    def gradients_of(self, names: Set[str]) -> list[torch.Tensor]:
        pairs = zip(self.names, self.masters, strict=True)
        gradients = {self.training.whole_name(name): p.grad for name, p in pairs}
        return [local(grad) for name, grad in sorted(gradients.items()) if name in names and grad is not None]

    def norm(self) -> torch.Tensor:
        return global_norm(self._gradients(), self.training.device, reduce=not self.replicated)

    def scale(self, factor: float | torch.Tensor) -> None:
        gradients = [grad for grad, _ in self._gradients()]
        if gradients and not (isinstance(factor, float) and factor == 1.0):
            multiply(gradients, factor)

    def step(self, skip: torch.Tensor | None = None) -> None:
        take_step(self.optimizer, skip)
        if self.masters is not self.parameters:
            with torch.no_grad():
                for master, p in zip(self.masters, self.parameters, strict=True):
                    p.copy_(master)

    def zero_gradients(self) -> None:
        for p in self.masters:
            p.grad = None

    def state(self) -> State:
        masters = [] if self.masters is self.parameters else self.masters
        return State(
            params=stored(p for _, p in self.training.named_parameters()),
            grads=stored(grad for grad, _ in self._gradients()),
            optimizer=[*stored(masters), *optimizer_state(self.optimizer)],
        )
