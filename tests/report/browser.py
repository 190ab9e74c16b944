"""A real browser: the Chromium that is installed, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDE, NARROW = 1440, 390


@dataclass
class Opened:
    """A page in the browser, and everything it complained about or asked for."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def texts(self, selector: str) -> list[str]:
        """The visible texts of the elements that fit."""
        return [text for text in self.page.locator(selector).all_inner_texts() if text]

    def drawn(self, chart: str) -> Any:
        """A chart, scrolled to and drawn."""
        place = self.page.locator(f"#{chart}-chart")
        place.scroll_into_view_if_needed()
        place.locator(".main-svg").first.wait_for()
        return place


def executable() -> str:
    """Path of the browser; skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no browser: install chromium to run this test")
    return found


@contextmanager
def started() -> Iterator[Any]:
    """The browser."""
    path = executable()
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: install the extra `test`")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, address: str | Path, *, width: int = WIDE, dark: bool = False) -> Iterator[Opened]:
    """A page, loaded."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", accept_downloads=True
    )
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.errors.append(message.text) if message.type == "error" else None)
    found.page.on("pageerror", lambda error: found.errors.append(str(error)))
    found.page.on("dialog", lambda dialog: (found.errors.append(dialog.message), dialog.dismiss()))
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.goto(address.as_uri() if isinstance(address, Path) else address)
    try:
        yield found
    finally:
        context.close()
