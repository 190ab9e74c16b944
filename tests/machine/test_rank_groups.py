"""Memory control groups: a hard limit for each rank where the system permits one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.machine import rank_groups
from harness.machine.rank_groups import RankGroups

MIB = 1 << 20
GREEDY = "input(); held = [bytearray(1 << 20) for _ in range({mib})]; print(len(held), flush=True)"


@pytest.fixture
def permitted() -> None:
    if rank_groups._home() is None:
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
    monkeypatch.setattr(rank_groups, "control_groups", lambda controller: [tmp_path / "absent", tmp_path])
    with RankGroups(16 * MIB) as groups:
        groups.add({0: psutil.Process().pid})
        assert groups._groups == {}
    assert list(tmp_path.iterdir()) == []  # a folder without the kernel's files is no group
