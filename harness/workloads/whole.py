"""Files and folders of prepared data that other processes read: there whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import filelock

from harness.errors import InputError, StoreError


def write(path: Path, content: Callable[[BinaryIO], None]) -> None:
    """Have `content` write a file, under another name until it is on the disk.

    Raises:
        StoreError: the folder cannot be written.
    """
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            with hidden.open("wb") as file:
                content(file)
                file.flush()
                os.fsync(file.fileno())
            hidden.replace(path)
    except StoreError:
        with contextlib.suppress(OSError):
            hidden.unlink()
        raise


def fill(folder: Path, is_whole: Callable[[], bool], content: Callable[[Path], None]) -> None:
    """Have `content` write a folder, under another name until all of it is on the disk; one process at a time.

    Args:
        folder: what other processes read.
        is_whole: whether nothing is left to do.
        content: gets the folder `<name>.partial`, in which an earlier process that was ended may have left its work.
            After an InputError that work is removed: the same data would be refused again.

    Raises:
        StoreError: the folder cannot be written.
    """
    if is_whole():
        return
    with _alone(folder):
        if is_whole():
            return
        partial = folder.with_name(f"{folder.name}.partial")
        with writing(folder.parent):
            partial.mkdir(exist_ok=True)
        try:
            content(partial)
        except InputError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        with writing(folder.parent):
            _sync(partial)
            if folder.exists():  # damaged, or it would be whole
                shutil.rmtree(folder)
            partial.rename(folder)


def version(path: Path) -> tuple[int, ...]:
    """What differs between two files that were written under one name; () where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def holds(path: Path, size: int, checksum: int) -> bool:
    """Whether a file begins with `size` bytes of this checksum."""
    found, left = 0, size
    if not path.is_file() or path.stat().st_size < size:
        return size == 0
    with path.open("ab+") as file:
        file.seek(0)
        while left and (piece := file.read(min(left, 2**20))):
            found, left = zlib.crc32(piece, found), left - len(piece)
    return found == checksum


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says of what goes wrong in writing that the folder cannot be written.

    Raises:
        StoreError: in place of an OSError.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch's archives raise RuntimeError where a disk is full
        reason = error.strerror if isinstance(error, OSError) else None
        raise StoreError(f"{folder} cannot be written: {reason or error}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process prepares the folder meanwhile."""
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
