"""Sweeps that an earlier version began, and a kill ended, are taken up by this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.machine import hardware
from harness.store.records import SCHEMA_VERSION
from harness.store.store import Store
from tests.e2e.test_main_job import SWEEP, run

pytestmark = pytest.mark.e2e

RECORDED = Path(__file__).parents[1] / "sweeps" / "recorded"
THERE = "cpu-intel-xeon-2c-24g-f80b8b"
"""The machine that recorded them; this one takes them for its own."""
OPTIONS = [
    "--workload",
    "gpt:blocks=2,width=32,heads=2",
    "--data",
    "numbers.txt",
    "--seq-len",
    "16",
    "--global-batch",
    "8",
    "--strategies",
    "ddp,zero1",
    "--world-size",
    "2",
    "--set",
    "precision=fp32",
    "--measure",
    "0.2s",
    "--relaunches",
    "0",
]


@pytest.mark.parametrize(("name", "sampler"), [("killed-random", "random"), ("killed-guided", "guided")])
def test_a_sweep_begun_by_an_earlier_version_goes_on(name: str, sampler: str, tmp_path: Path) -> None:
    shutil.copytree(RECORDED, tmp_path, dirs_exist_ok=True)
    here = hardware.detect().hardware_id
    for folder in [path for path in tmp_path.rglob(f"*{THERE}") if path.is_dir()]:
        folder.rename(folder.with_name(folder.name.replace(THERE, here)))
    before = Store(tmp_path / "results").trials(name)
    launched = int((before["outcome"] != "infeasible").sum())
    asked = [*SWEEP, "--name", name, "--sampler", sampler, *OPTIONS, "--trials", str(launched + 2)]
    ended = run(asked, tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    after = Store(tmp_path / "results").trials(name)
    assert list(after["trial_id"][: len(before)]) == list(before["trial_id"])
    assert list(after["plan_id"][: len(before)]) == list(before["plan_id"])
    new = after[len(before) :]
    counted = new[new["study_trial"].notna() & (new["outcome"] != "infeasible")]
    assert len(counted) == 2
    assert set(new["schema_version"]) == {SCHEMA_VERSION}
    # What was tried is not tried again, whatever it was called then.
    assert set(counted["plan_id"]) & set(before["plan_id"]) == set()


def test_a_sweep_of_that_name_on_other_hardware_is_named_and_left_alone(tmp_path: Path) -> None:
    shutil.copytree(RECORDED, tmp_path, dirs_exist_ok=True)
    other = "cpu-quite-another-64c-512g-0a1b2c"
    for folder in [path for path in tmp_path.rglob(f"*{THERE}") if path.is_dir()]:
        folder.rename(folder.with_name(folder.name.replace(THERE, other)))
    before = Store(tmp_path / "results").trials("killed-random")
    ended = run([*SWEEP, "--name", "killed-random", "--sampler", "random", *OPTIONS, "--trials", "1"], tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = " ".join(ended.stdout.split())  # however wide the terminal is
    assert told.count(f"a sweep 'killed-random' was begun on other hardware, {other} (") == 1
    assert "; here it begins anew" in told
    after = Store(tmp_path / "results").trials("killed-random")
    assert set(before["trial_id"]) < set(after["trial_id"])
    assert (after["hardware_id"] == other).sum() == len(before)
