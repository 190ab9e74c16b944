"""What a strategy is: its knobs as data, a check in one sentence, and how it changes a training.

This package depends on torch alone, so a recipe built here also runs in a script without the harness.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from strategies.facts import Facts
from strategies.knob import Choice, Knob, Setting, Settings

if TYPE_CHECKING:
    from strategies.training import Training


class Slot(enum.Enum):
    """Where in the recipe a strategy acts; the members stand in the order of application."""

    PIPELINE = "pipeline"
    QUANTIZATION = "quantization"
    TENSOR = "tensor"
    PRECISION = "precision"
    ATTENTION = "attention"
    CHECKPOINT = "checkpoint"
    COMPILE = "compile"
    LOSS = "loss"
    EXTRA = "extra"
    DATA = "data"


class UnsuitableError(ValueError):
    """Raised by `apply` where only the built model shows that a plan cannot run; its message is one sentence."""


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

    def searched(self, knob: Choice, facts: Facts) -> tuple[Setting, ...]:
        """The values of one of its knobs that a search tries on this machine unless the user names others."""
        return tuple(value for value in knob.values if value not in knob.opt_in)

    def check(self, plan: Settings, facts: Facts) -> str | None:
        """One sentence saying why `plan` cannot run, or None. Called only if `active(plan)`."""
        return None

    @abstractmethod
    def apply(self, training: Training) -> None:
        """Change the training under construction. Called once, in the order of slots, only if active."""

    def finish(self, training: Training) -> None:  # noqa: B027 - optional hook, most strategies need none
        """Called after every strategy was applied, in the order of slots, only if active."""
