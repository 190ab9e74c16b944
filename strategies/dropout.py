"""Dropout whose masks are functions of (seed, step, place in the model, sample, element): every plan drops alike.

A mask is a hash of counters, as in Salmon et al. 2011 (Parallel random numbers: as easy as 1, 2, 3): nothing is drawn,
so no generator has a state that micro-batches, ranks, recomputation or a pipeline's order could change. Of a tensor
that tensor or sequence parallelism divides, each rank has its share of the undivided mask.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

Shape = tuple[int, ...]
OF_FEATURES = {F.dropout1d, F.dropout2d, F.dropout3d}
"""Drop whole channels: the second dimension of what they are given."""
OTHERS = {F.alpha_dropout: 1, F.feature_alpha_dropout: 1, F.multi_head_attention_forward: 10}
"""What draws in ways that are not known here -> the place of its probability among its arguments."""


@dataclass
class Place:
    """Which samples the code that runs now works on."""

    step: int
    """Number of the optimizer step."""
    first: int
    """Index of the first sample in its global batch."""
    samples: int
    """How many, one after another."""
    rank: int = 0
    """Of this process in its tensor-parallel group."""
    world: int = 1
    """Ranks of that group."""
    calls: dict[str, int] = field(default_factory=dict)
    """Module -> how often it has dropped something of these samples."""


_here: Place | None = None


@contextlib.contextmanager
def at(place: Place | None) -> Iterator[None]:
    """What runs meanwhile works on these samples. Autograd's threads see it too, which a context variable would not
    reach."""
    global _here
    before, _here = _here, place
    try:
        yield
    finally:
        _here = before


def one_sample() -> contextlib.AbstractContextManager[None]:
    """What runs meanwhile works on one sample, of no training."""
    return at(Place(step=0, first=0, samples=1))


def recomputable(forward: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    """A function that, called before a pass, gives a `forward` which drops the same whenever it runs again."""

    def begin() -> Callable[..., Any]:
        begun = _here
        if begun is None:
            return forward
        calls = dict(begun.calls)

        def again(*args: Any, **kwargs: Any) -> Any:
            now = replace(begun, calls=dict(calls))
            with at(now):
                result = forward(*args, **kwargs)
            begun.calls.update(now.calls)
            return result

        return again

    return begin


class Dropping(TorchFunctionMode):
    """What calls of torch's dropouts do while it is entered.

    Args:
        drop: (what is dropped from, of which only the leading dimensions given count, probability) -> values.
    """

    def __init__(self, drop: Callable[[torch.Tensor, float, int], torch.Tensor]) -> None:
        super().__init__()
        self._drop = drop

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout or func in OF_FEATURES:
            return self._dropout(args, kwargs, features=func is not F.dropout)
        if func is F.scaled_dot_product_attention and _given(args, kwargs, 4, "dropout_p", 0.0):
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(self, args: Any, kwargs: Any, *, features: bool) -> torch.Tensor:
        given: torch.Tensor = args[0] if args else kwargs["input"]
        p = float(_given(args, kwargs, 1, "p", 0.5))
        if not p or not _given(args, kwargs, 2, "training", True):
            return given
        kept = self._drop(given, p, 2 if features else given.ndim)
        return given.copy_(kept) if _given(args, kwargs, 3, "inplace", False) else kept

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """As torch documents `scaled_dot_product_attention`; its fused kernels draw their masks themselves."""
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        return self._drop(weights, dropout_p, weights.ndim) @ value


def _given(args: Any, kwargs: Mapping[str, Any], at: int, name: str, default: Any) -> Any:
    return args[at] if at < len(args) else kwargs.get(name, default)


class Unknown(Exception):  # noqa: N818 - found in a model, not gone wrong
    """A model drops in a way that cannot be kept; its text is the second half of a sentence."""


class Seen(TorchFunctionMode):
    """Notes which modules of a model drop, and of what shapes, in a pass with some samples.

    Args:
        model: in training.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.shapes: dict[str, list[Shape]] = {}
        """Module -> shapes of what it drops from, in the order of its calls."""
        self._inside: list[str] = []
        self._dropping = Dropping(self._note)
        self._hooks = [
            hook
            for name, module in model.named_modules()
            for hook in (
                module.register_forward_pre_hook(lambda module, args, name=name: self._inside.append(name)),
                module.register_forward_hook(lambda module, args, output: (self._inside.pop(), None)[1]),
            )
        ]

    def _note(self, given: torch.Tensor, p: float, dims: int) -> torch.Tensor:
        self.shapes.setdefault(self._inside[-1], []).append(tuple(given.shape[:dims]))
        return given

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in OTHERS and _given(args, kwargs or {}, OTHERS[func], "p", 0.0):
            raise Unknown(f"{self._inside[-1] or 'the model'} draws its masks inside {func.__name__}")
        return self._dropping.__torch_function__(func, types, args, kwargs)

    def remove(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()


def keep(model: nn.Module, seed: int, shapes: Mapping[str, tuple[Shape, ...]]) -> None:
    """Have modules of a model drop by masks of ours.

    Args:
        model: in training.
        seed: of the masks.
        shapes: module -> undivided shapes of what it drops from, of one sample, in the order of its calls.
    """
    for name, whole in shapes.items():
        module = model.get_submodule(name)
        # A class, not a method of the instance: stages of a pipeline are copies, whose forward must be their own.
        module.__class__ = _dropping(type(module), f"{seed}/{name}", whole)


def _dropping(kind: Any, key: str, whole: tuple[Shape, ...]) -> type[nn.Module]:
    def drop(given: torch.Tensor, p: float, dims: int) -> torch.Tensor:
        place = _here
        if place is None:
            raise RuntimeError(f"{key} drops outside of a micro-batch")
        call = place.calls.get(key, 0)
        if call == len(whole):
            raise RuntimeError(f"{key} drops more often than when the model was looked at, {call} times")
        place.calls[key] = call + 1
        return kept(given, p, dims, place, key, call, whole[call])

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with Dropping(drop):
            return kind.forward(self, *args, **kwargs)

    return type(kind.__name__, (kind,), {"forward": forward})


def kept(given: torch.Tensor, p: float, dims: int, place: Place, key: str, call: int, whole: Shape) -> torch.Tensor:
    """Values with a share p of them zero and the others larger by 1 / (1 - p).

    Args:
        given: `[samples * rows, ...]`, of which tensor parallelism may have divided one dimension.
        p: probability.
        dims: leading dimensions in which values are dropped on their own.
        place: the samples.
        key: seed and place in the model.
        call: which one of this place's calls.
        whole: of one sample, undivided: `[rows, ...]`.
    """
    local = (given.shape[0] // place.samples, *given.shape[1:dims])
    index = _indices(local, whole, place, given.device)
    keys = sample_keys(f"{key}/{call}", place).to(given.device)
    dropped = hashed(index, keys) < int(p * 2**32) - 2**31
    dropped = dropped.view(*given.shape[:dims], *(1,) * (given.ndim - dims))
    return (given * (1 / (1 - p))).masked_fill(dropped, 0.0) if p < 1 else given * 0


def sample_keys(text: str, place: Place) -> torch.Tensor:
    """Two numbers of 32 bits for each sample, int32 `[2, samples]`: splitmix64 (Steele et al. 2014) of what a mask
    depends on."""
    begin = int.from_bytes(hashlib.sha256(f"{text}/{place.step}".encode()).digest()[:8], signed=True)
    samples = torch.arange(place.first + 1, place.first + place.samples + 1, device="cpu")
    z = begin + samples * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shifted(z, 31)
    return z.view(torch.int32).reshape(-1, 2).T.contiguous()


def _signed(number: int) -> int:
    """The number of 64 bits with a sign that has these bits; torch's products of them wrap alike."""
    return number - (number >> 63 << 64)


def hashed(index: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """A number of 32 bits for each element of each sample, `[samples, elements]`, int32.

    The steps are those of murmur3's finaliser, which mixes every bit of the index into every bit of the result; the
    second key comes between them, so that samples do not see pieces of one sequence.

    Args:
        index: of the elements in a sample, `[elements]`, int32.
        keys: `[2, samples]`, int32.
    """
    x = (index * -1640531527).unsqueeze(0) + keys[0].unsqueeze(1)  # 2^32 over the golden ratio
    x ^= _shifted(x, 16)
    x *= -2048144789
    x ^= keys[1].unsqueeze(1)
    x ^= _shifted(x, 13)
    x *= -1028477387
    x ^= _shifted(x, 16)
    return x


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right with zeros coming in: torch's shift repeats the sign."""
    return (x >> bits).bitwise_and_((1 << (torch.iinfo(x.dtype).bits - bits)) - 1)


def _indices(local: Shape, whole: Shape, place: Place, device: torch.device) -> torch.Tensor:
    """Where the elements of this rank's share of a sample lie in the whole of it."""
    if local == whole:
        return torch.arange(math.prod(whole), dtype=torch.int32, device=device)
    differing = [dim for dim, (mine, all_) in enumerate(zip(local, whole, strict=False)) if mine != all_]
    if len(local) != len(whole) or len(differing) != 1 or place.world == 1:
        raise RuntimeError(f"a dropout of {list(whole)} values a sample got {list(local)}, of which it knows no mask")
    (dim,) = differing
    strides = [math.prod(whole[i + 1 :]) for i in range(len(whole))]
    index = torch.zeros((), dtype=torch.int32, device=device)
    for i, (count, stride) in enumerate(zip(local, strides, strict=True)):
        first = _begin(count, whole[i], place) if i == dim else 0
        steps = torch.arange(first, first + count, dtype=torch.int32, device=device) * stride
        index = index.unsqueeze(-1) + steps
    return index.flatten()


def _begin(mine: int, total: int, place: Place) -> int:
    """Where this rank's share begins: the first ranks have the larger shares (`tensor_parallel.shares`)."""
    larger = mine * place.world > total
    return place.rank * mine if larger else total - (place.world - place.rank) * mine
