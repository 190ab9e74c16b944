"""The scripts of the folder examples, swept on two ranks as their pages say."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.scripts.knobs_file import read
from harness.sweeps.script_space import ScriptSpace
from tests.e2e.test_main_job import ROOT, table

EXAMPLES = ROOT / "examples"
NEEDS = {
    "plain_ddp": (),
    "nano_gpt": (),
    "trainer": ("transformers", "accelerate"),
    "accelerate": ("accelerate", "yaml"),
    "deepspeed": ("deepspeed",),
    "lightning": ("lightning",),
}
"""Example -> packages beside the harness's own."""
ENGINES = {
    "trainer": ["accelerate", "transformers"],
    "accelerate": ["accelerate"],
    "deepspeed": ["deepspeed"],
    "lightning": ["lightning"],
}
"""Example -> what is recognised in it."""


def test_every_example_is_tested_and_has_its_page() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/train.py")} == NEEDS.keys()
    linked = re.findall(r"\]\((\w+)/README\.md\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    assert sorted(linked) == sorted(NEEDS)
    for name in NEEDS:
        assert "python -m harness sweep --knobs knobs.toml" in (EXAMPLES / name / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", [each for each in NEEDS if each != "accelerate" or importlib.util.find_spec("yaml")])
def test_every_plan_of_an_example_holds_the_same_samples(name: str) -> None:
    script = read(EXAMPLES / name / "knobs.toml")
    plans = [script.plan(plan) for plan in ScriptSpace(script).grid()]
    assert len(plans) >= 8
    for plan in plans:
        assert int(plan["micro_batch_size"]) * int(plan["grad_accumulation"]) * 2 == plan["global_batch_size"]


@pytest.mark.e2e
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "nano_gpt" else [pytest.mark.slow]) for n in NEEDS])
def test_an_example_is_swept_by_the_command_of_its_page(name: str, tmp_path: Path) -> None:
    for package in NEEDS[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; `tox -e engines` runs this")
    small = ["--trials", "2", "--relaunches", "0", "--measure", "0.5s", "--json"]
    where = ["--results", str(tmp_path / "results"), "--reports", str(tmp_path / "reports")]
    beside = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "harness", "sweep", "--knobs", "knobs.toml", *small, *where],
        cwd=EXAMPLES / name,
        env=os.environ | beside,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    trials = table(tmp_path / "results" / "trials")
    assert set(trials["outcome"]) == {"ok"}, trials[["outcome", "outcome_reason"]].to_string()
    assert trials["study_trial"].nunique() == 2
    assert set(trials["world_size"]) == {2}
    assert set(trials["samples_per_step"]) == set(trials["global_batch_size"])
    assert set(trials[trials["study_trial"] > 0]["numerics"]) == {"pass"}
    seen = [json.loads(text) for text in trials["seen"]]
    assert all(each["engines"] == ENGINES.get(name, []) for each in seen)
    assert all(row["backwards_per_step"] == made for row, made in zip(seen, trials["grad_accumulation"], strict=True))
    sent = [json.loads(text) for text in trials["comm_by_collective"]]
    assert all(
        sum(volume for volume, _ in each.values()) > 0 for each in sent
    )  # one training, not two beside each other
    assert answer["winner"]["tokens_per_s"] > 0
    assert Path(answer["report"]).is_file()
