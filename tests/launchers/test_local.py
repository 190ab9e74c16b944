"""The fork server, and its death."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest

import harness
from harness.errors import MeasurementError
from harness.launchers import local
from harness.launchers.launcher import Launcher, Ranks
from harness.launchers.local import LocalLauncher
from tests.contracts.test_launchers import LONG, ended, gone, met
from tests.launchers import targets
from tests.trial.fake_ranks import job


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / targets.MEETING)
    return tmp_path


def server() -> int:
    return int(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ranks_end_with_their_server_and_nobody_knows_how(
    number: signal.Signals, launcher: Launcher, folder: Path
) -> None:
    ranks = launcher.start(job(folder), targets.wait_beside_a_daemon)
    daemons = met(folder)
    os.kill(server(), number)
    assert [each.status for each in ended(ranks)] == [None, None]
    ranks.kill()
    assert gone([*daemons, *daemons.values()])


def test_a_status_that_multiprocessing_has_read_is_not_lost(launcher: Launcher, tmp_path: Path) -> None:
    ranks = launcher.start(job(tmp_path), targets.end_with_status)
    for process in multiprocessing.active_children():  # it joins what has ended, as it does before each start
        process.join(LONG)
    assert [each.status for each in ended(ranks)] == [0, 3]


def test_a_server_that_died_is_replaced(launcher: Launcher, folder: Path) -> None:
    launcher.warm_up()
    before = server()
    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
    ranks = launcher.start(job(folder), targets.end_with_status)
    assert [each.status for each in ended(ranks)] == [0, 3]
    assert server() != before


def test_a_server_that_dies_while_ranks_are_started_is_replaced(
    launcher: Launcher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, killed = LocalLauncher._start, []

    def dying(self: LocalLauncher, *arguments: object) -> Ranks:
        if not killed:
            killed.append(server())
            os.kill(killed[0], signal.SIGKILL)  # it may still take the request
        return started(self, *arguments)  # type: ignore[arg-type]

    launcher.warm_up()
    monkeypatch.setattr(LocalLauncher, "_start", dying)
    ranks = launcher.start(job(folder), targets.end_with_status)
    assert [each.status for each in ended(ranks)] == [0, 3]
    assert server() != killed[0]


def test_a_socket_that_was_removed_is_made_again(launcher: Launcher, folder: Path) -> None:
    launcher.warm_up()
    os.unlink(forkserver._forkserver._forkserver_address)  # type: ignore[attr-defined]
    assert [each.status for each in ended(launcher.start(job(folder), targets.end_with_status))] == [0, 3]


def test_a_server_that_never_starts_is_named(launcher: Launcher, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object, *arguments: object) -> Ranks:
        raise EOFError

    monkeypatch.setattr(LocalLauncher, "_start", refused)
    with pytest.raises(MeasurementError, match="no rank can be started: the fork server"):
        launcher.start(job(folder), targets.end_with_status)


def test_ranks_import_what_their_parent_imports_wherever_it_was_started(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "elsewhere"
    (other / "harness").mkdir(parents=True)
    (other / "harness" / "__init__.py").write_text("raise RuntimeError('this is another harness')")
    launcher.close()
    monkeypatch.chdir(other)
    ranks = launcher.start(job(tmp_path), targets.tell_where_the_harness_is)
    assert [each.status for each in ended(ranks)] == [0, 0]
    assert (tmp_path / "harness1").read_text() == harness.__file__


def test_a_deep_folder_for_temporary_files_is_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    code = (
        "from harness.launchers.local import LocalLauncher\n"
        "with LocalLauncher() as launcher: launcher.warm_up(); print('up')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(deep)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "up\n"


def test_a_folder_whose_name_ends_paths_is_named(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "HOUSE", "/runs/12:30")
    with pytest.raises(MeasurementError, match="/runs/12:30"):
        launcher.warm_up()


def test_ranks_are_not_bound_to_one_core_by_the_environment(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    with local._environment():
        assert "OMP_PROC_BIND" not in os.environ
    assert os.environ["OMP_PROC_BIND"] == "true"
