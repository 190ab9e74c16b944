"""Watching one step from inside: which bytes are alive when most are, and what is sent to other ranks."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from harness.observe.sent import note
from strategies import engine as engines
from strategies.training import Training

PARAMS, GRADS, OPTIMIZER, BUFFERS, ACTIVATIONS = CATEGORIES = (
    "params",
    "grads",
    "optimizer",
    "buffers",
    "activations",
)
"""What bytes are for. Buffers are communication buckets, gathered parameters, model buffers and the batch; activations
are everything else that a step makes and frees: what backward needs, and temporaries."""


@dataclass
class _Storage:
    """One block of memory that was seen."""

    category: str | None
    """None until it is known; what stays unknown is an activation."""


class Observer(TorchDispatchMode):
    """Sees every operator and every collective of the code it surrounds, and follows the storages they touch.

    Args:
        held: category -> tensors that are alive when it begins.
    """

    def __init__(self, held: Mapping[str, Iterable[torch.Tensor]] | None = None) -> None:
        super().__init__()
        self.sent: dict[str, list[int]] = {}
        """Collective -> [bytes this rank sent, calls]."""
        self.grads_held_bytes = 0
        """Gradients when they were complete, as far as somebody said so."""
        self._storages: dict[int, _Storage] = {}
        self._by_key: dict[int, int] = {}
        self._log: list[tuple[int, int]] = []
        """(storage, bytes it has from now on), in order."""
        self._begun = 0
        """Entries of the log that were there before the first operator."""
        for category, tensors in (held or {}).items():
            self.tell(category, tensors)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        self._note(given, BUFFERS, was_there=True)
        if func.namespace == "c10d":
            note(self.sent, func._schema.name.rpartition("::")[2], args)
        out = func(*args, **(kwargs or {}))
        self._note((leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, torch.Tensor)), None)
        return out

    def _note(self, tensors: Iterable[torch.Tensor], category: str | None, *, was_there: bool = False) -> None:
        for tensor in tensors:
            storage = _storage(tensor)
            if storage is not None:
                self._follow(storage, category, was_there=was_there)

    def tell(self, category: str, tensors: Iterable[torch.Tensor]) -> None:
        """Say what these tensors are. What was not made under the observer was there before it."""
        for tensor in tensors:
            storage = _storage(tensor)
            if storage is not None:
                self._follow(storage, category, was_there=True)
                self._storages[self._by_key[storage._cdata]].category = category

    def standing_bytes(self) -> int:
        """What was alive before the first operator, in B."""
        return sum(size for _, size in self._log[: self._begun])

    def at_peak(self) -> dict[str, int]:
        """Category -> bytes alive at the moment at which most bytes were."""
        alive: dict[int, int] = {}
        total = highest = 0
        peak: dict[int, int] = {}
        for at, (number, size) in enumerate(self._log):
            total += size - alive.get(number, 0)
            alive[number] = size
            if at >= self._begun - 1 and total > highest:
                highest, peak = total, dict(alive)
        found = dict.fromkeys(CATEGORIES, 0)
        for number, size in peak.items():
            found[self._storages[number].category or ACTIVATIONS] += size
        return found

    # -- storages

    def __enter__(self) -> Observer:
        """FSDP2 frees gathered parameters by resizing their storage in place, which is no operator."""
        self._resize = torch.UntypedStorage.resize_
        observer = self

        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            observer._follow(storage, BUFFERS, was_there=True)
            out = observer._resize(storage, size)
            observer._log.append((observer._by_key[storage._cdata], storage.nbytes()))
            return out

        torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign, assignment]
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *error: object) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)

    def _follow(self, storage: torch.UntypedStorage, category: str | None, *, was_there: bool = False) -> None:
        """Note a storage that is seen for the first time."""
        key = storage._cdata
        if key in self._by_key:
            return
        number = self._by_key[key] = len(self._storages)
        self._storages[number] = _Storage(category)
        entry = (number, storage.nbytes())
        if was_there:  # so it counts from the beginning
            self._log.insert(self._begun, entry)
            self._begun += 1
        else:
            self._log.append(entry)
        weakref.finalize(storage, self._freed, key, number)

    def _freed(self, key: int, number: int) -> None:
        self._by_key.pop(key, None)
        self._log.append((number, 0))


class RandomNumbers(TorchDispatchMode):
    """Sees whether the code it surrounds draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.by: str | None = None
        """The first operator that did."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.by is None and torch.Tag.nondeterministic_seeded in func.tags and _probability(func, args, kwargs) != 0:
            self.by = str(func)
        return func(*args, **(kwargs or {}))


def _probability(operator: Any, args: Any, kwargs: Any) -> float | None:
    """With which an operator drops values, usually 0 in attention; None if it has no such thing."""
    for at, argument in enumerate(operator._schema.arguments):
        if argument.name in ("dropout_p", "p"):
            given = args[at] if at < len(args) else (kwargs or {}).get(argument.name, argument.default_value)
            return None if given is None else float(given)
    return None


@contextlib.contextmanager
def watching(training: Training) -> Iterator[Observer]:
    """Watch a step of a training that has taken at least one, so that what lasts from step to step is there.

    Gradients are told apart at the moment at which they are complete.
    """
    engine = training.engine
    state = engine.state()
    buffers = [buffer for part in training.parts for buffer in part.buffers()]
    observer = Observer({PARAMS: state.params, OPTIMIZER: state.optimizer, BUFFERS: buffers})
    # Another package's strategy may have put something in its place, which must be there again afterwards.
    finish, own = engine.finish_gradients, vars(engine).get("finish_gradients")

    def finished() -> None:
        finish()
        gradients = engine.state().grads
        observer.grads_held_bytes = engines.size(gradients)
        observer.tell(GRADS, gradients)

    engine.finish_gradients = finished  # type: ignore[method-assign]
    try:
        with observer:
            yield observer
    finally:
        del engine.finish_gradients
        if own is not None:
            engine.finish_gradients = own  # type: ignore[method-assign]


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    """A tensor's storage; None for wrappers of other tensors, which are seen on their own."""
    wrapper = bool(is_traceable_wrapper_subclass(tensor))
    if wrapper or tensor.device.type == "meta":
        return None
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # a subclass that holds something else than a storage
        return None
