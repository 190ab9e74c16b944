"""Collectives chosen by backend, in one place.

Gloo's own reduce-scatter and all-gather are several times slower than exchanging the chunks point to point (see
benchmarks/README.md), so on gloo they are written with isend and irecv; elsewhere the native collectives serve.
Every operation starts at once and returns a `Pending`; distinct tags keep operations apart that ranks start in
different orders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

# Their names until torch 2.12.
_all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Pending:
    """An operation under way. `wait` ends it, once; later calls return the same result.

    Args:
        works: what to wait for.
        finish: computes the result after the waiting.
    """

    def __init__(self, works: list[Any], finish: Callable[[], torch.Tensor]) -> None:
        self._works, self._finish = works, finish
        self._result: torch.Tensor | None = None

    def wait(self) -> torch.Tensor:
        """Block until done (on a GPU: until the current stream may use the result) and return the result."""
        if self._result is None:
            for work in self._works:
                work.wait()
            self._result = self._finish()
            self._works.clear()
        return self._result


def exchanges_chunks(group: dist.ProcessGroup) -> bool:
    """Whether collectives of this group are written point to point."""
    return bool(dist.get_backend(group) == "gloo")


def reduce_scatter(buffer: torch.Tensor, group: dist.ProcessGroup, tag: int = 0) -> Pending:
    """Sum `buffer` over the ranks of `group` and keep this rank's chunk.

    Args:
        buffer: flat, contiguous, its length a multiple of the group's size; its content is lost.
        tag: tells concurrent operations of one group apart.

    Returns:
        Pending whose result is a view of `buffer`: chunk number `rank`, summed.
    """
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    chunks = buffer.chunk(world)
    mine = chunks[rank]
    if not exchanges_chunks(group):
        work = _reduce_scatter_single(mine, buffer, group=group, async_op=True)
        return Pending([work], lambda: mine)
    others = [peer for peer in range(world) if peer != rank]
    received = {peer: torch.empty_like(mine) for peer in others}
    works = [dist.irecv(received[peer], group=group, group_src=peer, tag=tag) for peer in others]
    works += [dist.isend(chunks[peer], group=group, group_dst=peer, tag=tag) for peer in others]

    def add() -> torch.Tensor:
        for peer in others:
            mine.add_(received[peer])
        received.clear()
        return mine

    return Pending(works, add)


def all_gather(buffer: torch.Tensor, group: dist.ProcessGroup, tag: int = 0) -> Pending:
    """Fill `buffer` with the chunks of all ranks of `group`, each rank contributing chunk number `rank` in place.

    Args:
        buffer: flat, contiguous, its length a multiple of the group's size.
        tag: tells concurrent operations of one group apart.

    Returns:
        Pending whose result is `buffer`.
    """
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    chunks = buffer.chunk(world)
    if not exchanges_chunks(group):
        work = _all_gather_single(buffer, chunks[rank], group=group, async_op=True)
        return Pending([work], lambda: buffer)
    others = [peer for peer in range(world) if peer != rank]
    works = [dist.irecv(chunks[peer], group=group, group_src=peer, tag=tag) for peer in others]
    works += [dist.isend(chunks[rank], group=group, group_dst=peer, tag=tag) for peer in others]
    return Pending(works, lambda: buffer)


def all_reduced(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The sum of `tensor` over the ranks of `group`, as a new tensor; `tensor` stays what it was.

    Between two ranks on gloo each sends everything and adds: one round trip instead of two, and since a + b = b + a
    both hold the same bits.

    Args:
        tensor: contiguous.
    """
    if dist.get_world_size(group) != 2 or not exchanges_chunks(group):
        total = tensor.clone()
        dist.all_reduce(total, group=group)
        return total
    peer = 1 - dist.get_rank(group)
    received = torch.empty_like(tensor)
    works: list[Any] = [
        dist.irecv(received, group=group, group_src=peer),
        dist.isend(tensor, group=group, group_dst=peer),
    ]
    return Pending(works, lambda: received.add_(tensor)).wait()
