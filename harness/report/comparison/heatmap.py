"""A table of coloured fields, for matrices of places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from harness.report.figures import row_figure, text

Fields = Mapping[tuple[str, str], tuple[float, str, str]]
"""(row, column) -> value, what stands in the field, what the mouse shows; absent fields stay empty."""


def heatmap(
    rows: Sequence[str], columns: Sequence[str], fields: Fields, *, low: float, high: float, colour: str
) -> go.Figure:
    """Fields from the colour of the page at `low` to half of `colour` at `high`, so that text on them can be read."""
    drawn = row_figure("", rows, rows, extra=90)
    drawn.update_layout(margin={"b": 60})
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
        ticktext=[text(name).replace(" · ", "<br>") for name in columns],
        tickangle=0,
        showgrid=False,
        zeroline=False,
    )
    return drawn
