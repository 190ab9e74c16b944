"""Whether a model's blocks stand in a row, so that a pipeline can cut it: found by watching one pass of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.errors import InputError
from strategies.dropout import one_sample
from strategies.facts import ModelFacts
from strategies.stages import BROUGHT, Stages, cut


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a pipeline must know, or why there can be none."""

    stem: tuple[str, ...] = ()
    """Names of the modules that run before the first block."""
    stream: tuple[int, ...] = ()
    """Shape of one sample's stream between blocks."""
    outputs: tuple[int, ...] = ()
    """Shape of what the model returns for one sample."""
    tail: tuple[str, ...] = ()
    """Parameters that the last stage holds, where the author said how the model is cut; `stem` has the first's then."""
    against: str = ""
    """Why it cannot be cut, the second half of a sentence; "" if it can."""

    @property
    def before(self) -> tuple[str, ...]:
        """Modules whose work is the first stage's."""
        if not self.tail:
            return self.stem
        owners = dict.fromkeys(name.rpartition(".")[0] for name in self.stem if name not in self.tail)
        return tuple(owner for owner in owners if owner)


def find(model: nn.Module, given: Sequence[torch.Tensor], blocks: tuple[str, ...], unused: Collection[str] = ()) -> Row:
    """Watch a pass, and then have stages of the model run alone; or the functions that a model brings.

    Args:
        model: its parameters are fake tensors, and the mode is entered.
        given: one sample of each of its inputs.
        blocks: names of its repeated blocks.
        unused: parameters without a part in the loss.

    Raises:
        InputError: what the model brings does not make a row of its blocks.
    """
    if len(blocks) < 2:
        return Row(against="it has no row of blocks")
    brought = getattr(model, BROUGHT, None)
    if brought is not None:
        return _by_hand(model, given, blocks, brought)
    seen = _Watch(model, blocks, unused)
    outputs = seen.run(given)
    if against := seen.against(outputs):
        return Row(against=against)
    found = Row(stem=seen.stem, stream=tuple(seen.streams[0].shape[1:]), outputs=tuple(outputs.shape[1:]))
    against = _alone(model, given, blocks, found)
    return Row(against=against) if against else found


def _by_hand(model: nn.Module, given: Sequence[torch.Tensor], blocks: tuple[str, ...], brought: Stages) -> Row:
    """What an author's functions read, each given its stream as something new."""
    trained = {p: p.requires_grad for p in model.parameters()}
    for p in trained:
        p.requires_grad_(p.is_floating_point())
    try:
        with one_sample():
            stream = _tensor(brought.begin(model, *given), "begin")
            read = {"begin": _read(model, stream)}
            for name in blocks:
                made = _tensor(brought.called(model.get_submodule(name), _new(stream), *given), name)
                if made.shape != stream.shape:
                    raise InputError(
                        f"stages: {name} must return the shape that it is given, but got "
                        f"{tuple(stream.shape[1:])} and returned {tuple(made.shape[1:])} for a sample"
                    )
                read[name] = _read(model, made)
            outputs = _tensor(brought.end(model, _new(stream), *given), "end")
            read["end"], wanted = _read(model, outputs), model(*given).shape
    finally:
        for p, asked in trained.items():
            p.requires_grad_(asked)
    if outputs.shape != wanted:
        raise InputError(
            f"stages: end must return what the model does, {tuple(wanted[1:])} for a sample, but returned "
            f"{tuple(outputs.shape[1:])}"
        )
    for reader, names in read.items():
        for name in names:
            owner = next((block for block in blocks if name.startswith(f"{block}.")), None)
            if owner != (reader if reader in blocks else None):
                raise InputError(f"stages: {reader} reads {name}, which lies on the stage of {owner or 'an end'}")
    every = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    elsewhere = {*read["begin"], *(name for name in every if name.startswith(tuple(f"{block}." for block in blocks)))}
    tail = tuple(name for name in every if name in read["end"] or name not in elsewhere)
    return Row(stem=read["begin"], tail=tail, stream=tuple(stream.shape[1:]), outputs=tuple(outputs.shape[1:]))


def _new(stream: torch.Tensor) -> torch.Tensor:
    return stream.detach().requires_grad_()


def _tensor(made: Any, what: str) -> torch.Tensor:
    if not isinstance(made, torch.Tensor) or made.ndim < 2 or not made.is_floating_point():
        got = f"{tuple(made.shape)} of {made.dtype}" if isinstance(made, torch.Tensor) else type(made).__name__
        raise InputError(f"stages: {what} must return one tensor of floats, [samples, ...], but returned {got}")
    return made


def _read(model: nn.Module, made: torch.Tensor) -> tuple[str, ...]:
    """Every name of the parameters that this depends on."""
    named = list(model.named_parameters(remove_duplicate=False))
    asked = list(dict.fromkeys(p for _, p in named if p.requires_grad))
    if not asked or not made.requires_grad:
        return ()
    gradients = torch.autograd.grad(made.sum(), asked, allow_unused=True)
    used = {p for p, gradient in zip(asked, gradients, strict=True) if gradient is not None}
    return tuple(name for name, p in named if p in used)


