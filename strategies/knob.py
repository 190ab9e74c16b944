"""Knobs: what can be turned about a training without changing its mathematics, as data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

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
    when: Mapping[str, Collection[Setting]] = field(default_factory=dict)
    """The knob exists only in plans whose settings have one of these values: {other knob: values}."""
    unless: Mapping[str, Collection[Setting]] = field(default_factory=dict)
    """It does not exist in plans that have one of these: {other knob: values}."""
    implied: bool = False
    """Whether a plan with the default leaves it out, as plans from before the knob did: then both have one id."""
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
        for other, values in self.when.items():
            if settings.get(other) not in values:
                return False
        return not any(settings.get(other) in values for other, values in self.unless.items())

    def written(self, settings: Settings) -> bool:
        """Whether a plan that has come to these settings holds this one of them."""
        return self.name in settings and not (self.implied and settings[self.name] == self.default)


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
    least: float | None = None
    """Smallest value that a plan may hold although it is not searched; None: `low`."""
    most: float | None = None
    """Largest one, likewise."""

    @property
    def grid(self) -> tuple[Setting, ...]:
        return self.points

    def accepts(self, value: object) -> bool:
        kind = int if self.integer else (int, float)
        low = self.low if self.least is None else self.least
        high = self.high if self.most is None else self.most
        return isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high

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
