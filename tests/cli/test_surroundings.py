"""Signals, words of the command line, folders and variables around a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from harness.cli.app import at_home
from harness.cli.guarded import INTERRUPTED, guarded
from harness.errors import InputError
from harness.machine import surroundings
from harness.sweeps.config import load_config


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command(number: signal.Signals) -> None:
    def command() -> int:
        signal.raise_signal(number)
        return 0

    before = signal.getsignal(number)
    with pytest.raises(typer.Exit) as ended:
        guarded(command)
    assert ended.value.exit_code == INTERRUPTED
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_was_ignored_stays_ignored(number: signal.Signals) -> None:
    def command() -> int:
        signal.raise_signal(number)
        return 7

    before = signal.signal(number, signal.SIG_IGN)
    try:
        with pytest.raises(typer.Exit) as ended:
            guarded(command)
    finally:
        signal.signal(number, before)
    assert ended.value.exit_code == 7


def test_a_tilde_is_the_home_folder_wherever_it_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    words = ["--results=~/bench", "~/night.toml", "--set", "name=~/x", "--name=a~b"]
    assert [at_home(word) for word in words] == [
        "--results=/home/me/bench",
        "/home/me/night.toml",
        "--set",
        "name=~/x",
        "--name=a~b",
    ]
    file = tmp_path / "s.toml"
    file.write_bytes(b'\xef\xbb\xbfresults = "~/bench"\ntrials = 2\n')  # with a byte order mark
    config = load_config(file, {})
    assert (config.results, config.trials) == (Path("/home/me/bench"), 2)


def test_a_folder_of_the_users_own_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "__init__.py").write_text("")
    command = [sys.executable, "-m", "harness", "sweep", "--strategies", "nothing"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == InputError.exit_code
    assert run.stderr.startswith("error: unknown strategy 'nothing'")


def test_what_changes_measurements_is_said_and_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "CLEARED", {})
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    surroundings.clear()
    assert "OMP_PROC_BIND" not in os.environ
    said = surroundings.remarks({"SLURM_PROCID": "2", "RANK": "0", "CUDA_LAUNCH_BLOCKING": "1"})
    assert [sentence.partition(" ")[0] for sentence in said] == [
        "OMP_PROC_BIND",
        "CUDA_LAUNCH_BLOCKING",
        "SLURM_PROCID=2:",
    ]


def test_a_user_without_a_name_gets_one_for_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert surroundings.nobody({}) == {}  # who runs the tests is known to the system
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert surroundings.nobody({}) == {"USER": "uid54321"}
    assert surroundings.nobody({"LOGNAME": "me"}) == {}