def shared(model: nn.Module, blocks: Sequence[str]) -> bool:
    """Whether a block shares a parameter with another block or with what is around the blocks."""
    place: dict[nn.Parameter, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        inside = next((block for block in blocks if name.startswith(f"{block}.")), "")
        if place.setdefault(p, inside) != inside:
            return True
    return False


class _Watch:
    """Notes in which order a model calls what has parameters. Each block gets its stream as something new, so that
    whatever still depends on what came before has not come through the stream."""

    def __init__(self, model: nn.Module, blocks: tuple[str, ...], unused: Collection[str]) -> None:
        self.model, self.blocks, self.unused = model, blocks, unused
        self.path = {module: name for name, module in model.named_modules()}
        self.calls: list[str] = []
        self.streams: list[torch.Tensor] = []
        self.broken = ""
        self._last: Any = None

    def run(self, given: Sequence[torch.Tensor]) -> torch.Tensor:
        """The outputs."""
        inner = {self.model.get_submodule(name) for name in self.blocks}
        having = [m for m in self.path if m not in inner and any(True for _ in m.parameters(recurse=False))]
        hooks = [m.register_forward_pre_hook(lambda m, args: self.calls.append(self.path[m])) for m in having]
        hooks += [m.register_forward_pre_hook(self._enter, with_kwargs=True) for m in inner]
        hooks += [m.register_forward_hook(self._leave) for m in inner]
        try:
            with one_sample():
                outputs: torch.Tensor = self.model(*given)
        finally:
            for hook in hooks:
                hook.remove()
        return outputs

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        name = self.path[module]
        self.calls.append(name)
        first = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(first, torch.Tensor) or (self._last is not None and first is not self._last):
            self.broken = self.broken or f"{name} is not given what the block before it returns"
            return None
        self.streams.append(first)
        fresh = first.detach().requires_grad_()
        return ((fresh, *args[1:]), kwargs) if args else (args, {**kwargs, next(iter(kwargs)): fresh})

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._last = output

    @property
    def stem(self) -> tuple[str, ...]:
        """What was called before the first block."""
        return tuple(dict.fromkeys(self.calls[: self.calls.index(self.blocks[0])]))

    def against(self, outputs: torch.Tensor) -> str:
        """Why this is no row, or ""."""
        called = [name for name in self.calls if name in self.blocks]
        if self.broken:
            return self.broken
        if called != list(self.blocks):
            return "its blocks are not called one after another"
        if len({stream.shape for stream in self.streams}) > 1:
            return "its blocks do not return what they are given, in shape"
        around = {name.rsplit(".", depth)[0] for name in self.blocks for depth in range(1, name.count(".") + 1)} | {""}
        holding = [n for n in around for _ in self.model.get_submodule(n).parameters(recurse=False)]
        if holding:
            return f"{holding[0] or 'the model itself'} holds parameters beside the blocks; put them into a submodule"
        outside = [name for name in self.calls if not any(name.startswith(f"{block}.") for block in self.blocks)]
        first, last = outside.index(self.blocks[0]), outside.index(self.blocks[-1])
        between = [name for name in outside[first:last] if name not in self.blocks]
        if again := [*between, *(name for name in outside[last + 1 :] if name in outside[:first])]:
            return f"{again[0]} runs among the blocks or again after them"
        return self._uncalled() or self._remembered(outputs)

    def _uncalled(self) -> str:
        """A weight that is read and not called is not seen here, and would be missing on a stage."""
        calls = set(self.calls)
        for module, name in self.path.items():
            within = any(f"{name}.".startswith(f"{block}.") for block in self.blocks)
            held = [f"{name}.{own}" for own, _ in module.named_parameters(recurse=False)]
            if name not in calls and not within and any(own not in self.unused for own in held):
                return f"{name} has parameters and is not called"
        return ""

    def _remembered(self, outputs: torch.Tensor) -> str:
        """Whether something of the stem or of a block comes to the outputs beside the stream."""
        last = f"{self.blocks[-1]}."
        named = self.model.named_parameters()
        earlier = tuple(f"{name}." for name in (*self.stem, *self.blocks[:-1]))
        before = [(n, p) for n, p in named if n.startswith(earlier) and not n.startswith(last) and p.requires_grad]
        if not before or not outputs.requires_grad:
            return ""
        tied = {p for n, p in self.model.named_parameters(remove_duplicate=False) if not n.startswith(earlier)}
        asked = [(n, p) for n, p in before if p not in tied]
        gradients = torch.autograd.grad(outputs.sum(), [p for _, p in asked], allow_unused=True) if asked else ()
        beside = [n for (n, _), gradient in zip(asked, gradients, strict=True) if gradient is not None]
        return f"what {beside[0]} makes comes to the outputs beside the stream" if beside else ""


def _alone(model: nn.Module, given: Sequence[torch.Tensor], blocks: tuple[str, ...], found: Row) -> str:
    """Have the first block with the stem, and the others with the rest, run as stages; what is wrong, or ""."""
    facts = ModelFacts(parameters=0, blocks=blocks, stem=found.stem, stream=found.stream, outputs=found.outputs)
    named = {f"input{i}": tensor for i, tensor in enumerate(given)}
    try:
        with torch.no_grad(), one_sample():
            stream = cut(model, facts, blocks[:1], first=True, last=False)(**named)
        with torch.no_grad(), one_sample():
            outputs = cut(model, facts, blocks[1:], first=False, last=True)(stream, **named)
    except Exception as error:  # whatever a model raises where its weights are elsewhere
        return f"a stage of it cannot run alone ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    if tuple(stream.shape[1:]) != found.stream or tuple(outputs.shape[1:]) != found.outputs:
        return "its stages return other shapes than its blocks"
    return ""
