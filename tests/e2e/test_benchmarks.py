"""The scripts whose tables are quoted still run: one short round of the one that has both sides in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.e2e.test_main_job import ROOT, run


@pytest.mark.e2e
def test_the_harness_is_compared_with_a_plain_script_that_trains_the_same_thing(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks" / "against_plain.py")
    small = ("--workload", "gpt:blocks=2,width=32,heads=2")
    options = (*small, "--repeats", "1", "--seconds", "0.2", "--strategies", "ddp,gpipe")
    ended = run([sys.executable, script, *options], tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [line.split("|")[1:-1] for line in ended.stdout.splitlines() if line.startswith(("| ddp", "| gpipe"))]
    assert [name.strip() for name, *_ in rows] == ["ddp", "gpipe"]
    assert all(float(row[-1]) < 1e-5 for row in rows)  # relative difference of the losses
