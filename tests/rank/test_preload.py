"""What the fork server imports starts no driver: processes forked from it could not use a device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.rank import preload

SCRIPT = Path(__file__).with_name("fork_poison.py")


def asked_for_devices(*modules: str) -> list[str]:
    command = [sys.executable, str(SCRIPT), *modules]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return [str(call) for call in json.loads(run.stdout.splitlines()[-1])]


def test_nothing_that_is_imported_for_all_ranks_asks_for_a_device() -> None:
    assert asked_for_devices("harness.launchers.server", "harness.rank.preload", "tests.tiny") == []


def test_what_asks_is_noticed() -> None:
    pytest.importorskip("torchao")
    assert asked_for_devices(*preload.FOR_A_CPU) != []


def test_a_server_that_has_started_a_driver_is_told_from_one_that_has_not() -> None:
    code = (
        "import os, torch; from harness.rank import preload; print(preload.poisoned());"
        "parent = os.getpid(); torch.cuda._is_in_bad_fork = lambda: os.getpid() != parent; print(preload.poisoned())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    clean, started = run.stdout.splitlines()
    assert clean == "None"
    assert "has started the device's driver" in started
