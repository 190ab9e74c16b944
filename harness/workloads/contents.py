"""What tells the contents of files from others: hashes, of large files looked up where a file is as it was.

A file counts as it was if its device, inode, size and both of its times are. A change within the same tick of the clock
would leave all these as they are, so what changed shortly before it was read is not remembered.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from pathlib import Path
from typing import BinaryIO

from harness.errors import InputError
from harness.workloads import whole
from harness.workloads.rows import existing, visible

WORTH_BYTES = 2**20
"""From which size on a hash is kept."""
SETTLED_NS = 2 * 10**9
"""How long before it is read a file must have changed last: the ticks of file systems go up to 2 s (FAT)."""
_new: dict[Path, tuple[tuple[int, ...], str]] = {}
"""Where a hash is to be kept -> of which version of the file it is, and the hash."""


def fingerprint(path: Path, cache: Path | None = None) -> str:
    """16 hexadecimal digits, a hash of a file's content, or of the names and contents of all files in a folder that are
    not hidden.

    Args:
        path: of the file or folder.
        cache: folder in which `keep` has kept hashes; nothing is written to it here.

    Raises:
        InputError: something cannot be read.
    """
    found = existing(path, "data")
    if found.is_file():
        return _hash_of(found, cache)[:16]
    digest = hashlib.sha256()
    for file in visible(found):
        digest.update(json.dumps([file.relative_to(found).as_posix(), _hash_of(file, cache)]).encode())
    return digest.hexdigest()[:16]


def keep(cache: Path) -> None:
    """Write the hashes of large files that this process had to read.

    Raises:
        StoreError: the folder cannot be written.
    """
    for entry in [entry for entry in _new if entry.parent == _folder(cache)]:
        version, digest = _new.pop(entry)
        content = json.dumps({"version": version, "sha256": digest}).encode()
        whole.write(entry, functools.partial(_put, content))


def _hash_of(path: Path, cache: Path | None) -> str:
    version, now = whole.version(path), time.time_ns()
    entry = None if cache is None else _folder(cache) / f"{_name(path)}.json"
    if entry is not None and (known := _kept(entry, version)):
        return known
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    if entry is not None and version and version == whole.version(path):
        _, _, size, *times = version
        if size >= WORTH_BYTES and now - max(times) > SETTLED_NS:
            _new[entry] = version, digest
    return digest


def _folder(cache: Path) -> Path:
    return cache.absolute() / "fingerprints"


def _name(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]


def _put(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _kept(entry: Path, version: tuple[int, ...]) -> str | None:
    try:
        found = json.loads(entry.read_bytes())
        return str(found["sha256"]) if tuple(found["version"]) == version and version else None
    except (OSError, ValueError, LookupError, TypeError):
        return None  # never written, or damaged: the file is read again
