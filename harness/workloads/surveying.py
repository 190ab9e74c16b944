"""What one pass with tensors that have no content tells of a model that nobody described."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found."""

    parameters: int
    """Number of parameters, tied ones counted once."""
    tied: bool
    """Whether a parameter has several names."""
    blocks: tuple[str, ...]
    """Names of the repeated blocks."""
    unused: tuple[str, ...]
    """Parameters that have no part in the loss; they are frozen, or no rank would know when gradients are whole."""
    flops: float
    """Of one sample, forward and backward."""
    block_flops: float
    """Of the forward pass of the first block for one sample; 0 without blocks."""


def look(
    make: Callable[[], nn.Module],
    loss: Callable[[torch.Tensor, Mapping[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor | float]],
    batch: Mapping[str, torch.Tensor],
    pattern: str | None,
) -> tuple[tuple[str, ...], Survey]:
    """Names of what the model is called with, and what one pass over one sample tells.

    Args:
        make: makes the model.
        loss: (outputs, batch) -> (sum, number).
        batch: some samples.
        pattern: of the names of the blocks; None: they are looked for.

    Raises:
        InputError: the model cannot be trained so that plans can be compared, or something returns a wrong type.
    """
    with torch.device("meta"):
        shapes = make()
    batch_norm = [n for n, m in shapes.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if batch_norm:
        raise InputError(
            f"{batch_norm[0]} normalises over its micro-batch, so that plans with other micro-batches train something "
            "else; use GroupNorm or LayerNorm"
        )
    inputs = _inputs(shapes, batch)
    blocks = _matching(shapes, pattern) if pattern else _lists(shapes)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        model = make().train()
        without_dropout(model)
        one = {name: torch.empty((1, *t.shape[1:]), dtype=t.dtype) for name, t in batch.items()}
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH):  # a CPU's fused attention is not counted
            outputs = model(*(one[name] for name in inputs))
            if not isinstance(outputs, torch.Tensor):
                raise InputError(f"the model must return one tensor, but returned {type(outputs).__name__}")
            forward = counter.get_flop_counts()
            found = loss(outputs, one)
            if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[0], torch.Tensor):
                raise InputError("loss must return (sum over all predictions, their number)")
            if found[0].ndim:
                raise InputError(f"loss must return the sum as a scalar, but its shape is {list(found[0].shape)}")
            found[0].backward()
    root = type(model).__name__
    by_block = [sum(forward.get(f"{root}.{name}", {}).values()) for name in blocks[:1]]
    named = list(model.named_parameters())
    return inputs, Survey(
        parameters=sum(p.numel() for _, p in named),
        tied=len(named) < len(list(model.named_parameters(remove_duplicate=False))),
        blocks=blocks,
        unused=tuple(name for name, p in named if p.requires_grad and p.grad is None),
        flops=float(counter.get_total_flops()),
        block_flops=float(sum(by_block)),
    )


def without_dropout(model: nn.Module) -> None:
    """Set every dropout of torch's own modules to 0: its masks would be others in each plan."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0


def _inputs(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """The first arguments of forward that the batch has."""
    if set(batch) >= {"x", "y"} and "x" not in inspect.signature(model.forward).parameters:
        return ("x",)  # of (x, y), whatever the model calls it
    parameters = list(inspect.signature(model.forward).parameters)
    first = [name for at, name in enumerate(parameters) if all(p in batch for p in parameters[: at + 1])]
    left = [name for name in parameters if name in batch and name not in first]
    if not first or left:
        raise InputError(
            f"the model's forward takes ({', '.join(parameters)}), of which a batch must hold the first ones by name, "
            f"but it holds {', '.join(batch)}"
        )
    return tuple(first)


def _matching(model: nn.Module, pattern: str) -> tuple[str, ...]:
    depth = pattern.count(".")
    names = [name for name, _ in model.named_modules() if name.count(".") == depth]
    found = tuple(name for name in names if fnmatch.fnmatchcase(name, pattern))
    if not found:
        raise InputError(f"blocks={pattern!r} matches no module of the model")
    return found


def _lists(model: nn.Module) -> tuple[str, ...]:
    """The children of those lists of modules of one class that hold at least a quarter of what the largest one holds,
    so that an encoder and a decoder both count."""
    held: dict[str, int] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in held)
        kinds = {type(child) for child in module.children()}
        if isinstance(module, nn.ModuleList | nn.ModuleDict) and len(module) > 1 and len(kinds) == 1 and not inside:
            held[name] = sum(p.numel() for p in module.parameters())
    most = max(held.values(), default=0)
    chosen = [name for name, size in held.items() if size and size * 4 >= most]
    return tuple(f"{name}.{child}" for name in chosen for child, _ in model.get_submodule(name).named_children())
