from __future__ import annotations

import errno
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.store import exchange as module
from harness.store.exchange import exchange


def folders(root: Path) -> tuple[Path, Path]:
    one, other = root / "one", root / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    return one, other


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="this system cannot swap folders")
def test_two_folders_are_swapped(tmp_path: Path) -> None:
    one, other = folders(tmp_path)
    assert exchange(one, other)
    assert [(folder / "name").read_text() for folder in (one, other)] == ["other", "one"]


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="this system cannot swap folders")
def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    one, other = folders(tmp_path)
    with pytest.raises(FileNotFoundError, match="one"):
        exchange(one.rename(tmp_path / "gone").with_name("one"), other)


def test_where_the_system_cannot_it_says_so_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = folders(tmp_path)
    monkeypatch.setattr(module.sys, "platform", "plan9")
    assert not exchange(one, other)
    assert (one / "name").read_text() == "one"


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.ENOSYS])
def test_file_systems_and_sandboxes_that_refuse_it_are_systems_that_cannot(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of a container image's layer cannot be renamed."""
    one, other = folders(tmp_path)
    call = SimpleNamespace(renameat2=lambda *arguments: -1, renameatx_np=lambda *arguments: -1)
    monkeypatch.setattr(module.ctypes, "CDLL", lambda *arguments, **options: call)
    monkeypatch.setattr(module.ctypes, "get_errno", lambda: number)
    assert not exchange(one, other)
