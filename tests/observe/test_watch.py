"""Scripts of others, run as they stand: what is seen of them is what they did, and nothing of them is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.launchers.job import Deadlines, Measurement
from harness.launchers.script import ScriptJob
from harness.store.records import Outcome
from harness.trial.script_summary import columns
from harness.trial.scripted import ScriptTrace, follow_script

SCRIPT = Path(__file__).with_name("somebodys_script.py")
ALONE = (sys.executable,)
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
FEW = Measurement(warmup_steps=4, min_steps=8, max_steps=8, seconds=60.0)

pytestmark = pytest.mark.launching


def watch(
    folder: Path, *command: str, measurement: Measurement = FEW, **deadlines: float
) -> tuple[dict[str, Any], ScriptTrace]:
    """A command's columns and trace; nothing of it may be left."""
    trial = folder / "trial"
    trial.mkdir()
    job = ScriptJob(
        folder=trial, command=command, workdir=folder, environment={"OMP_NUM_THREADS": "1"}, measurement=measurement
    )
    trace = follow_script(job, Deadlines(**{"start": 120.0, "step": 60.0, **deadlines}))
    assert [p.pid for p in psutil.process_iter() if str(folder) in " ".join(_command_line(p))] == []
    assert trace.troubles == ""
    return columns(trace), trace


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.Error:
        return []


def told(folder: Path, rank: int) -> list[float]:
    """Losses that the script wrote itself."""
    return [float.fromhex(line) for line in (folder / f"told{rank}").read_text().split()]


def seen(trace: ScriptTrace, rank: int) -> list[float]:
    """Losses that were seen of it."""
    return [event["loss"] for event in trace.readers[rank].all("step")]


def test_two_ranks_with_accumulation_and_loader_workers(tmp_path: Path) -> None:
    found, trace = watch(tmp_path, *TWO, str(SCRIPT), str(tmp_path), "workers")
    seen_of_it = (found["outcome"], found["world_size"], found["steps_by_rank"])
    assert seen_of_it == (Outcome.OK, 2, [12, 12]), found["evidence"]
    for rank in range(2):  # the script may have come to the next backward, where it was stopped
        assert seen(trace, rank) == told(tmp_path, rank)
    assert (found["backwards_per_step"], found["optimizers"]) == (3, ["AdamW"])
    assert (found["samples_per_step"], found["tokens_per_step"]) == (48, 96.0)
    assert found["batch_shapes"] == {"0": [8, 2], "1": [8, 1]}
    parameters = 16 * 32 + 32 + 32 + 1
    assert json.loads(found["comm_by_collective"]) == {"all_reduce": [3 * 4 * parameters, 3]}
    assert found["measured_steps"] + found["warmup_steps"] == 12
    assert found["step_time_low_s"] <= found["step_time_s"] <= found["step_time_high_s"]
    assert found["peak_memory_bytes"] > 0


def test_a_rank_that_raises_is_named_although_the_launcher_ends_the_other(tmp_path: Path) -> None:
    found, trace = watch(tmp_path, *TWO, str(SCRIPT), str(tmp_path), "raises", measurement=Measurement(min_steps=99))
    assert found["outcome"] is Outcome.CRASH
    assert found["outcome_reason"] == "rank 1 raised ValueError: as asked"
    assert seen(trace, 1) == told(tmp_path, 1)
    assert "as asked" in json.loads(found["evidence"])["ranks"][1]["traceback"]


@pytest.mark.slow
def test_a_rank_that_is_killed_comes_before_one_that_raises_because_of_it(tmp_path: Path) -> None:
    found, _ = watch(tmp_path, *TWO, str(SCRIPT), str(tmp_path), "is killed", measurement=Measurement(min_steps=99))
    assert (found["outcome"], found["failed_rank"]) == (Outcome.CRASH, 1)
    assert found["outcome_reason"].startswith("SIGKILL ended rank 1")


@pytest.mark.slow
def test_a_rank_that_makes_no_step_while_another_makes_all(tmp_path: Path) -> None:
    found, _ = watch(tmp_path, *TWO, str(SCRIPT), str(tmp_path), "one sided")
    assert (found["outcome"], found["failed_rank"], found["steps_by_rank"]) == (Outcome.CRASH, 1, [12, 0])
    assert found["outcome_reason"] == "rank 1 made no step, while rank 0 made 12"


@pytest.mark.slow
def test_a_rank_that_hangs_says_where(tmp_path: Path) -> None:
    endless = Measurement(min_steps=10**5, max_steps=10**6)
    found, _ = watch(tmp_path, *TWO, str(SCRIPT), str(tmp_path), "hangs", measurement=endless, step=5.0)
    assert found["outcome"] is Outcome.HANG
    assert "in misbehave" in json.loads(found["evidence"])["ranks"][1]["stacks"]


def test_a_watched_script_computes_what_it_computes_alone(tmp_path: Path) -> None:
    command = (*ALONE, str(SCRIPT), str(tmp_path), "scaler", "12")
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    alone = told(tmp_path, 0)
    found, trace = watch(tmp_path, *command)
    assert (found["outcome"], len(alone)) == (Outcome.OK, 12)
    assert seen(trace, 0) == alone  # and told unscaled
    assert told(tmp_path, 0) == alone[: len(told(tmp_path, 0))]


@pytest.mark.parametrize(
    ("case", "steps", "reason"),
    [
        ("os._exit", "100", "rank 0 ended in measure, after step 6 without having finished"),
        pytest.param(
            "plain", "6", "the script ended by itself after 6 steps, and 12 are needed", marks=pytest.mark.slow
        ),
        pytest.param("plain", "0", "the command ended with exit status 0 before any", marks=pytest.mark.slow),
        pytest.param("no such", "x", "the command ended with exit status 1 before any", marks=pytest.mark.slow),
        pytest.param("no optimizer", "9", "no optimizer of torch.optim stepped; say where", marks=pytest.mark.slow),
    ],
)
def test_a_script_that_cannot_be_measured_says_why(tmp_path: Path, case: str, steps: str, reason: str) -> None:
    found, _ = watch(tmp_path, *ALONE, str(SCRIPT), str(tmp_path), case, steps)
    assert found["outcome"] is Outcome.CRASH
    assert reason in found["outcome_reason"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["catches", "leaves", "prints"])
def test_whatever_a_script_does_it_is_ended_with_everything_below_it(tmp_path: Path, case: str) -> None:
    found, trace = watch(tmp_path, *ALONE, str(SCRIPT), str(tmp_path), case)
    assert found["outcome"] is Outcome.OK
    assert seen(trace, 0) == told(tmp_path, 0)
    assert len(trace.outputs[0]) < 1 << 16


@pytest.mark.slow
def test_a_script_may_say_more_of_its_steps(tmp_path: Path) -> None:
    found, trace = watch(tmp_path, *ALONE, str(SCRIPT), str(tmp_path), "says")
    assert found["outcome"] is Outcome.OK
    assert seen(trace, 0) == [2 * loss for loss in told(tmp_path, 0)]
    assert (found["samples_per_step"], found["tokens_per_step"]) == (5, 100)
