"""From view to HTML: every panel drawn, in one file that works offline."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from harness.report import format as fmt
from harness.report.panels import PANELS
from harness.report.panels.base import Chart, Fragment
from harness.report.view import SweepView

_HERE = Path(__file__).parent


def render(view: SweepView) -> str:
    """The whole page of a sweep.

    No value of the store can run as code: Jinja escapes it, JSON blocks hold no "<", and the page's content security
    policy admits the two scripts of the page by their hashes and nothing else, from the network least of all.
    """
    computed = ((panel, panel.data(view)) for panel in PANELS)
    sections = [(panel, panel.draw(data)) for panel, data in computed if data is not None]
    scripts = (get_plotlyjs(), _read("page.js"))
    return (
        _templates()
        .get_template("template.html")
        .render(
            view=view,
            sections=sections,
            summary=_summary(view),
            style=Markup(_read("page.css")),
            scripts=[Markup(text) for text in scripts],
            policy=" ".join(f"'sha256-{_digest(text)}'" for text in scripts),
        )
    )


def figure_json(figure: go.Figure) -> Markup:
    """A figure as JSON that may stand inside a script element: no character in it can end the element."""
    text = figure.to_json() or "{}"
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _fragment(drawn: Fragment) -> Markup:
    # Jinja has escaped the values inside; what it made is markup.
    return Markup(_templates().get_template(drawn.template).render(drawn.context))


def _summary(view: SweepView) -> tuple[str, ...]:
    """The line under the title: workload, hardware, trials, time."""
    first, wall, training = view.rows[0], view.info.get("wall_s"), view.info.get("training_s")
    names = sorted({str(row["workload"]) for row in view.rows})
    share = f", {fmt.percent(training / wall)} of it in training steps" if wall and training else ""
    return (
        fmt.listed(names),
        view.hardware_id,
        f"{fmt.count(len(view.rows), 'trial')}, {len(view.ranked):,} ok",
        *([f"{fmt.duration(wall)}{share}"] if wall else []),
        f"{first['started_at']:%Y-%m-%d %H:%M} UTC",
    )


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader([_HERE, _HERE / "panels"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure_json"] = figure_json
    environment.filters["fragment"] = _fragment
    environment.tests["chart"] = lambda drawn: isinstance(drawn, Chart)
    return environment


@cache
def _digest(text: str) -> str:
    """SHA-256 as a content security policy wants it (https://www.w3.org/TR/CSP3/#grammardef-hash-source)."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
