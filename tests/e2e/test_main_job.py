"""What a newcomer does: the README's commands, and a sweep that is killed, interrupted or run twice."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.dataset as ds
import pytest

from harness.store.records import STEPS, TRIALS, Outcome
from tests.html import Page

ROOT = Path(__file__).parents[2]
TINY = [
    "--workload",
    "gpt:blocks=2,width=64,heads=2",
    "--seq-len",
    "32",
    "--measure",
    "0.3s",
    "--sampler",
    "random",
    "--relaunches",
    "0",
]
SWEEP = [sys.executable, "-m", "harness", "sweep"]

pytestmark = pytest.mark.e2e


def blocks() -> list[str]:
    """The README's fenced blocks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```[a-z]*\n(.*?)^```", text, re.S | re.M)


def run(command: list[str], folder: Path, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)


def table(folder: Path):
    return ds.dataset(folder, format="parquet", partitioning="hive").to_table().to_pandas()


def searched(trials):
    """The trials that stand for one of the study; final and disturbed launches do not."""
    return trials[trials["study_trial"].notna()]


def breaches(results: Path) -> list[str]:
    """What a results folder has against the contract that readers rely on."""
    trials, steps = table(results / "trials"), table(results / "steps")
    wrong = [f"trials lacks {c.name}" for c in TRIALS if c.name not in trials]
    wrong += [f"steps lacks {c.name}" for c in STEPS if c.name not in steps]
    wrong += [f"{t} stands twice" for t in trials["trial_id"][trials["trial_id"].duplicated()]]
    wrong += [f"unknown outcome {o}" for o in set(trials["outcome"]) - set(Outcome)]
    ok = trials[trials["outcome"] == "ok"]
    wrong += [f"{t} has no steps" for t in set(ok["trial_id"]) - set(steps["trial_id"])]
    for name in ("tokens_per_s", "step_time_s", "peak_memory_bytes"):
        wrong += [f"an ok trial without {name}"] * int((~(ok[name] > 0)).sum())
    wrong += ["dp x tp x pp is not world_size"] * int((ok["dp"] * ok["tp"] * ok["pp"] != ok["world_size"]).sum())
    rate = ok["global_batch_size"] * ok["seq_len"] / ok["step_time_s"]
    wrong += ["tokens_per_s is not tokens / step_time_s"] * int(((rate / ok["tokens_per_s"] - 1).abs() > 1e-6).sum())
    return wrong


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 900) -> None:
    """Return once `condition` holds; fail if the process ends or the time is over before that."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        with_timeout(process, 0.05)


def with_timeout(process: subprocess.Popen[str], seconds: float) -> None:
    """Let the process run for a moment."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def recorded(folder: Path) -> list[Path]:
    return sorted(folder.glob("results/trials/*/*/*.parquet"))


