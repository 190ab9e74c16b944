"""A strategy of another package is installed and swept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_main_job import SWEEP, TINY, table

EXAMPLE = Path(__file__).parents[1] / "example_plugin"


@pytest.mark.e2e
def test_a_strategy_of_another_package_is_installed_and_swept(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(EXAMPLE, source)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(source)], check=True, capture_output=True)
    ended = subprocess.run(
        [*SWEEP, *TINY, "--strategies", "ddp,no_gc", "--trials", "3"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    trials = table(tmp_path / "results" / "trials")
    launched = trials[trials["outcome"] != "infeasible"]
    assert set(launched["outcome"]) == {"ok"}
    assert set(launched["numerics"]) == {"pass"}
    assert True in [json.loads(knobs)["no_gc"] for knobs in launched["knobs"]]
