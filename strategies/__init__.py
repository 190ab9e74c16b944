"""Strategies of distributed training, and the registry that names them.

A package outside this repository adds one through the entry point group "harness.strategies"; see CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points

from strategies.activation_checkpoint import ActivationCheckpoint
from strategies.base import Choice, Facts, Knob, ModelFacts, Range, Setting, Settings, Slot, Split, Strategy
from strategies.compile import Compile
from strategies.ddp import Ddp
from strategies.pipeline_parallel import PipelineParallel
from strategies.precision import Precision
from strategies.quantization import Quantization
from strategies.tensor_parallel import TensorParallel
from strategies.zero1 import Zero1
from strategies.zero2 import Zero2
from strategies.zero3 import Zero3

BUILTIN: tuple[type[Strategy], ...] = (
    Ddp,
    Zero1,
    Zero2,
    Zero3,
    TensorParallel,
    PipelineParallel,
    ActivationCheckpoint,
    Precision,
    Quantization,
    Compile,
)
"""One line for each strategy of this package, in the order in which a sweep tries them."""

OPT_IN = frozenset({"compile"})
"""Strategies that are in play only when they are asked for by name."""

__all__ = [
    "BUILTIN",
    "OPT_IN",
    "Choice",
    "Facts",
    "Knob",
    "ModelFacts",
    "Range",
    "Setting",
    "Settings",
    "Slot",
    "Split",
    "Strategy",
    "knobs",
    "registry",
]


@cache
def registry() -> dict[str, Strategy]:
    """Every strategy by name: the built-in ones, then those of entry points."""
    found = {kind.name: kind() for kind in BUILTIN}
    for point in entry_points(group="harness.strategies"):
        strategy = point.load()()
        found.setdefault(strategy.name, strategy)
    return found


def knobs(strategies: Iterable[Strategy]) -> tuple[Knob, ...]:
    """The knobs of the strategies and the ones every plan has, each after those its condition names."""
    strategies = tuple(strategies)
    kinds = [s.name for s in strategies if s.slot is Slot.DATA]
    core: list[Knob] = [
        Choice(
            name="data_parallel", default="none", values=("none", *kinds), doc="what data-parallel ranks divide"
        ),
        Range(name="dp", default=1, low=1, high=65536, integer=True, points=(1, 2, 4, 8), unit="ranks", doc="degree"),
        Range(
            name="micro_batch_size",
            default=1,
            low=1,
            high=1 << 20,
            integer=True,
            log=True,
            points=(1, 2, 4, 8),
            unit="samples",
            doc="samples of one forward pass on one data-parallel rank",
        ),
    ]
    return _ordered([*core, *(knob for s in strategies for knob in s.knobs)])


def _ordered(knobs: list[Knob]) -> tuple[Knob, ...]:
    """A stable order in which every knob follows the knobs its condition names."""
    known = {knob.name for knob in knobs}
    done: list[Knob] = []
    waiting = knobs
    while waiting:
        names = {knob.name for knob in done}
        ready = [k for k in waiting if not (set(k.when) & known) - names]
        if not ready:
            raise ValueError(f"the conditions of these knobs form a circle: {', '.join(k.name for k in waiting)}")
        done.append(ready[0])
        waiting = [k for k in waiting if k is not ready[0]]
    return tuple(done)
