"""From sections to one HTML file that works offline; every page of the harness is made here."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from harness.errors import StoreError
from harness.report import format as fmt
from harness.report.panels.panel import Chart, Fragment, Table

_HERE = Path(__file__).parent
_SCRIPTS = ("charts.js", "tables.js", "selection.js", "page.js")


@dataclass(frozen=True, kw_only=True)
class Section:
    """One panel, drawn."""

    key: str
    """Anchor in the page's address."""
    title: str
    drawn: Chart | Fragment


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What every chart and table of a page can refer to by number; the lists are as long as each other."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    """Names for people."""
    notes: tuple[str, ...]
    """What stands under the name where the mouse rests on a trial: made by the harness, no text of users."""
    commands: tuple[str, ...]
    """Repeats the trial's plan; "" where nothing can."""


def document(
    *,
    title: str,
    heading: str,
    summary: Sequence[str],
    sections: Sequence[Section],
    trials: Trials | None = None,
    built: str | None = None,
) -> str:
    """A whole page.

    No value of the store can run as code: Jinja escapes it, JSON blocks hold no "<", and the page's content security
    policy admits the scripts of the page by their hashes and nothing else, from the network least of all.

    Args:
        title: of the window.
        heading: on top, also the beginning of the names of downloaded files.
        summary: facts under the heading.
        sections: top to bottom.
        trials: what can be selected.
        built: token of this build: the page then asks the server it came from for newer ones.
    """
    drawing = any(isinstance(section.drawn, Chart) for section in sections)
    code = [*([get_plotlyjs()] if drawing else []), _page_script(), *([_asset("live.js")] if built else [])]
    return (
        templates()
        .get_template("document.html")
        .render(
            title=title,
            heading=heading,
            summary=summary,
            sections=sections,
            trials=trials,
            built=built,
            file="".join(c if c.isalnum() or c in "-_." else "-" for c in heading),
            style=Markup(_asset("page.css")),
            scripts=[Markup(text) for text in code],
            policy=" ".join(f"'sha256-{_digest(text)}'" for text in code),
        )
    )


def write(text: str, page: Path) -> Path:
    """Write a page, which appears whole or not at all, and replaces the one of an earlier build.

    Raises:
        StoreError: the folder cannot be written.
    """
    hidden = page.with_name(f".{page.name}.{secrets.token_hex(4)}")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_text(text, encoding="utf-8")
        hidden.replace(page)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder may not even exist
            hidden.unlink()
        if isinstance(error, OSError):
            raise StoreError(f"{page.parent} cannot be written: {error.strerror or error}") from error
        raise
    return page


def _figure_json(figure: go.Figure) -> Markup:
    return _inert(figure.to_json() or "{}")


def _table_json(table: Table) -> Markup:
    return _data_json({"columns": table.columns, "rows": table.rows})


def _data_json(data: Any) -> Markup:
    plain = data if isinstance(data, Mapping) else vars(data)
    return _inert(json.dumps(plain, ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False))


def _inert(text: str) -> Markup:
    """JSON that may stand inside a script element: no character in it can end the element."""
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _fragment(drawn: Fragment) -> Markup:
    # Jinja has escaped the values inside; what it made is markup.
    return Markup(templates().get_template(drawn.template).render(drawn.context))


@cache
def templates() -> Environment:
    """Every template of the pages; values are escaped."""
    environment = Environment(
        loader=FileSystemLoader([_HERE / "assets", _HERE / "panels", _HERE / "comparison", _HERE / "nightly"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure_json": _figure_json,
        "table_json": _table_json,
        "data_json": _data_json,
        "fragment": _fragment,
        "rate": fmt.rate,
        "times": fmt.times,
        "percent": fmt.percent,
        "signed": lambda share: fmt.signed_percent(share, 1),
        "by_name": lambda value, name: fmt.by_name(name, value),
    }
    environment.tests["chart"] = lambda drawn: isinstance(drawn, Chart)
    return environment


@cache
def _page_script() -> str:
    return '"use strict";\n(() => {\n' + "\n".join(_asset(name) for name in _SCRIPTS) + "})();\n"


@cache
def _digest(text: str) -> str:
    """SHA-256 as a content security policy wants it (https://www.w3.org/TR/CSP3/#grammardef-hash-source)."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _asset(name: str) -> str:
    return (_HERE / "assets" / name).read_text(encoding="utf-8")
