"""The HTML pages, built from the store alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.report.live import Pages
    from harness.store.store import Store


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
    from harness.report.sweep_page import render
    from harness.report.sweep_view import SweepView

    return write(render(SweepView.read(store, hardware_id, sweep)), Path(folder) / f"{sweep}.html")


def check(formats: Sequence[str]) -> None:
    """Raise an InputError if one of the formats that `also` writes is unknown or cannot be written here."""
    if formats:
        from harness.report.exports import check as check_formats

        check_formats(formats)


def also(formats: Sequence[str], store: Store, hardware_id: str, sweep: str, folder: Path) -> list[Path]:
    """Write a sweep in other formats, such as "csv" and "tensorboard", beside its page.

    Returns:
        What was written, one path for each format.

    Raises:
        InputError: the store has no trial of this sweep on this hardware.
        StoreError: the folder cannot be written.
    """
    if not formats:
        return []
    from harness.report.exports import write
    from harness.report.sweep_view import SweepView

    return write(formats, SweepView.read(store, hardware_id, sweep), Path(folder))


def pages(store: Store, hardware_id: str, sweep: str, port: int) -> Pages:
    """A server on this machine of a sweep's page, which loads itself again when something new is recorded.

    Raises:
        OSError: the port is in use.
    """
    from harness.report.live import Pages
    from harness.report.sweep_page import render
    from harness.report.sweep_view import SweepView

    def made(state: str) -> str:
        store.problems.clear()
        return render(SweepView.read(store, hardware_id, sweep), built=state)

    return Pages(lambda: store.state(hardware_id, sweep), made, port)
