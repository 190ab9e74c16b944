"""A sweep over the knobs of a script, from the command to the page."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.store.store import Store
from tests.html import Page

LOOP = Path(__file__).with_name("scripted_loop.py")
SWEEP = [sys.executable, "-m", "harness", "sweep", "--measure", "0.5s", "--relaunches", "0"]
KNOBS = """
command = "{python} LOOP {micro} {accumulate} {how}"
samples_per_step = "micro * accumulate"
[knobs.micro]
values = [2, 8, 16]
means = "micro_batch_size"
[knobs.accumulate]
values = [1, 2, 8]
default = 8
means = "grad_accumulation"
[knobs.how]
values = HOW
"""


def knobs(folder: Path, how: list[str], *, require: str = "micro * accumulate == 16") -> None:
    text = KNOBS.replace("LOOP", str(LOOP)).replace("HOW", json.dumps(how))
    (folder / "knobs.toml").write_text(f"require = [{json.dumps(require)}]\n{text}" if require else text)


def sweep(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*SWEEP, "--knobs", "knobs.toml", "--name", "loop", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)


def rows(folder: Path) -> list[dict[str, Any]]:
    return Store(folder / "results").rows("loop")


def test_the_fastest_plan_that_computes_the_same_wins(tmp_path: Path) -> None:
    knobs(tmp_path, ["right", "wrong", "raises"], require="micro * accumulate == 16 and micro < 16")
    done = sweep(tmp_path, "--trials", "6", "--sampler", "grid", "--json")
    assert done.returncode == 0, done.stderr
    trials = rows(tmp_path)
    by_plan = {(row["micro_batch_size"], json.loads(row["knobs"])["how"]): row for row in trials}
    assert {key: row["outcome"] for key, row in by_plan.items()} == {
        (micro, how): outcome
        for micro in (2, 8)
        for how, outcome in (("right", "ok"), ("wrong", "numerics"), ("raises", "crash"))
    }
    assert [row["role"] for row in trials[:2]] == ["baseline", "baseline"]
    assert {row["source"] for row in trials} == {"script"}
    assert by_plan[8, "right"]["numerics"] == "pass"
    assert by_plan[8, "right"]["numerics_noise"] == 0.0
    assert by_plan[2, "wrong"]["outcome_reason"].startswith("loss of step 0 is ")
    assert "ValueError: this knob breaks the script" in by_plan[2, "raises"]["outcome_reason"]
    assert (by_plan[8, "right"]["rate_of"], by_plan[8, "right"]["samples_per_step"]) == ("samples", 16.0)
    assert by_plan[8, "right"]["grad_accumulation"] == 2
    answer = json.loads(done.stdout)
    assert json.loads(answer["winner"]["knobs"])["micro"] == 8
    assert answer["winner"]["repeat"] == "python -m harness watch --knobs knobs.toml --set accumulate=2 --set micro=8"
    page = Page(tmp_path / "reports" / "loop.html")
    assert "against the baseline" in page.text
    assert "samples/s" in page.text


def test_what_computes_something_else_is_ranked_apart_and_never_wins(tmp_path: Path) -> None:
    knobs(tmp_path, ["right"], require="accumulate > 1")
    done = sweep(tmp_path, "--trials", "4", "--set", "accumulate=8")
    assert done.returncode == 0, done.stderr
    trials = rows(tmp_path)
    apart = {row["micro_batch_size"]: row["workload_id"].endswith("-apart") for row in trials}
    assert apart == {2: False, 8: True, 16: True}
    fastest = max(trials, key=lambda row: row["tokens_per_s"])
    assert apart[fastest["micro_batch_size"]]
    first, second = (done.stdout.index(text) for text in ("the same as the script as it stood", "ranked apart"))
    assert first < second
    assert "--set micro=2" not in done.stdout.partition("repeat the winners:")[2].splitlines()[1]  # its default


def test_a_sweep_that_was_killed_goes_on_and_launches_nothing_twice(tmp_path: Path) -> None:
    knobs(tmp_path, ["right"])
    command = [*SWEEP, "--knobs", "knobs.toml", "--name", "loop", "--trials", "3"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        end = time.monotonic() + 120
        while len(rows(tmp_path)) < 2 and time.monotonic() < end:  # both launches of the baseline
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
    before = {row["trial_id"] for row in rows(tmp_path)}
    assert len(before) >= 2
    done = sweep(tmp_path, "--trials", "3")
    assert done.returncode == 0, done.stderr
    trials = rows(tmp_path)
    assert before <= {row["trial_id"] for row in trials}  # on a slow machine the kill may have come last
    assert [row["role"] for row in trials].count("baseline") == 2
    assert sorted(row["micro_batch_size"] for row in trials) == [2, 2, 8, 16]


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--script", "true", "--knobs", "none.toml"], 2, "none.toml cannot be read"),
        (["--precision", "fp32"], 2, "--precision says nothing of a script"),
        (["--objective", "time-to-loss"], 2, "time-to-loss is for workloads of this package"),
        (["--set", "macro=2"], 2, "unknown knob 'macro': did you mean 'micro'?"),
        (["--baseline", "micro=3"], 2, "micro must be one of 2, 8, 16"),
        (["--set", "micro=2", "--baseline", "micro=8"], 2, "--set and --baseline have different values of micro"),
        (["--set", "how=right", "--script", "nowhere.py {micro} {accumulate} {how}"], 2, "no program on PATH"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_nothing_is_written(
    options: list[str], code: int, sentence: str, tmp_path: Path
) -> None:
    knobs(tmp_path, ["right"])
    done = sweep(tmp_path, *options)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert sentence in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["knobs.toml"]


def test_a_script_that_does_not_run_as_it_stands_ends_the_sweep(tmp_path: Path) -> None:
    knobs(tmp_path, ["raises", "right"])
    done = sweep(tmp_path, "--trials", "4")
    assert done.returncode == 3
    assert "the script as it stood ended with crash: the command ended with exit status 1" in done.stderr
    assert "the last it printed: ValueError: this knob breaks the script" in done.stderr
    assert "to see what it printed: python -m harness watch --knobs knobs.toml" in done.stderr
    assert [row["outcome"] for row in rows(tmp_path)] == ["crash"]


def test_a_script_without_a_number_of_samples_is_asked_for_it(tmp_path: Path) -> None:
    knobs(tmp_path, ["right"])
    text = (tmp_path / "knobs.toml").read_text()
    (tmp_path / "knobs.toml").write_text(text.replace('samples_per_step = "micro * accumulate"', ""))
    done = sweep(tmp_path, "--trials", "4")
    assert done.returncode == 2
    assert "nobody knows how many samples a step of scripted_loop.py holds (no data loader" in done.stderr


@pytest.mark.slow
def test_a_script_that_is_not_repeatable_is_told_so_and_judged_by_its_spread(tmp_path: Path) -> None:
    knobs(tmp_path, ["unseeded", "wrong"])
    done = sweep(tmp_path, "--trials", "3")
    assert "the script is not repeatable; plans are judged by" in done.stdout
    judged = [row for row in rows(tmp_path) if row["role"] == "search" and row["numerics_tolerance"]]
    assert all(row["numerics_tolerance"] >= 3 * row["numerics_noise"] for row in judged)
    assert judged
