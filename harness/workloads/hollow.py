"""Models whose parameters have shapes and no content, and whose buffers have both."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


@contextlib.contextmanager
def parameters() -> Iterator[None]:
    """What is built meanwhile has its parameters on the meta device, and everything else on the CPU.

    A parameter's memory is given back before anything was written to it. What a constructor computes besides, such as
    a table of rotations or the statistics of a norm, has its value, which building on the meta device would lose.
    """
    register = nn.Module.register_parameter

    def hollow(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = hollow  # type: ignore[method-assign, assignment]
    try:
        with torch.device("cpu"):
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@contextlib.contextmanager
def one_sequence(names: Collection[str]) -> Iterator[None]:
    """Positions that models of transformers count themselves are those of one sequence, which no tensor without content
    says: they would make a mask, and with it attention that no training uses.

    Args:
        names: of a batch; one with positions may hold several sequences in a row.
    """
    masks: Any = sys.modules.get("transformers.masking_utils")
    if masks is None or "position_ids" in names:
        yield
        return
    real = masks.find_packed_sequence_indices
    masks.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masks.find_packed_sequence_indices = real


class Grouped(TorchDispatchMode):
    """Gives grouped products of fake tensors in fp32 their shape: torch's own rule knows those in bf16 alone, though a
    CPU computes both."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.ops.aten._grouped_mm.default or args[0].dtype is torch.bfloat16:
            return func(*args, **kwargs)
        left, right = args[:2]
        groups = args[2] if len(args) > 2 else kwargs.get("offs")
        rows, columns = left.shape[-2], right.shape[-1]
        if left.ndim == right.ndim == 2:
            return left.new_empty(len(groups), rows, columns)
        return left.new_empty(*(left.shape[:-2] if right.ndim == 3 else ()), rows, columns)
