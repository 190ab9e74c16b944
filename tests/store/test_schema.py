"""The schema page is what the code says."""

from __future__ import annotations

from pathlib import Path

from harness.store.schema import page

ROOT = Path(__file__).parents[2]


def test_the_schema_page_was_made_from_the_columns() -> None:
    assert (ROOT / "results" / "README.md").read_text(encoding="utf-8") == page(), (
        "python -m harness.store.schema > results/README.md"
    )
