"""The HTML pages, built from the store alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.store import Store


def build(store: Store, hardware_id: str, sweep: str, folder: Path) -> Path:
    """Write the page of a sweep: one file that needs no network and nothing beside it.

    The file appears whole or not at all, and replaces the page of an earlier build.

    Args:
        store: where the sweep was recorded.
        hardware_id: what it ran on.
        sweep: its name.
        folder: where the page goes; created if needed.

    Returns:
        The path of the page, `folder/<sweep>.html`.

    Raises:
        InputError: the store has no trial of this sweep on this hardware.
        StoreError: the folder cannot be written.
    """
    # Imported here, since plotly takes longer to import than everything else that a command line needs.
    from harness.report.document import write
    from harness.report.page import render
    from harness.report.view import SweepView

    return write(render(SweepView.read(store, hardware_id, sweep)), Path(folder) / f"{sweep}.html")
