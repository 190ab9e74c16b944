"""Files of prepared data that other processes read: there whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from harness.errors import StoreError


def write(path: Path, content: Callable[[BinaryIO], None]) -> None:
    """Have `content` write a file, under another name until it is on the disk.

    Raises:
        StoreError: the folder cannot be written.
    """
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with hidden.open("wb") as file:
            content(file)
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(path)
    except (OSError, RuntimeError) as error:  # torch's archives raise RuntimeError where a disk is full
        with contextlib.suppress(OSError):
            hidden.unlink()
        reason = error.strerror if isinstance(error, OSError) else None
        raise StoreError(f"{path.parent} cannot be written: {reason or error}") from error
