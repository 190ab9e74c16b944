"""Strategies of distributed training, and the registry that names them.

A package outside this repository adds one through the entry point group "harness.strategies"; see CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from strategies.base import Slot, Strategy
from strategies.facts import Facts, ModelFacts, Split
from strategies.knob import Choice, Knob, Range, Setting, Settings

BUILTIN = (
    "strategies.ddp:Ddp",
    "strategies.zero1:Zero1",
    "strategies.zero2:Zero2",
    "strategies.zero3:Zero3",
    "strategies.tensor_parallel:TensorParallel",
    "strategies.pipeline_parallel:PipelineParallel",
    "strategies.activation_checkpoint:ActivationCheckpoint",
    "strategies.precision:Precision",
    "strategies.quantization:Quantization",
    "strategies.attention:Attention",
    "strategies.chunked_loss:ChunkedLoss",
    "strategies.compile:Compile",
)
"""One line for each strategy of this package, in the order in which a sweep tries them. Strings, because their modules
import torch, which takes seconds, and most of the harness needs no more than `strategies.base`."""

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
    found: dict[str, Strategy] = {}
    builtin = (EntryPoint(name="", value=value, group="harness.strategies") for value in BUILTIN)
    for point in (*builtin, *entry_points(group="harness.strategies")):
        strategy: Strategy = point.load()()
        found.setdefault(strategy.name, strategy)
    return found


def knobs(strategies: Iterable[Strategy]) -> tuple[Knob, ...]:
    """The knobs of the strategies and the ones every plan has, each after those its condition names."""
    strategies = tuple(strategies)
    kinds = [s.name for s in strategies if s.slot is Slot.DATA]
    core: list[Knob] = [
        Choice(name="data_parallel", default="none", values=("none", *kinds), doc="what data-parallel ranks divide"),
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
        ready = [k for k in waiting if not ({*k.when, *k.unless} & known) - names]
        if not ready:
            raise ValueError(f"the conditions of these knobs form a circle: {', '.join(k.name for k in waiting)}")
        done.append(ready[0])
        waiting = [k for k in waiting if k is not ready[0]]
    return tuple(done)
