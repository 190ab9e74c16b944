"""Memory control groups: a hard limit where the system permits one, and what is left of the machine's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from harness.machine import cgroups
from harness.machine.cgroups import RankGroups, available_bytes

MIB = 1 << 20
GREEDY = "input(); held = [bytearray(1 << 20) for _ in range({mib})]; print(len(held), flush=True)"


@pytest.fixture
def permitted() -> None:
    if cgroups._home() is None:
        pytest.skip("no memory control group can be made here: needs root, or a delegated group")


def start(mib: int) -> subprocess.Popen[bytes]:
    """A process that takes so much memory once it is told to."""
    command = [sys.executable, "-c", GREEDY.format(mib=mib)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.usefixtures("permitted")
def test_the_kernel_ends_what_outgrows_its_group_and_counts_it() -> None:
    with RankGroups(16 * MIB) as groups:
        small, large = start(16), start(400)
        groups.add({0: small.pid, 1: large.pid})
        assert [small.communicate(b"\n")[0], large.communicate(b"\n")[0]] == [b"16\n", b""]
        assert (small.returncode, large.returncode) == (0, -9)
        assert groups.oom_kills() == {1: 1}
        folders = list(groups._groups.values())
        assert [folder.exists() for folder in folders] == [True, True]
    assert [folder.exists() for folder in folders] == [False, False]


@pytest.mark.usefixtures("permitted")
def test_what_is_left_in_a_group_ends_with_it() -> None:
    with RankGroups(16 * MIB) as groups:
        stray = start(1)
        groups.add({0: stray.pid})
    assert stray.wait(60) == -9


def test_without_a_limit_no_group_is_made() -> None:
    with RankGroups(None) as groups:
        groups.add({0: 1})
        assert groups._groups == {}
        assert groups.oom_kills() == {}


def test_where_groups_are_not_permitted_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroups, "control_groups", lambda controller: [tmp_path / "absent", tmp_path])
    with RankGroups(16 * MIB) as groups:
        groups.add({0: psutil.Process().pid})
        assert groups._groups == {}
    assert list(tmp_path.iterdir()) == []  # a folder without the kernel's files is no group


# -- what is left


def group(folder: Path, limit: str, used: int, cached: int, version: int) -> Path:
    """The files of a group."""
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    total = "" if version == 2 else f"total_inactive_file {cached}\n"
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached if version == 2 else 1}\n{total}")
    return folder


@pytest.mark.parametrize("version", [1, 2])
def test_a_group_around_the_harness_leaves_less_than_the_machine(
    version: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = SimpleNamespace(total=1000 * MIB, available=900 * MIB)
    monkeypatch.setattr(cgroups.psutil, "virtual_memory", lambda: machine)
    around = group(tmp_path, str(100 * MIB), 80 * MIB, 30 * MIB, version)
    monkeypatch.setattr(cgroups, "control_groups", lambda controller: [around, tmp_path / "absent"])
    assert available_bytes() == 50 * MIB


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)])
def test_a_group_without_a_limit_leaves_what_the_machine_has(
    limit: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cgroups.psutil, "virtual_memory", lambda: SimpleNamespace(total=1000, available=900))
    monkeypatch.setattr(cgroups, "control_groups", lambda controller: [group(tmp_path, limit, 80, 30, 2)])
    assert available_bytes() == 900
