from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.cli import watch_commands
from harness.errors import InputError
from tests.observe.test_watch import SCRIPT


def asked(command: list[str], **options: Any) -> int:
    given = {"steps": 8, "budget": "10s", "precision": "1%", "warmup_steps": 4, "deadlines": ("2m", "60s")}
    return watch_commands.watch(command, as_json=False, **{**given, **options})


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ([], {}, "there is no command; write it after --"),
        (["torchrunn", "x.py"], {}, "torchrunn is no program on PATH"),
        ([sys.executable], {"budget": "10 parsecs"}, "parsecs"),
        ([sys.executable], {"precision": "much"}, "precision target"),
    ],
)
def test_what_cannot_be_started_is_a_sentence(command: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        asked(command, **options)


@pytest.mark.launching
def test_a_script_is_measured_and_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked([sys.executable, str(SCRIPT), str(tmp_path), "accumulates"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:4] == [
        "outcome   ok",
        "ranks     1 rank on cpu, 12 steps each",
        "training  AdamW, 3 backward passes a step",
        "batch     0 8x2, 1 8x1",
    ]
    assert [line.split()[0] for line in printed[4:]] == ["step", "samples", "tokens", "memory", "losses", "observer"]
    assert printed[5].endswith("; 24 a step")


KNOBS = """
command = "{python} {case}.py {trial_dir} {case} 6"
samples_per_step = "4 * micro"
require = [{ that = "micro < 3", because = "three is too many" }]
[knobs.micro]
values = [1, 2, 3]
[knobs.case]
value = "'accumulates' if micro == 2 else 'plain'"
"""


@pytest.mark.parametrize(
    ("knobs", "pairs", "message"),
    [
        (True, ["micro=3"], "this plan is not to be run: three is too many"),
        (True, ["micro=4"], "micro must be one of 1, 2, 3"),
        (True, ["macro=1"], "unknown knob 'macro': did you mean 'micro'"),
        (False, ["micro=1"], "--set needs --knobs"),
    ],
)
def test_a_plan_that_cannot_be_run_is_a_sentence(tmp_path: Path, knobs: bool, pairs: list[str], message: str) -> None:
    (tmp_path / "knobs.toml").write_text(KNOBS)
    with pytest.raises(InputError, match=message):
        asked([], knobs=(tmp_path / "knobs.toml" if knobs else None, pairs))


@pytest.mark.slow
@pytest.mark.launching
def test_a_plan_of_a_knobs_file_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "knobs.toml").write_text(KNOBS.replace("{case}.py", str(SCRIPT)).replace(" 6", ""))
    assert asked([], knobs=(tmp_path / "knobs.toml", ["micro=2"])) == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"command   {sys.executable} {SCRIPT} /")  # shown before it is started
    assert said.err.endswith("/script accumulates\n")
    assert "; 8 a step" in said.out


@pytest.mark.slow
@pytest.mark.launching
def test_a_script_that_fails_ends_the_command_with_1(tmp_path: Path) -> None:
    command = [
        "harness",
        "watch",
        "--json",
        "--",
        sys.executable,
        "-c",
        "import torch; print('~/x'); raise OSError('no')",
    ]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["outcome_reason"] == "the command ended with exit status 1 before any process trained"
    assert "OSError: no" in json.loads(found["evidence"])["output"]
