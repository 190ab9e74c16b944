"""How large a sweep's page is, and how soon a browser can use it.

Synthetic sweeps of 100 and of 2,000 trials (benchmarks/synthetic.py), their pages opened in a headless Chromium by
Playwright. "first paint" is the browser's first contentful paint; "usable" is when the page's script has run, the first
chart was scrolled to and drawn, and a filter typed into the table has been applied; both from the start of the
navigation.

Goals: under 6 MB for 100 trials and under 8 MB for 2,000; first paint under 1 s; usable in under 2 s.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import synthetic

PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"


def opened(browser: Any, path: Path) -> dict[str, float]:
    """Times of one load, in s."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(path.as_uri())
    page.locator(".chart").first.scroll_into_view_if_needed()
    page.locator(".chart .main-svg").first.wait_for()
    page.evaluate(
        "() => { const field = document.querySelector('[data-filter=plans]'); field.value = 'zero2';"
        " field.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    page.locator("[data-count=plans]", has_text=" of ").wait_for()
    found = {"usable": page.evaluate("performance.now() / 1000"), "painted": page.evaluate(PAINTED)}
    page.close()
    return found


def main() -> None:
    """Build the pages, open them, print the table."""
    given = common.arguments(__doc__, repeats=7)
    from playwright.sync_api import sync_playwright

    from harness.report import build
    from harness.store.store import Store

    chromium = shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("there is no chromium here")
    table = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for trials in (100, 2000):
            root = Path(folder) / str(trials)
            synthetic.build(root, 1, trials, 56)
            path = build(Store(root), synthetic.HARDWARE[0], "synthetic-0000", root)
            runs = [opened(browser, path) for _ in range(given.repeats)]
            times = [f"{statistics.median(run[name] for run in runs):.2f}" for name in ("painted", "usable")]
            table.append([f"{trials:,}", f"{path.stat().st_size / 1e6:.2f}", *times])
        version = browser.version
        browser.close()
    common.print_table(("trials", "page MB", "first paint s", "usable s"), table, f"Chromium {version}, headless.")


if __name__ == "__main__":
    main()
