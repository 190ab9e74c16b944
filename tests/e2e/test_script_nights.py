"""Nights of a team's own script: pinned, run, judged on a pull request by the steps of its workflow, bisected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.nightly.history import History
from harness.nightly.schedule import FORMS, Job
from harness.store.store import Store

yaml = pytest.importorskip("yaml")

pytestmark = pytest.mark.e2e

TRAIN = """import sys, time
import torch

torch.manual_seed(0)
size, pause, factor = int(sys.argv[1]), 0.002, 1.0
model = torch.nn.Linear(16, 1)
optimizer = torch.optim.AdamW(model.parameters())
data = torch.randn(64, 16)
while True:
    for part in data.split(size):
        (factor * model(part).square().mean() * len(part) / 64).backward()
    time.sleep(pause)
    optimizer.step()
    optimizer.zero_grad()
"""
KNOBS = """
command = "{python} train.py {micro}"
workdir = "../code"
env = { OMP_NUM_THREADS = "1" }
[knobs.micro]
values = [64, 16]
"""
QUICK = {"launches = 3": "launches = 2", "steps = 16": "steps = 5", "sessions = 16": "sessions = 4"}


def started(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, "PATH": path}
    )


def nightly(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return started(folder, sys.executable, "-m", "harness", "nightly", *arguments)


def commit(folder: Path, text: str) -> str:
    (folder / "code" / "train.py").write_text(text)
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["add", "code", "bench"], ["commit", "-q", "-m", "a change"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository whose script lies in code/, and its knobs in bench/; its suite has two plans."""
    for name in ("code", "bench"):
        (tmp_path / name).mkdir()
    (tmp_path / "bench" / "knobs.toml").write_text(KNOBS)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    commit(tmp_path, TRAIN)
    made = nightly(tmp_path, "init", "--script", "{python} train.py {micro}", "--knobs", "bench/knobs.toml")
    assert made.returncode == 0, made.stderr
    text = (tmp_path / "nightly.toml").read_text() + "\n[plans.small]\nmicro = 16\n"
    for usual, quick in QUICK.items():
        assert usual in text
        text = text.replace(usual, quick)
    (tmp_path / "nightly.toml").write_text(text)
    return tmp_path


def test_a_pull_request_is_judged_by_the_steps_of_its_workflow(project: Path) -> None:
    first = nightly(project)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.count("the baseline has 0 of 10 nights") == 6
    (place,) = (project / "results" / "nightly" / "nightly").iterdir()
    (night,) = History(project / "results", "nightly", place.name).own()
    assert night.environment["project"] == commit_of(project)
    rows = Store(project / "results").rows("nightly-nightly", place.name)
    assert [row["role"] for row in rows] == ["baseline"] * 2 + ["nightly"] * 4
    assert {(row["source"], row["numerics"]) for row in rows[2:]} == {("script", "pass")}

    commit(project, TRAIN.replace("    for part", "    factor = 1.5 if size < 64 else 1.0\n    for part"))
    (unit,) = FORMS["pull_request"](Job(suite=project / "nightly.toml", folder=project))
    steps = [step for step in yaml.safe_load(unit.text)["jobs"]["judge"]["steps"] if "run" in step]
    assert len(steps) == 1
    ended = started(project, "bash", "-e", "-c", steps[0]["run"])
    assert ended.returncode == 3, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("::error title=NOT_MEASURED small ")
        assert "::a launch ended with numerics: loss of step 0 is" in line
    assert len(list(place.glob("*.json"))) == 1
    assert len(list((project / "results-pull-request" / "nightly" / "nightly" / place.name).glob("*.json"))) == 2


def commit_of(project: Path) -> str:
    return started(project, "git", "rev-parse", "HEAD").stdout.strip()


@pytest.mark.slow
def test_a_script_that_does_not_run_is_said_of_every_plan(project: Path) -> None:
    commit(project, "raise SystemExit(7)")
    ended = nightly(project, "run", "--format", "github")
    assert ended.returncode == 3, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert len(lines) == 6
    assert all("the reference plan 'as-it-stands' ended with crash: the command ended with" in line for line in lines)


@pytest.mark.slow
def test_the_commit_that_made_a_plan_slower_is_found(project: Path) -> None:
    good = commit_of(project)
    bad = commit(project, TRAIN.replace("0.002", "0.4"))
    asked = ("--suite", "nightly.toml", "--runs", "4", "--floor", "50%")
    ended = nightly(project, "bisect", "--good", good, "--bad", bad, "--plan", "small", *asked)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout == f"{bad} is the first bad commit\n"
    assert not (project / "results").exists()
    assert len(started(project, "git", "worktree", "list").stdout.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("init", "--script", "python a.py"), "--script and --set need --knobs"),
        (("init", "mine", "--script", "python a.py", "--knobs", "k.toml"), "a sweep says the command and the settings"),
        (("init", "--knobs", "none.toml"), "none.toml cannot be read"),
        (("init", "--knobs", "bench/knobs.toml", "--set", "micro=5"), "micro must be one of 64, 16"),
        (("bisect", "--good", "HEAD", "--bad", "HEAD"), "--plan must say which plan of the suite is measured"),
        (("bisect", "--good", "a", "--bad", "b", "--measure", "x", "--plan", "small"), "--plan says what is measured"),
        (("bisect", "--good", "a", "--bad", "b", "--plan", "small", "--project", "/"), "leave out --project"),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], sentence: str, project: Path) -> None:
    ended = nightly(project, *arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert sentence in ended.stderr
    assert not (project / "results").exists()
