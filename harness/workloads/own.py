"""A model, its batches and its loss from a file of the user's: `--workload my_model.py:workload`.

The file is imported by the parent and by every rank, as `python my_model.py` would import it: its folder comes first in
the search path. Nothing else of the user's is ever executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import nn

from harness.errors import InputError
from harness.workloads import hollow, surveying, values
from harness.workloads.fingerprint import OURS
from harness.workloads.workload import Workload
from strategies.facts import ModelFacts, Split
from strategies.optimizer import OptimizerConfig
from strategies.stages import BROUGHT, Stages

Batch = Mapping[str, torch.Tensor]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TorchWorkload:
    """What the function in a user's file returns; the first three are needed."""

    model: Callable[[], nn.Module]
    """Makes the model; called under `torch.manual_seed`, and again without memory for its parameters."""
    batch: Callable[[int, np.ndarray], Batch | tuple[torch.Tensor, ...]]
    """(step, indices of samples in its global batch) -> tensors `[samples, ...]` by name, or (x, y).

    The same for the same (step, index), whatever other indices are asked for with it.
    """
    loss: Callable[[torch.Tensor, Batch], tuple[torch.Tensor, torch.Tensor | float]]
    """(outputs, batch) -> sum of the losses of all predictions, and how many they are."""
    metric: Callable[[torch.Tensor, Batch], tuple[torch.Tensor, torch.Tensor | float]] | None = None
    """Likewise the sum and the number of a second figure of merit, recorded as accuracy."""
    global_batch_size: int = 32
    """Samples of one optimizer step over all ranks."""
    seq_len: int = 1
    """Tokens of one sample; 1 if samples are not sequences."""
    predictions: float | None = None
    """Of each sample, if all have as many; None: every step counts them."""
    blocks: str | None = None
    """Pattern of the names of the repeated blocks, such as "encoder.layers.*"; None: the lists of modules of one class
    that hold most parameters."""
    tensor_parallel: Mapping[str, Split] = field(default_factory=dict)
    """Pattern of module names -> `Split.COLUMN` or `Split.ROW`, for pairs of linear layers with nothing between them
    but what works on each feature."""
    stages: Stages | None = None
    """How pipelines cut it, where its blocks do not show that they stand in a row; None: as the blocks show."""
    keep_dropout: bool = False
    """Whether its dropout is kept, with masks that are the same in every plan; else it is set to 0."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW's constants, the learning-rate schedule and the clipping norm."""

    def __post_init__(self) -> None:
        for name in ("model", "batch", "loss"):
            if not callable(getattr(self, name)) or isinstance(getattr(self, name), nn.Module):
                got = type(getattr(self, name)).__name__
                raise InputError(f"{name} must be a function, but is of type {got}; write lambda: ... or its name")
        if self.stages is not None and not isinstance(self.stages, Stages):
            raise InputError(f"stages must be of strategies.stages.Stages, but is of type {type(self.stages).__name__}")
        for name in ("global_batch_size", "seq_len"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InputError(f"{name} must be an integer of at least 1, but got {getattr(self, name)!r}")


class Source(ABC):
    """Where a `TorchWorkload` comes from. Ranks get it pickled, and ask it again."""

    @abstractmethod
    def asked(self) -> TorchWorkload:
        """What the user wrote. Raises RuntimeError where that has changed since the start."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """What tells the user's code from other code."""


@dataclass(frozen=True, kw_only=True)
class File(Source):
    """A function in a file of the user's."""

    file: Path
    """Absolute."""
    function: str
    """Name of the function in it."""
    source_id: str
    """Hash of the file and of what it imported from its folder."""
    changes: tuple[tuple[str, Any], ...] = ()
    """Fields of what it returns -> what was asked for in their place."""

    def asked(self) -> TorchWorkload:
        if _imported(self.file)[1] != self.source_id:
            raise RuntimeError(f"{self.file}, or what it imports from its folder, has changed since the start")
        return _changed(self)

    def identity(self) -> dict[str, str]:
        return {"source": self.source_id, "function": self.function}


@dataclass(frozen=True, kw_only=True)
class Own(Workload):
    """The training that a user describes."""

    family: ClassVar[str] = "own"
    metric_name: ClassVar[str | None] = "accuracy"
    initial_values: ClassVar[str] = "the model's constructor after torch.manual_seed"

    source: Source
    """Where the description comes from."""
    cache: Path
    """Folder in which the initial values are kept."""
    data_id: str
    """Hash of the first global batch."""
    inputs: tuple[str, ...]  # type: ignore[misc]  # other families know it without an instance
    survey: surveying.Survey
    """What one pass of the model told."""

    @property
    def asked(self) -> TorchWorkload:
        """What the user wrote."""
        return self.source.asked()

    @property
    def seq_len(self) -> int:
        return self.asked.seq_len

    @property
    def predictions(self) -> float | None:
        return self.asked.predictions

    def identity(self) -> dict[str, Any]:
        kept = {"dropout": "kept"} if self.asked.keep_dropout else {}
        return {**self.common_identity(), **self.source.identity(), "data": self.data_id, **kept}

    @property
    def values(self) -> Path:
        """The file of the initial values."""
        text = "/".join([*self.source.identity().values(), str(self.seed)])
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.cache.absolute() / f"values-{digest}.pt"

    def prepare(self) -> None:
        """Make the model once as the user's own script would, and keep its values for the ranks to map.

        Raises:
            StoreError: the folder cannot be written.
        """
        if self.values.exists():
            return
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            model = self.asked.model()
        values.keep(self.values, dict(model.named_parameters(remove_duplicate=False)))

    def facts(self) -> ModelFacts:
        return self.survey.facts(tensor_parallel=self.asked.tensor_parallel)

    def build(self) -> nn.Module:
        # A buffer that the constructor draws is the same on every rank.
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            model = _brought(self.asked).train()
        surveying.with_dropout(model, self.seed, self.survey)
        for name in self.survey.unused:
            model.get_parameter(name).requires_grad_(False)
        return model

    def initial(self, name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        return values.kept(self.values)[name].to(device)

    def samples(self, step: int, indices: np.ndarray) -> Batch:
        return _named(self.asked.batch(step, np.asarray(indices)))

    def loss(self, outputs: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | float]:
        return self.asked.loss(outputs, batch)

    def metric(self, outputs: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | float] | None:
        return None if self.asked.metric is None else self.asked.metric(outputs, batch)

    @property
    def dropped(self) -> tuple[str, ...]:
        return self.survey.dropout

    def flops_per_step(self) -> float:
        """Those of matrix products, convolutions and attention, forward and backward, as torch's FlopCounterMode counts
        them in one pass over one sample."""
        return self.survey.flops * self.global_batch_size


def create(
    file: Path,
    function: str,
    *,
    cache: Path,
    global_batch_size: int | None,
    seed: int,
    changes: Mapping[str, Any] | None = None,
) -> Own:
    """The workload that a file describes, after everything about it that needs no training was tried.

    Args:
        file: absolute.
        function: name of the function in it that returns a `TorchWorkload`.
        cache: folder for the initial values; nothing is written yet.
        global_batch_size: in place of the file's.
        seed: of the initial weights.
        changes: fields of what the function returns -> values in their place.

    Raises:
        InputError: it cannot be imported, lacks something, raises, or its batches depend on more than (step, index).
    """
    guarded = Guard(str(file), lambda name: name == str(file))
    source_id = guarded("import", lambda: _imported(file)[1])
    guarded(f"{function}()", lambda: described(file, function))
    return derived(
        File(file=file, function=function, source_id=source_id, changes=tuple(sorted((changes or {}).items()))),
        guarded,
        name=file.stem if function == "workload" else f"{file.stem}-{function}",
        cache=cache,
        global_batch_size=global_batch_size,
        seed=seed,
    )


def derived(source: Source, guarded: Guard, *, name: str, cache: Path, global_batch_size: int | None, seed: int) -> Own:
    """The workload that a source describes, after everything about it that needs no training was tried.

    Args:
        source: whose description can be had.
        guarded: calls what the user wrote.
        name: of the workload in tables.
        cache: folder for the initial values; nothing is written yet.
        global_batch_size: in place of the description's.
        seed: of the initial weights.

    Raises:
        InputError: it lacks something, raises, or its batches depend on more than (step, index).
    """
    asked = source.asked()
    size = global_batch_size or asked.global_batch_size
    if others := {split.value for split in asked.tensor_parallel.values()} - {"column", "row"}:
        raise InputError(
            f"{guarded.said}: tensor_parallel takes Split.COLUMN and Split.ROW, but got {', '.join(others)}"
        )
    batch = guarded("its batch", lambda: surveying.pure(lambda step, i: _named(asked.batch(step, i)), 0, size))
    by_name = guarded("its batch", lambda: isinstance(asked.batch(0, np.arange(1)), Mapping))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        inputs, survey = guarded("its model", lambda: _look(asked, batch, by_name))
    return Own(
        name=name,
        seed=seed,
        global_batch_size=size,
        optimizer=asked.optimizer,
        source=source,
        cache=cache,
        data_id=_digest(batch),
        inputs=inputs,
        survey=survey,
    )


def _look(asked: TorchWorkload, batch: Batch, by_name: bool) -> tuple[tuple[str, ...], surveying.Survey]:
    """What the model is called with, and what was found of it."""
    with hollow.parameters():
        model = _brought(asked)
    inputs = surveying.inputs_of(model, batch) if by_name else tuple(batch)[:1]
    return inputs, surveying.look(model, inputs, asked.loss, batch, asked.blocks, asked.keep_dropout)


def _brought(asked: TorchWorkload) -> nn.Module:
    """The model, with what it brings for pipelines."""
    model = asked.model()
    if asked.stages is not None:
        setattr(model, BROUGHT, asked.stages)
    return model


class Guard:
    """Calls what a user wrote, and says in one sentence which line of theirs raised. What it prints goes to stderr.

    Args:
        said: what sentences begin with, such as the user's file.
        theirs: whether code of a file of this name is the user's.
    """

    def __init__(self, said: str, theirs: Callable[[str], bool]) -> None:
        self.said, self.theirs = said, theirs

    def __call__(self, what: str, call: Callable[[], T]) -> T:
        """What `call` returns.

        Raises:
            InputError: it raised anything.
        """
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return call()
        except InputError as error:
            raise InputError(f"{self.said}: {error}") from None
        except SyntaxError as error:
            raise InputError(f"{error.filename or self.said} is not Python: line {error.lineno}: {error.msg}") from None
        except (Exception, SystemExit) as error:
            frames = traceback.extract_tb(error.__traceback__)
            theirs = [frame for frame in frames if self.theirs(frame.filename)]
            where = f"line {theirs[-1].lineno} ({theirs[-1].line}) raised" if theirs else "raised"
            reason = " ".join(str(error).split())
            raise InputError(f"{self.said}: {what}: {where} {type(error).__name__}: {reason}") from None


@lru_cache
def _imported(file: Path) -> tuple[ModuleType, str]:
    """The file as a module, and a hash of it and of what it imported from its folder."""
    folder = str(file.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = f"own_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    sys.modules[name] = module
    usual, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is written beside the user's file
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.dont_write_bytecode = usual
    new = {other for other in set(sys.modules) - before - {name} if other.partition(".")[0] not in OURS}
    made = [getattr(sys.modules[other], "__file__", None) for other in new]
    beside = {Path(path) for path in made if path and file.parent in Path(path).parents and "site-packages" not in path}
    digest = hashlib.sha256(file.read_bytes())
    for path in sorted(beside):
        digest.update(path.relative_to(file.parent).as_posix().encode() + path.read_bytes())
    return module, digest.hexdigest()[:16]


@lru_cache
def described(file: Path, function: str) -> TorchWorkload:
    """What a function in a file returns.

    Raises:
        InputError: there is no such function, or it returns something else.
    """
    made = getattr(_imported(file)[0], function, None)
    if not callable(made):
        raise InputError(f"it has no function {function}; write def {function}(): return TorchWorkload(...)")
    asked = made()
    if not isinstance(asked, TorchWorkload):
        raise InputError(f"{function}() must return a TorchWorkload, but returned {type(asked).__name__}")
    return asked


@lru_cache
def _changed(source: File) -> TorchWorkload:
    return replace(described(source.file, source.function), **dict(source.changes))


def _named(batch: Any) -> dict[str, torch.Tensor]:
    if not isinstance(batch, Mapping | tuple | list) or not batch:
        raise InputError(f"batch must return a mapping of tensors or (x, y), but returned {type(batch).__name__}")
    if isinstance(batch, Mapping):
        return dict(batch)
    return dict(zip(("x", "y", *(f"y{i}" for i in range(2, len(batch)))), batch, strict=False))  # one alone is x


def _digest(batch: Batch) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(batch.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