def living(group: str) -> list[str]:
    """Command lines of processes that carry a marker in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if group.encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it ended meanwhile, or is not ours
            continue
    return found


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SWEEP, *TINY, *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "HARNESS_TEST_MARK": str(folder)},
        start_new_session=True,
    )


@pytest.mark.parametrize("budget", [["--time-budget", "75s"], pytest.param([], id="3m", marks=pytest.mark.slow)])
def test_the_main_job_of_the_readme_runs_and_keeps_the_contract(budget: list[str], tmp_path: Path) -> None:
    install, main = blocks()[0].strip().splitlines()
    assert install.startswith("python -m pip install")
    assert main == "python -m harness sweep"
    sweep = subprocess.Popen(
        [sys.executable, *shlex.split(main)[1:], *budget],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: any((tmp_path / "reports").glob("*.html")), sweep)  # while it runs
    out = sweep.communicate(timeout=1800)[0]
    assert sweep.returncode == 0, out
    assert breaches(tmp_path / "results") == []
    trials = table(tmp_path / "results" / "trials")
    # How many trials the time allows is the machine's affair; that none of them goes wrong is ours.
    assert set(trials["outcome"]) <= {"ok", "stopped_early", "infeasible"}, trials["outcome_reason"].to_list()
    assert len(set(trials["plan_id"])) > 1
    (page,) = (tmp_path / "reports").glob("*.html")
    assert Page(page).references() == []
    (command,) = re.findall(r"^  (python -m harness run .*)$", out, re.M)
    again = run([sys.executable, *shlex.split(command)[1:]], tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.startswith("ok")


def test_a_sweep_tries_every_way_of_using_every_strategy(tmp_path: Path) -> None:
    short = ["--measure", "0.05s", "--no-racing", "--trials", "30", "--name", "ways"]
    ended = run([*SWEEP, *TINY, *short], tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    trials = table(tmp_path / "results" / "trials")
    ok = trials[trials["outcome"] == "ok"]
    assert {"ddp", "zero1", "zero2", "zero3"} <= set(ok["data_parallel"])
    assert (ok["tp"] > 1).any()
    assert (ok["pp"] > 1).any()
    assert set(ok["quantization"]) >= {"int8", "float8", "adamw8bit", "adamw4bit", "adamwfp8"}
    assert set(ok["precision"]) >= {"fp32", "bf16_autocast", "bf16_params", "bf16"}
    assert set(ok["activation_checkpoint"]) >= {"none", "full", "nth", "selective"}


def test_the_test_command_of_the_readme_is_tox() -> None:
    assert blocks()[1].strip().splitlines()[-1] == "tox"


def test_a_killed_sweep_is_resumed_and_nothing_is_lost_or_repeated(tmp_path: Path) -> None:
    first = start(tmp_path, "--name", "night", "--trials", "5")
    wait_for(lambda: len(recorded(tmp_path)) >= 2, first)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    before = set(table(tmp_path / "results" / "trials")["trial_id"])
    end = time.monotonic() + 300
    while living(str(tmp_path)):  # the ranks end with the parent
        assert time.monotonic() < end, living(str(tmp_path))
    second = start(tmp_path, "--name", "night", "--trials", "5")
    out = second.communicate(timeout=300)[0]
    assert second.returncode == 0, out
    trials = table(tmp_path / "results" / "trials")
    assert before < set(trials["trial_id"])
    assert len(searched(trials)) == 5
    assert not searched(trials)["plan_id"].duplicated().any()
    assert breaches(tmp_path / "results") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_stops_cleanly_and_prints_how_to_resume(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "--name", "night", "--time-budget", "1h")
    wait_for(lambda: len(recorded(tmp_path)) >= 1, process)
    process.send_signal(number)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 130, out
    assert "python -m harness sweep --name night" in out
    assert living(str(tmp_path)) == []
    assert breaches(tmp_path / "results") == []


def test_the_same_sweep_is_not_run_by_two_processes_at_once(tmp_path: Path) -> None:
    first = start(tmp_path, "--name", "night", "--time-budget", "1h")
    wait_for(lambda: len(recorded(tmp_path)) >= 1, first)
    second = start(tmp_path, "--name", "night")
    out = second.communicate(timeout=300)[0]
    assert second.returncode == 2, out
    assert "another process is running the sweep 'night'" in out
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=300)
    assert first.returncode == 130


def test_a_sweep_outlives_its_fork_server(tmp_path: Path) -> None:
    process = start(tmp_path, "--name", "night", "--trials", "4")
    wait_for(lambda: len(recorded(tmp_path)) >= 1, process)
    (server,) = [p.pid for p in psutil.Process(process.pid).children() if "forkserver" in " ".join(p.cmdline())]
    os.kill(server, signal.SIGKILL)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    trials = table(tmp_path / "results" / "trials")
    settled = searched(trials[~trials["outcome"].isin(["preempted", "infeasible"])])
    assert len(settled) == 4
    assert set(trials["plan_id"][trials["outcome"] == "preempted"]) <= set(settled["plan_id"])
    assert living(str(tmp_path)) == []
    assert breaches(tmp_path / "results") == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "term"])
def test_nothing_is_lost_whenever_a_sweep_is_hit(how: str, tmp_path: Path) -> None:
    ended = run([sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--kills", "2", "--hit", how], tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_sweeps_without_a_name_that_start_at_once_have_names_of_their_own(tmp_path: Path) -> None:
    both = [start(tmp_path, "--trials", "1") for _ in range(2)]
    outs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert len(set(table(tmp_path / "results" / "trials")["sweep"])) == 2
