"""Watching one step from inside: bytes alive beside the training state, and bytes sent to other ranks."""

from __future__ import annotations

import weakref
from typing import Any

import torch
import torch.distributed as dist
import torch.utils._pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_SENT = {
    "send": lambda world: 1.0,
    "broadcast_": lambda world: 1.0,
    "allreduce_": lambda world: 2.0 * (world - 1) / world,
    "allreduce_coalesced_": lambda world: 2.0 * (world - 1) / world,
    "allgather_": lambda world: float(world - 1),
    "_allgather_base_": lambda world: float(world - 1),
    "allgather_into_tensor_coalesced_": lambda world: float(world - 1),
    "reduce_scatter_": lambda world: (world - 1) / world,
    "_reduce_scatter_base_": lambda world: (world - 1) / world,
    "reduce_scatter_tensor_coalesced_": lambda world: (world - 1) / world,
}
"""Share of its input that a rank sends in each collective, with the algorithms that send least."""


class Observer(TorchDispatchMode):
    """Sees every operator and every collective of the code it surrounds."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_bytes = 0.0
        """Bytes this rank sent."""
        self._known: set[int] = set()
        self._alive: dict[int, int] = {}
        self._log: list[tuple[int, int]] = []
        self._count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self._communicated(func._schema.name.rpartition("::")[2], args)
        out = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._created(tensor)
        return out

    def know(self, tensors: Any) -> None:
        """Leave the storages of these tensors out: they are parameters, gradients or optimizer state."""
        for tensor in tensors:
            self._known.add(tensor.untyped_storage()._cdata)

    def peak_bytes(self) -> int:
        """Highest sum of bytes that came to life here and did not outlive it; what outlives a pass is gradients."""
        alive = highest = 0
        for number, size in self._log:
            if number not in self._alive:
                alive += size
                highest = max(highest, alive)
        return highest

    def _created(self, tensor: torch.Tensor) -> None:
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # wrapper subclasses have none; what they hold is seen on its own
            return
        key = storage._cdata
        if key in self._known or tensor.device.type == "meta":
            return
        number, size = self._count, storage.nbytes()
        self._count += 1
        self._known.add(key)
        self._alive[number] = size
        self._log.append((number, size))
        weakref.finalize(storage, self._freed, key, number, size)

    def _freed(self, key: int, number: int, size: int) -> None:
        self._known.discard(key)
        self._alive.pop(number, None)
        self._log.append((number, -size))

    def _communicated(self, name: str, args: Any) -> None:
        share = _SENT.get(name)
        if share is None:
            return
        group = next((a for a in pytree.tree_leaves(args) if isinstance(a, torch.ScriptObject)), None)
        world = dist.ProcessGroup.unbox(group).size() if group is not None else dist.get_world_size()
        source = (
            args[1]
            if name in ("_allgather_base_", "_reduce_scatter_base_", "allgather_", "reduce_scatter_")
            else args[0]
        )
        size = sum(t.numel() * t.element_size() for t in pytree.tree_leaves(source) if isinstance(t, torch.Tensor))
        self.sent_bytes += size * share(world)
