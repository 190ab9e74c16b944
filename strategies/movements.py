"""How activations move between tensor-parallel ranks, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from strategies.collectives import all_gather, all_reduced, reduce_scatter


class Enter(torch.autograd.Function):
    """Copy forward, all-reduce backward (Megatron's f)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return all_reduced(grad.contiguous(), ctx.group), None


class Leave(torch.autograd.Function):
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


class GatherSequence(torch.autograd.Function):
    """Gather the sequence forward, reduce-scatter it backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _gather(x, group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _scatter_sum(grad.contiguous(), ctx.group), None


class ScatterSequence(torch.autograd.Function):
    """Reduce-scatter the sequence forward, gather it backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _scatter_sum(x, group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _gather(grad.contiguous(), ctx.group), None


class KeepShare(torch.autograd.Function):
    """Keep this rank's share of the sequence forward, gather backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return x.chunk(dist.get_world_size(group), dim=1)[dist.get_rank(group)].clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _gather(grad.contiguous(), ctx.group), None
