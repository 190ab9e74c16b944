"""Reads a page as a browser does: what stands inside a script is no element."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.text = ""
        self._script: dict[str, str | None] | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._script = dict(attrs) if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data
        else:
            self.scripts.append((self._script.get("type"), data))

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def references(self) -> list[str]:
        """What the elements load or link to outside the page itself."""
        found = [a.get(name) or "" for _, a in self.elements for name in ("src", "href", "srcset", "action", "poster")]
        return [address for address in found if address and not address.startswith(("#", "data:"))]
