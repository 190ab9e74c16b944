"""What every figure has in common. Colours are CSS variables, which the page resolves in light, dark and print."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go

INK, MUTED, GRID, LIMIT = "var(--ink)", "var(--muted)", "var(--grid)", "var(--bad)"
_KINDS = {
    "ddp": "var(--ddp)",
    "zero1": "var(--zero1)",
    "zero2": "var(--zero2)",
    "zero3": "var(--zero3)",
    "tensor_parallel": "var(--tensor)",
    "pipeline_parallel": "var(--pipeline)",
    "one process": "var(--muted)",
}
_OTHERS = ("var(--other1)", "var(--other2)", "var(--other3)")
_ROW_PX = 30
_LONGEST_TICK = 46


def palette(kinds: Iterable[str]) -> dict[str, str]:
    """A colour for each kind of trial: the same on every page for the built-in strategies, by name order for others."""
    others = sorted(set(kinds) - set(_KINDS))
    return _KINDS | {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}


def text(label: str) -> str:
    """`label` so that plotly, which reads a subset of HTML in its texts, shows it as it is, line breaks included."""
    return html.escape(label, quote=False).replace("\n", "<br>")


def figure(x_title: str, y_title: str = "", *, height: int = 420) -> go.Figure:
    """An empty figure in the style of the page, `height` pixels high."""
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "automargin": True}
    return go.Figure(
        layout={
            "template": "none",
            "height": height,
            "margin": {"l": 12, "r": 16, "t": 12, "b": 44},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
            "hoverlabel": {"bgcolor": "var(--card)", "bordercolor": GRID, "font": {"color": INK}, "align": "left"},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "xaxis": {**axis, "title": {"text": x_title, "standoff": 10}},
            "yaxis": {**axis, "title": {"text": y_title, "standoff": 10}},
        }
    )


def row_figure(x_title: str, names: Sequence[str], short: Sequence[str], *, extra: int = 0) -> go.Figure:
    """A figure with one horizontal row for each name, the first on top at y = 0.

    Narrow screens show the `short` names. `extra` pixels are added to the height, for a legend.
    """
    drawn = figure(x_title, height=70 + extra + _ROW_PX * max(2, len(names)))
    drawn.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[text(_clipped(name)) for name in names],
        range=[len(names) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
        ticks="",
    )
    drawn.update_layout(meta={"short": [text(name) for name in short]}, bargap=0.35)
    return drawn


def limit_line(drawn: go.Figure, at: float, label: str) -> None:
    """Draw the memory limit as a vertical line at x = `at`, named in the legend."""
    drawn.add_vline(
        x=at,
        line={"color": LIMIT, "width": 2, "dash": "dot"},
        name=text(label),
        showlegend=True,
    )


def _clipped(name: str) -> str:
    return name if len(name) <= _LONGEST_TICK else name[: _LONGEST_TICK - 1] + "…"
