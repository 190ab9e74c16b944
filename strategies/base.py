"""What a strategy is: its knobs as data, a check in one sentence, and how it changes a training.

This package depends on torch alone, so a recipe built here also runs in a script without the harness.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from strategies.training import Training

Setting = bool | int | float | str
"""A value a knob can take."""

Settings = Mapping[str, Setting]
"""A plan as strategies see it: knob name -> value. A knob whose condition does not hold is absent."""


@dataclass(frozen=True, kw_only=True)
class Knob(ABC):
    """One thing that can be turned without changing the mathematics of the workload."""

    name: str
    """Name in plans, parquet and `--knob NAME=VALUE`."""
    default: Setting
    """The value a plan has unless something else is asked for."""
    doc: str
    """One line for people."""
    unit: str = ""
    """Base unit of the value, empty if it has none."""
    when: Mapping[str, tuple[Setting, ...]] = field(default_factory=dict)
    """The knob exists only in plans whose settings have one of these values: {other knob: values}."""
    opt_in: tuple[Setting, ...] = ()
    """Values that are valid but searched only when the user names them (rare, or slow on most hardware)."""

    @property
    @abstractmethod
    def grid(self) -> tuple[Setting, ...]:
        """The values that grid search tries, in order, opt-in ones included."""

    @abstractmethod
    def accepts(self, value: object) -> bool:
        """Whether a plan may hold this value."""

    @abstractmethod
    def parse(self, text: str) -> Setting:
        """The value written as `text`; ValueError if there is none."""

    @abstractmethod
    def describe(self) -> str:
        """The valid values, for error messages."""

    def applies(self, settings: Settings) -> bool:
        """Whether the knob exists in a plan with these settings."""
        return all(settings.get(other) in values for other, values in self.when.items())


@dataclass(frozen=True, kw_only=True)
class Choice(Knob):
    """A knob with a finite set of values."""

    values: tuple[Setting, ...]

    @property
    def grid(self) -> tuple[Setting, ...]:
        return self.values

    def accepts(self, value: object) -> bool:
        return any(value == v and type(value) is type(v) for v in self.values)

    def parse(self, text: str) -> Setting:
        for value in self.values:
            if text.strip().lower() == str(value).lower():
                return value
        raise ValueError(f"{self.name} must be one of {self.describe()}, but got {text!r}")

    def describe(self) -> str:
        return ", ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in self.values)


@dataclass(frozen=True, kw_only=True)
class Range(Knob):
    """A number between `low` and `high`, both included."""

    low: float
    high: float
    integer: bool = False
    log: bool = False
    """Whether search samples it on a logarithmic scale."""
    points: tuple[float, ...]
    """The values for grid search."""

    @property
    def grid(self) -> tuple[Setting, ...]:
        return self.points

    def accepts(self, value: object) -> bool:
        kind = int if self.integer else (int, float)
        return isinstance(value, kind) and not isinstance(value, bool) and self.low <= value <= self.high

    def parse(self, text: str) -> Setting:
        try:
            value: Setting = int(text) if self.integer else float(text)
        except ValueError:
            value = text
        if not self.accepts(value):
            raise ValueError(f"{self.name} must be {self.describe()}, but got {text!r}")
        return value

    def describe(self) -> str:
        kind = "an integer" if self.integer else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}{' ' + self.unit if self.unit else ''}"


class Split(enum.Enum):
    """How tensor parallelism divides a module's weight over the ranks of a tensor-parallel group."""

    COLUMN = "column"
    """Output features: each rank computes its own share of the outputs."""
    COLUMN_QKV = "column_qkv"
    """A fused query-key-value projection `[3 * heads * head_dim, width]`, divided by whole heads."""
    ROW = "row"
    """Input features: each rank's output is a partial sum."""
    ROW_HEADS = "row_heads"
    """Input features in units of whole heads (the projection after attention)."""
    VOCAB = "vocab"
    """An embedding's rows, or the output projection's vocabulary."""
    SEQUENCE = "sequence"
    """Not divided; with sequence parallelism it sees only its rank's share of the sequence."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What strategies may know of a model without building it.

    A model that can be cut into pipeline stages has three attributes: `stem`, `blocks` (a ModuleDict) and `head`,
    applied in this order; a cut model has None for a missing stem or head.
    """

    parameters: int
    """Number of parameters, tied ones counted once."""
    blocks: tuple[str, ...]
    """Fully qualified names of the repeated blocks, in order; () if the model has none."""
    block_flops: float = 1.0
    """Forward FLOPs of one block for one sample, to balance pipeline stages."""
    head_flops: float = 0.0
    """Forward FLOPs of the part after the blocks, for one sample."""
    tensor_parallel: Mapping[str, Split] = field(default_factory=dict)
    """Module name pattern (fnmatch) -> how its weight is divided; empty if tensor parallelism does not apply."""
    heads: int = 0
    """Attention heads."""
    head_dim: int = 0
    """Width of one attention head."""
    vocab_size: int = 0
    """Rows of the embedding."""
    width: int = 0
    """Features of the stream between blocks; 0 if the blocks do not share one shape."""
    hidden: int = 0
    """Features inside the feed-forward part of a block."""
    sequential: bool = False
    """Whether stem, blocks and head may be cut apart (see above)."""
    tied: bool = False
    """Whether the first and the last part share a weight."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a `check` may know: the workload's shape and the machine, nothing that needs torch to run."""

    device_type: str
    """"cpu", "cuda", ..."""
    world_size: int
    """Number of ranks."""
    global_batch_size: int
    """Samples of one optimizer step over all ranks."""
    seq_len: int
    """Tokens of one sample; 1 if samples are not sequences."""
    workload: str
    """Name of the workload, for sentences."""
    model: ModelFacts
    extras: frozenset[str] = frozenset()
    """Optional packages that can be imported here ("torchao", ...)."""
    compiler: bool = False
    """Whether torch.compile's backend finds a compiler on this machine."""


class Slot(enum.Enum):
    """Where in the recipe a strategy acts; the members stand in the order of application."""

    PIPELINE = "pipeline"
    QUANTIZATION = "quantization"
    TENSOR = "tensor"
    PRECISION = "precision"
    CHECKPOINT = "checkpoint"
    COMPILE = "compile"
    EXTRA = "extra"
    DATA = "data"


class Strategy(ABC):
    """One technique. A subclass is registered in `strategies/__init__.py` or through an entry point."""

    name: ClassVar[str]
    """Name in `--strategies`."""
    slot: ClassVar[Slot]
    """Where in the recipe it acts."""
    summary: ClassVar[str]
    """One line for people."""
    knobs: ClassVar[tuple[Knob, ...]]
    """All that can be turned about it. Those of a data-parallel strategy need `when={"data_parallel": (name,)}`."""

    @abstractmethod
    def active(self, plan: Settings) -> bool:
        """Whether this plan uses the strategy at all."""

    @abstractmethod
    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        """The settings, beyond the defaults, of the plans that a sweep tries first: one for each way of using it."""

    def check(self, plan: Settings, facts: Facts) -> str | None:
        """One sentence saying why `plan` cannot run, or None. Called only if `active(plan)`."""
        return None

    @abstractmethod
    def apply(self, training: Training) -> None:
        """Change the training under construction. Called once, in the order of slots, only if active."""

    def finish(self, training: Training) -> None:  # noqa: B027 - optional hook, most strategies need none
        """Called after every strategy was applied, in the order of slots, only if active."""
