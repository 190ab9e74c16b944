"""What a panel is: data computed from the view, then drawn. The two are apart so that the data can be tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import plotly.graph_objects as go

TOP = 20
"""Trials in a chart that has a curve or a row for each: more cannot be told apart, and would make the page heavy."""

View = TypeVar("View")
Data = TypeVar("Data")
Cell = str | float | int | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """The numbers of a chart, to read and to download."""

    columns: tuple[str, ...]
    """Headings, with units."""
    rows: tuple[tuple[Cell, ...], ...]
    """As long as the headings; None where nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure and what it says."""

    figure: go.Figure
    reading: str
    """One line made from the data."""
    table: Table
    note: str = ""
    """What is left out of the figure, if anything."""
    name: str = ""
    """What the figure shows, where there are others to choose from."""
    others: Mapping[str, go.Figure] = field(default_factory=dict)
    """The same data seen otherwise: name -> figure."""
    choice: str = "Show"
    """What is chosen between `name` and the others."""

    @property
    def figures(self) -> dict[str, go.Figure]:
        """Every figure by name, the one that is shown first at the beginning."""
        return {self.name: self.figure, **self.others}


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A piece of HTML: a Jinja template beside the panel's code, and what it needs."""

    template: str
    """File name in this folder."""
    reading: str = ""
    """One line made from the data."""
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Panel(Generic[View, Data]):
    """One section of the page."""

    key: str
    """Anchor in the page's address."""
    title: str
    data: Callable[[View], Data | None]
    """What the panel shows; None leaves the panel out of the page."""
    draw: Callable[[Data], Chart | Fragment]
    """The data as it appears."""


def top_note(number: int) -> str:
    """Says that only the best trials are drawn, if there are more."""
    return f"The best {TOP} of {number:,} plans are drawn." if number > TOP else ""
