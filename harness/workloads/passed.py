"""A model, its batches and its loss that were passed as objects, such as functions of a notebook's cells.

They travel to the ranks inside each job, by the pipe through which a rank is started: bytes that this process made and
that no file holds. Nothing here reads or writes a file.
"""

from __future__ import annotations

import functools
import io
import pickle
import re
import sys
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.workloads.fingerprint import Fingerprint, is_users
from harness.workloads.own import Guard, Own, Source, TorchWorkload, derived

SAID = "the workload"
"""What sentences about it begin with."""


@dataclass(frozen=True, kw_only=True)
class Passed(Source):
    """Objects of the process that asked for the sweep."""

    pickled: bytes = field(repr=False)
    """A `TorchWorkload` with what it refers to, as cloudpickle writes it."""
    source_id: str
    """Hash of the functions' instructions and constants, of the defaults, closed-over values and globals that they use,
    of functions and classes of the user's likewise, and of the contents of arrays and tensors among them."""

    original: TorchWorkload | None = field(default=None, repr=False, compare=False)
    """The objects themselves, in the process that has them: reading them there would change its classes."""

    def asked(self) -> TorchWorkload:
        return self.original or _unpickled(self.pickled)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.pickled, self.source_id)

    def identity(self) -> dict[str, str]:
        return {"source": self.source_id}


def create(asked: TorchWorkload, *, cache: Path, global_batch_size: int | None, seed: int) -> Own:
    """The workload of passed objects, after everything about it that needs no training was tried.

    Its id changes with what its functions compute or are called with (see `Passed.source_id`), with its first global
    batch, the batch's size, the optimizer and the seed; not with comments, names of cells or where the code stands.

    Args:
        asked: the objects.
        cache: folder for the initial values; nothing is written yet.
        global_batch_size: in place of the workload's.
        seed: of the initial weights.

    Raises:
        InputError: cloudpickle is not installed, or the objects cannot be used, in one sentence.
    """
    taken = Fingerprint()
    guarded = Guard(SAID, lambda file: file in taken.files)
    for part in (asked.model, asked.batch, asked.loss, asked.metric, asked.seq_len, asked.predictions, asked.blocks):
        guarded("its code", functools.partial(taken.add, part))
    guarded("its code", lambda: taken.add({name: split.value for name, split in asked.tensor_parallel.items()}))
    if asked.stages is not None:
        for said in (asked.stages.begin, asked.stages.block, asked.stages.end):
            guarded("its code", functools.partial(taken.add, said))
    if asked.keep_dropout:
        guarded("its code", lambda: taken.add("keep_dropout"))
    pickled = guarded("sending it to ranks", lambda: _pickled(asked))
    source = Passed(pickled=pickled, source_id=taken.hexdigest(), original=asked)
    return derived(
        source, guarded, name=_name(asked.model), cache=cache, global_batch_size=global_batch_size, seed=seed
    )


def _name(model: Callable[..., Any]) -> str:
    """That of the model's class or function, as far as it may stand in the name of a file."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "", str(getattr(model, "__name__", "")).replace("<lambda>", ""))
    return plain[:40] or "own"


def _pickled(asked: TorchWorkload) -> bytes:
    """By value what is the user's own, by name what is installed: ranks run what this process holds, edited files or
    not."""
    try:
        import cloudpickle
    except ImportError:
        raise InputError(
            "functions reach the ranks by a package: python -m pip install 'distributed-harness[notebook]'"
        ) from None
    own = [module for name, module in list(sys.modules.items()) if name != "__main__" and is_users(name)]
    own = [module for module in own if module.__name__ not in cloudpickle.list_registry_pickle_by_value()]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    buffer = io.BytesIO()

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        """Knows of a cache that it is the function's, not a name of the module that ranks lack."""

        dispatch_table = ChainMap({functools._lru_cache_wrapper: _uncached}, cloudpickle.Pickler.dispatch_table)

    try:
        Pickler(buffer).dump(asked)
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)
    return buffer.getvalue()


def _uncached(function: Any) -> Any:
    if is_users(function.__module__):
        return _cached, (function.__wrapped__, function.cache_parameters())
    return function.__reduce__()


def _cached(function: Callable[..., Any], parameters: Mapping[str, Any]) -> Callable[..., Any]:
    cached: Callable[..., Any] = lru_cache(**parameters)(function)
    return cached


def _received(pickled: bytes, source_id: str) -> Passed:
    return Passed(pickled=pickled, source_id=source_id)


@lru_cache(maxsize=1)
def _unpickled(made: bytes) -> TorchWorkload:
    asked: TorchWorkload = pickle.loads(made)
    return asked
