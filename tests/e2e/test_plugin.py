"""A strategy of another package is installed and swept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_main_job import SWEEP, TINY, table

EXAMPLE = Path(__file__).parents[1] / "example_plugin"
FIXED = ("micro_batch_size=2", "bucket_mb=25", "gradient_as_bucket_view=true", "static_graph=false")
"""Every knob of ddp."""
OF_THE_MACHINE = {"disturbed", "throttled_by", "device_clock_mhz", "mfu", "peak_flops_per_s", "peak_source"}
"""Columns that are there or not as others use the machine: one that is busy has a peak that trials may beat."""
FAULTS = Path(__file__).parents[1] / "faults"


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
    assert set(launched["outcome"]) <= {"ok", "stopped_early"}, launched["outcome_reason"].to_list()
    assert set(launched["numerics"]) == {"pass"}
    assert True in [json.loads(knobs)["no_gc"] for knobs in launched["knobs"]]


def winner(folder: Path, strategies: str) -> dict[str, Any]:
    """What a sweep of one plan of ddp, and of what else is in play, answers. Among one no timing decides who wins."""
    fixed = [word for knob in FIXED for word in ("--set", knob)]
    few = ["--global-batch", "4", *fixed, "--sampler", "grid", "--trials", "99", "--json"]
    ended = subprocess.run(
        [*SWEEP, *TINY, "--strategies", strategies, *few, "--name", strategies.replace(",", "-")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(FAULTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


@pytest.mark.e2e
def test_plans_that_go_wrong_do_not_change_who_wins(tmp_path: Path) -> None:
    alone, beside = winner(tmp_path, "ddp"), winner(tmp_path, "ddp,faults")
    assert set(alone["outcomes"]) == {"ok"}
    assert {"ok", "crash", "nan", "numerics", "preempted"} <= set(beside["outcomes"])
    knobs = json.loads(beside["winner"]["knobs"])
    assert knobs.pop("fault") == "none"
    assert knobs == {k: v for k, v in json.loads(alone["winner"]["knobs"]).items() if k != "fault"}
    known = [{name for name, value in each["winner"].items() if value is not None} for each in (alone, beside)]
    assert known[0] - OF_THE_MACHINE == known[1] - OF_THE_MACHINE


@pytest.mark.e2e
def test_a_wrong_strategy_is_caught_on_its_twin_where_no_process_trains_the_model(tmp_path: Path) -> None:
    wrong = ["--set", "data_parallel=ddp", "--set", "fault=wrong_gradient", "--reference", "twin"]
    small = ["--workload", "gpt:blocks=3,width=64,heads=2", "--seq-len", "32", "--global-batch", "4"]
    small += ["--data", str(FAULTS.parent / "sweeps" / "recorded" / "numbers.txt")]
    ended = subprocess.run(
        [sys.executable, "-m", "harness", "run", *small, *wrong],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (FAULTS, FAULTS.parents[1])))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    (trial,) = table(tmp_path / "results" / "trials").to_dict("records")
    assert (trial["outcome"], trial["numerics"], trial["reference"], trial["role"]) == (
        "numerics",
        "fail",
        "twin",
        "run",
    )
    assert trial["outcome_reason"].startswith("on its twin of 2 blocks: gradient norm of step 2 is")
