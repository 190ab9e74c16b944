"""Models whose parameters have shapes and no content, and whose buffers have both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


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
