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
