"""Bisecting a small project whose numbers are written in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import InputError, MeasurementError
from harness.nightly.bisect import Bisect

MEASURE = f"{sys.executable} bench.py"
BENCH = """import itertools, pathlib, os
count = pathlib.Path(os.environ["COUNT"])
number = int(count.read_text()) if count.exists() else 0
count.write_text(str(number + 1))
print("seconds", {seconds} * (1 + 0.001 * (number % 5)))
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


def commits(folder: Path, texts: list[str]) -> list[str]:
    made = []
    for number, text in enumerate(texts):
        (folder / "bench.py").write_text(text)
        (folder / "number").write_text(str(number))
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", str(number))
        made.append(git(folder, "rev-parse", "HEAD"))
    return made


def timed(*seconds: float) -> list[str]:
    return [BENCH.format(seconds=value) for value in seconds]


def test_the_commit_that_made_it_slower_is_found(project: Path) -> None:
    made = commits(project, timed(1.0, 1.0, 1.0, 1.0, 1.1, 1.1, 1.1))
    job = Bisect(project, "", MEASURE)
    assert job.find(made[0], made[-1]) == made[4]
    assert job.steps[0].verdict == "bad"
    assert git(project, "worktree", "list").count("\n") == 0


def test_a_revision_that_does_not_build_is_skipped(project: Path) -> None:
    texts = timed(1.0, 1.0, 1.0, 1.1, 1.1)
    texts[2] = "syntax error ("
    made = commits(project, texts)
    job = Bisect(project, f"{sys.executable} -m py_compile bench.py", MEASURE)
    found = job.find(made[0], made[-1])
    assert found in ([made[2], made[3]], made[3])
    assert "skipped" in {step.verdict for step in job.steps}


def test_the_working_tree_of_the_user_is_left_as_it_is(project: Path) -> None:
    made = commits(project, timed(1.0, 1.1))
    (project / "number").write_text("edited")
    assert Bisect(project, "", MEASURE).find(made[0], made[1]) == made[1]
    assert (project / "number").read_text() == "edited"


def test_revisions_that_do_not_differ_have_nothing_to_find(project: Path) -> None:
    made = commits(project, timed(1.0, 1.0, 1.0))
    with pytest.raises(MeasurementError, match="is not measurably slower"):
        Bisect(project, "", MEASURE).find(made[0], made[-1])


def test_a_command_that_prints_no_number_cannot_be_judged(project: Path) -> None:
    made = commits(project, ["print('hello')", "print('hello')"])
    with pytest.raises(MeasurementError, match="printed no positive number"):
        Bisect(project, "", MEASURE).find(made[0], made[1])


@pytest.mark.parametrize("which", ["unknown", "reversed"])
def test_revisions_that_cannot_be_bisected_are_refused(project: Path, which: str) -> None:
    made = commits(project, timed(1.0, 1.1))
    good, bad = ("nosuch", made[1]) if which == "unknown" else (made[1], made[0])
    sentence = "'nosuch' is no commit, branch or tag" if which == "unknown" else "--good must be an ancestor"
    with pytest.raises(InputError, match=sentence):
        Bisect(project, "", MEASURE).find(good, bad)


@pytest.mark.parametrize(("build", "measure"), [("", ""), ("", "'python"), ("'make", MEASURE)])
def test_what_is_no_command_is_refused_before_anything_is_built(project: Path, build: str, measure: str) -> None:
    made = commits(project, timed(1.0, 1.1))
    job = Bisect(project, build, measure)
    with pytest.raises(InputError, match=r"--(build|measure) is a command"):
        job.find(made[0], made[1])
    assert job.steps == []


def test_a_good_revision_that_does_not_build_ends_it(project: Path) -> None:
    made = commits(project, timed(1.0, 1.1))
    with pytest.raises(MeasurementError, match=r"the good revision .* cannot be built: 'false' ended with status 1"):
        Bisect(project, "false", MEASURE).find(made[0], made[1])
    assert git(project, "worktree", "list").count("\n") == 0


def test_a_folder_without_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="git"):
        Bisect(tmp_path, "", MEASURE).find("a", "b")
