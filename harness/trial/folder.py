"""The folder in which the ranks of one trial write, and meet."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.errors import StoreError, no_temporary_folder

ROOM = 16 << 20
"""Bytes that must be free where a trial's ranks write their events; they take far less."""


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder, gone afterwards.

    Raises:
        StoreError: it cannot be made, or there is no room: every plan would look as if it crashed.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="harness-trial-"))
    except OSError as error:
        raise no_temporary_folder(error) from error
    try:
        free = shutil.disk_usage(folder).free
        if free < ROOM:
            raise StoreError(
                f"{folder.parent} has {free} B left where a trial may need {ROOM} B; "
                "free some, or set TMPDIR to a folder with more room"
            )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a rank that just died may still be letting go of its files
