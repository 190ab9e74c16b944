"""Stages of a pipeline, cut out of any model whose blocks stand in a row.

The model's own forward runs on every stage, with the inputs that the first one gets: of them it makes the masks and
positions that its blocks need, whatever they are. On a later stage the stem makes zeros, the blocks of earlier stages
let them pass, and the first block of its own gets the stream that the stage before has sent. Where the first block of
the next stage would begin, a stage ends. A model whose author says how it is cut (`Stages`) is run by that instead.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from strategies.facts import ModelFacts

BROUGHT = "brought_stages"
"""Attribute of a model that brings `Stages`."""


@dataclass(frozen=True, kw_only=True)
class Stages:
    """How a model is a row of blocks, said by its author, where its own forward does not show it.

    Run one after another, the three must compute what the model's forward does: a plan that cuts here has to follow
    one process, that runs the model's own, as every plan has.
    """

    begin: Callable[..., torch.Tensor]
    """(model, *inputs) -> the stream `[samples, ...]` that the first block takes."""
    end: Callable[..., torch.Tensor]
    """(model, stream, *inputs) -> the model's outputs."""
    block: Callable[..., torch.Tensor] | None = None
    """(block, stream, *inputs) -> the stream for the next, of the same shape; None: block(stream)."""

    def called(self, block: nn.Module, stream: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """The stream after one block."""
        made: torch.Tensor = block(stream) if self.block is None else self.block(block, stream, *inputs)
        return made


def cut(whole: nn.Module, facts: ModelFacts, names: Sequence[str], *, first: bool, last: bool) -> nn.Module:
    """A model like `whole` with the parameters of the named blocks, of the stem if `first`, of the rest if `last`.

    Its forward takes the stream, unless it is the first, and the inputs of the model as keyword arguments in their
    order; it returns the stream, or the outputs if it is the last.

    Args:
        whole: the model, on the meta device.
        facts: name its stem and its blocks.
        names: of consecutive blocks.
        first: whether they begin the row.
        last: whether they end it.
    """
    # Neither weights, which have no content yet, nor buffers are copied.
    part = copy.deepcopy(whole, {id(tensor): tensor for tensor in itertools.chain(whole.parameters(), whole.buffers())})
    brought: Stages | None = getattr(whole, BROUGHT, None)
    if brought is not None:
        kept = (*names, *(facts.stem if first else ()), *(facts.tail if last else ()))
        _let_go(part, kept)
        part.__class__ = _by_hand(type(part), brought, tuple(names), first=first, last=last)
        return part
    begin, end = facts.blocks.index(names[0]), facts.blocks.index(names[-1]) + 1
    received = _Received(facts.stream)
    for name in facts.blocks[:begin]:
        _hollow(part.get_submodule(name), _passed)
    for name in facts.blocks[end:]:
        _hollow(part.get_submodule(name), _stop)
    if not first:
        for name in facts.stem:
            _hollow(part.get_submodule(name), received.nothing)
        part.get_submodule(names[0]).register_forward_pre_hook(received.put_in, with_kwargs=True)
    if not last:
        for module in _after(part, facts):
            _hollow(module, _stop)
    part.__class__ = _stage_of(type(part), received)
    return part


def _after(part: nn.Module, facts: ModelFacts) -> list[nn.Module]:
    """The modules with parameters that are neither stem nor blocks nor around them."""
    known = (*facts.stem, *facts.blocks)
    return [
        module
        for name, module in part.named_modules()
        if name
        and not any(f"{other}.".startswith(f"{name}.") or name.startswith(f"{other}.") for other in known)
        and next(module.parameters(), None) is not None
    ]


class _Received:
    """The stream that a stage was sent, for as long as its forward pass takes.

    Args:
        shape: of one sample's whole stream.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.stream: torch.Tensor | None = None

    def nothing(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What the stem makes: of the right shape, without memory."""
        assert self.stream is not None
        return self.stream.new_zeros(()).expand(len(self.stream), *self.shape)

    def put_in(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """In place of a block's first argument, however it is passed."""
        if args:
            return (self.stream, *args[1:]), kwargs
        return args, {**kwargs, next(iter(kwargs)): self.stream}


class _Stop(Exception):  # noqa: N818 - the way out of a forward pass, not an error
    """A stage has run its last block."""


def _passed(*args: Any, **kwargs: Any) -> Any:
    return args[0] if args else next(iter(kwargs.values()))


def _stop(*args: Any, **kwargs: Any) -> Any:
    raise _Stop(_passed(*args, **kwargs))


def _hollow(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Take a module's parameters, and let it do something else."""
    _let_go(module, ())
    module.forward = forward


def _let_go(model: nn.Module, kept: Sequence[str]) -> None:
    """Take a model's parameters, but for these and those of these modules."""
    for path, owner in model.named_modules(remove_duplicate=False):
        for name, parameter in list(owner._parameters.items()):
            full = f"{path}.{name}" if path else name
            if any(f"{full}.".startswith(f"{known}.") for known in kept):
                continue
            if parameter is not None:  # some models ask a weight for its number format before they run
                owner.__dict__[name] = torch.empty(0, dtype=parameter.dtype)
            del owner._parameters[name]


def _by_hand(
    kind: type[nn.Module], brought: Stages, names: tuple[str, ...], *, first: bool, last: bool
) -> type[nn.Module]:
    """The class of a stage of a model that brings its own."""

    def forward(self: nn.Module, *stream: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        given = tuple(inputs.values())
        made = brought.begin(self, *given) if first else stream[0]
        for name in names:
            made = brought.called(self.get_submodule(name), made, *given)
        return brought.end(self, made, *given) if last else made.contiguous()

    return type(kind.__name__, (kind,), {"forward": forward})


def _stage_of(kind: Any, received: _Received) -> type[nn.Module]:
    """The class of a stage of such a model."""

    def forward(self: nn.Module, *stream: torch.Tensor, **inputs: torch.Tensor) -> Any:
        received.stream = stream[0] if stream else None
        try:
            return kind.forward(self, *inputs.values())
        except _Stop as stop:
            return stop.args[0].contiguous()
        finally:
            received.stream = None

    return type(kind.__name__, (kind,), {"forward": forward})
