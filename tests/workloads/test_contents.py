"""Hashes of large files: read once, and again whenever a file may have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.workloads import contents
from harness.workloads.contents import WORTH_BYTES, fingerprint, keep


def settled(path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that changed long before it is read."""
    path.write_bytes(content)
    later = path.stat().st_ctime_ns + 2 * contents.SETTLED_NS
    monkeypatch.setattr("time.time_ns", lambda: later)
    return path


def entry(cache: Path) -> Path:
    (found,) = (cache / "fingerprints").iterdir()
    return found


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, cache = settled(tmp_path / "d", b"x" * WORTH_BYTES, monkeypatch), tmp_path / "cache"
    before = fingerprint(file, cache)
    assert not cache.exists()
    keep(cache)
    entry(cache).write_text(entry(cache).read_text().replace(before, "f" * 16))  # so that what is looked up shows
    assert fingerprint(file, cache) == "f" * 16
    assert fingerprint(file) == before
    entry(cache).write_text("damaged")
    assert fingerprint(file, cache) == before


def test_a_file_that_changed_in_any_way_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, cache = settled(tmp_path / "d", b"x" * WORTH_BYTES, monkeypatch), tmp_path / "cache"
    before, times = fingerprint(file, cache), file.stat()
    keep(cache)
    file.write_bytes(b"y" * WORTH_BYTES)  # of the same size, in the same inode
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # and its time set back
    assert fingerprint(file, cache) != before


def test_what_changed_just_now_is_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "d"
    file.write_bytes(b"x" * WORTH_BYTES)
    fingerprint(file, tmp_path / "cache")
    keep(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
