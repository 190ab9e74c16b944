"""optuna-dashboard opens the journal of a sweep, as the README says."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from harness.search.study import open_study

README = Path(__file__).parents[2] / "README.md"
COMMAND = "optuna-dashboard results/studies/"


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def answer(address: str, process: subprocess.Popen[bytes], seconds: float = 60) -> str:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=seconds) as found:
                return str(found.read().decode())
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, "optuna-dashboard ended"
            assert time.monotonic() < end, "optuna-dashboard does not answer"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)


def test_optuna_dashboard_opens_the_journal(tmp_path: Path) -> None:
    program = shutil.which("optuna-dashboard", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("optuna-dashboard is not installed: install the extra `dashboard`")
    assert COMMAND in README.read_text(encoding="utf-8")
    path = tmp_path / "studies" / "hw" / "mine.log"
    study = open_study(path, "mine", ["maximize"])
    study.tell(study.ask(), 1.0)
    port = free_port()
    process = subprocess.Popen(
        [program, str(path), "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        found = json.loads(answer(f"http://127.0.0.1:{port}/api/studies", process))
    finally:
        process.kill()
        process.wait()
    assert [summary["study_name"] for summary in found["study_summaries"]] == ["mine"]
