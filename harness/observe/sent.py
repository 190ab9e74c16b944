"""What one step sends to other ranks, by collective."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from .telling import complain

SHARES: dict[str, Callable[[int], float]] = {
    "send": lambda world: 1.0,
    # Each of the others receives it once, whoever passes it on: shared by all ranks, of which each is the root in turn.
    "broadcast": lambda world: (world - 1) / world,
    "all_reduce": lambda world: 2.0 * (world - 1) / world,
    "all_gather": lambda world: float(world - 1),
    "reduce_scatter": lambda world: (world - 1) / world,
    "all_to_all": lambda world: (world - 1) / world,
}
"""Share of its input that a rank sends in each collective, with the algorithms that send least."""

NAMES = {
    "send": "send",
    "broadcast_": "broadcast",
    "broadcast": "broadcast",
    "allreduce_": "all_reduce",
    "allreduce_coalesced_": "all_reduce",
    "all_reduce": "all_reduce",
    "all_reduce_coalesced": "all_reduce",
    "allgather_": "all_gather",
    "_allgather_base_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "all_gather_into_tensor_coalesced": "all_gather",
    "reduce_scatter_": "reduce_scatter",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
    "reduce_scatter_tensor_coalesced": "reduce_scatter",
    "alltoall_base_": "all_to_all",
    "all_to_all_single": "all_to_all",
}
"""Operator -> name of the collective in records; functional collectives too."""

_OUTPUT_FIRST = {name for name in NAMES if NAMES[name] in ("all_gather", "reduce_scatter", "all_to_all")} - {
    "all_gather_into_tensor",
    "all_gather_into_tensor_coalesced",
    "reduce_scatter_tensor",
    "reduce_scatter_tensor_coalesced",
    "all_to_all_single",
}
"""Operators that take what they fill before what they send; functional ones fill nothing."""


def can_be_watched() -> bool:
    """Whether there are others, and nothing was compiled, which a mode would undo."""
    dist, dynamo = sys.modules.get("torch.distributed"), sys.modules.get("torch._dynamo.utils")
    counters = getattr(dynamo, "counters", {})
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    if _get_current_dispatch_mode() is not None:  # the script's own would be left in the place of ours
        return False
    several = dist is not None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return several and not counters.get("stats", {}).get("unique_graphs")


class Sent:
    """Sees every collective between `__enter__` and `leave`."""

    def __init__(self) -> None:
        from torch.utils._python_dispatch import TorchDispatchMode

        seen: dict[str, list[int]] = {}

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if func.namespace in ("c10d", "_c10d_functional"):
                    try:
                        note(seen, func._schema.name.rpartition("::")[2], args)
                    except Exception:
                        complain()
                return func(*args, **(kwargs or {}))

        self._seen, self._mode = seen, Mode()

    def __enter__(self) -> None:
        self._mode.__enter__()

    def leave(self) -> bool:
        """No longer watch; False if the script has a mode of its own around now, which must end first: ours stays."""
        from torch.utils._python_dispatch import _get_current_dispatch_mode

        if _get_current_dispatch_mode() is not self._mode:
            return False
        self._mode.__exit__(None, None, None)
        return True

    def columns(self) -> dict[str, Any]:
        """As the columns of trials are called; `comm_by_collective` is JSON: name -> [bytes this rank sent, calls]."""
        return {
            "comm_by_collective": json.dumps(self._seen),
            "comm_bytes_per_step": sum(size for size, _ in self._seen.values()),
            "comm_calls_per_step": sum(calls for _, calls in self._seen.values()),
        }


def _group_size(arguments: list[Any]) -> int:
    """Of the group that a collective is called with: as an object, or by its name as functional ones are."""
    torch, dist = sys.modules["torch"], sys.modules["torch.distributed"]
    for each in arguments:
        if isinstance(each, torch.ScriptObject):
            return int(dist.ProcessGroup.unbox(each).size())
    # The name is the last text: a reduction's kind comes before it.
    name = next((each for each in reversed(arguments) if isinstance(each, str)), None)
    group = None if name is None else dist.distributed_c10d._resolve_process_group(name)
    return int(dist.get_world_size(group))


def note(seen: dict[str, list[int]], name: str, args: Any) -> None:
    """Add what a rank sends in one call.

    Args:
        seen: name of a collective -> [bytes, calls].
        name: of the operator, without its namespace.
        args: what it is called with.
    """
    if name not in NAMES:
        return
    torch = sys.modules["torch"]
    leaves = torch.utils._pytree.tree_leaves
    world = _group_size(leaves(args))
    source = args[1] if name in _OUTPUT_FIRST else args[0]
    size = sum(t.numel() * t.element_size() for t in leaves(source) if isinstance(t, torch.Tensor))
    entry = seen.setdefault(NAMES[name], [0, 0])
    entry[0] += int(size * SHARES[NAMES[name]](world))
    entry[1] += 1
