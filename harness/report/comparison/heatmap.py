"""A table of coloured fields, for matrices of places."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from harness.report.figures import row_figure, text

LINE = 98
"""Characters of all columns' names that stand beside each other."""
Fields = Mapping[tuple[str, str], tuple[float, str, str]]
"""(row, column) -> value, what stands in the field, what the mouse shows; absent fields stay empty."""


def heatmap(
    rows: Sequence[str], columns: Sequence[str], fields: Fields, *, low: float, high: float, colour: str
) -> go.Figure:
    """Fields from the colour of the page at `low` to half of `colour` at `high`, so that text on them can be read."""
    names = [_wrapped(name, LINE // max(1, len(columns))) for name in columns]
    below = 20 + 20 * max((len(lines) for lines in names), default=1)
    drawn = row_figure("", rows, rows, extra=30 + below)
    drawn.update_layout(margin={"b": below})
    lines = [[fields.get((row, column)) for column in columns] for row in rows]
    drawn.add_heatmap(
        x=list(range(len(columns))),
        y=list(range(len(rows))),
        z=[[None if field is None else field[0] for field in line] for line in lines],
        zmin=low,
        zmax=high,
        colorscale=[(0.0, "var(--card)"), (1.0, "var(--ran)" if colour == "var(--good)" else "var(--large)")],
        text=[["" if field is None else field[1] for field in line] for line in lines],
        texttemplate="%{text}",
        textfont={"color": "var(--ink)"},
        hovertext=[
            [
                f"<b>{text(row)}</b><br>{text(column)}<br>{'not known' if field is None else text(field[2])}"
                for column, field in zip(columns, line, strict=True)
            ]
            for row, line in zip(rows, lines, strict=True)
        ],
        hoverinfo="text",
        xgap=3,
        ygap=3,
        showscale=False,
    )
    drawn.update_xaxes(
        tickvals=list(range(len(columns))),
        ticktext=["<br>".join(map(text, lines)) for lines in names],
        tickangle=0,
        showgrid=False,
        zeroline=False,
    )
    return drawn


def _wrapped(name: str, width: int) -> list[str]:
    """Lines of a place's name: one for each part, and parts longer than `width` broken after hyphens."""
    lines = []
    for part in name.split(" · "):
        line = ""
        for word in re.findall(r"[^-]*-?", part):
            if line and len(line + word) > width:
                lines.append(line)
                line = ""
            line += word
        lines.append(line)
    return lines
