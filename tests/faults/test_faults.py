"""Whatever goes wrong in a rank is told apart, ends in time, leaves nothing behind, and costs its own trial only."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.matrix import ALL, COVERING, EXPECTED, PHASES, Case

ROOT = Path(__file__).parents[2]

REASONS = {
    "fail build one": "rank 1 raised ValueError: this is a fault",
    "leave first one": "rank 1 ended in warmup without having finished",
    "leave teardown all": "rank [01] ended in teardown, after step 8 without having finished",
    "kill last all": "SIGKILL ended rank [01] in measure, after step 7",
    "terminate middle one": "SIGTERM ended rank 1 in warmup, after step 1",
    "loop middle one": "rank [01] gave no sign of life for 4 s in warmup, after step 1",
    "loop build one": "rank [01] gave no sign of life for 12 s in build",
    "allocate_all middle all": r"rank [01] held \d+ B when the machine had \d+ B of memory left",
    "nan last one": "loss of step 8 is nan",
    "wrong_gradient middle one": "gradient norm of step 2 is .* where one process in fp32 has",
    "wrong_gradient last one": "gradient norm of step 8 is .* where one process in fp32 has",
    "close_events middle one": "rank 1 ended with exit status 1 in warmup, after step 1",
}
"""Case -> what its reason says."""


def name(case: Case) -> str:
    return f"{case.fault} {case.phase} {case.ranks}"


def run(folder: Path, *options: str) -> tuple[dict[str, dict[str, Any]], str]:
    """What the benchmark saw, by case, and what it printed."""
    path = folder / "seen.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--json", str(path), *options]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    printed = ended.stdout + ended.stderr
    assert path.exists(), printed
    return {name(Case(**seen["case"])): seen for seen in map(json.loads, path.read_text().splitlines())}, printed


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of the covering cases, all run in one process with one fork server."""
    return run(tmp_path_factory.mktemp("faults"), "--covering")[0]


@pytest.mark.parametrize("case", COVERING, ids=name)
def test_a_fault_is_told_apart_in_time_and_leaves_nothing_behind(case: Case, seen: dict[str, dict[str, Any]]) -> None:
    found = seen[name(case)]
    assert (found["outcome"], found["wrong"]) == (case.expected, [])
    assert re.search(REASONS.get(name(case), ""), found["reason"] or "")


def test_what_a_rank_said_and_how_it_ended_is_in_the_evidence(seen: dict[str, dict[str, Any]]) -> None:
    def ranks(case: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = seen[case]["evidence"]["ranks"]
        return found

    assert "in fail" in ranks("fail build one")[1]["traceback"]
    assert [rank["signal"] for rank in ranks("kill last all")] == ["SIGKILL"] * 2
    assert "Bad file descriptor" in ranks("close_events middle one")[1]["output"]
    assert "in loop" in ranks("loop middle one")[1]["stacks"]
    assert "in block" in ranks("block middle all")[0]["stacks"]
    assert "in ignore_sigterm" in ranks("ignore_sigterm last one")[1]["stacks"]


def test_the_covering_cases_have_every_fault_phase_and_set_of_ranks() -> None:
    assert set(COVERING) <= set(ALL)
    assert {case.fault for case in COVERING} == set(EXPECTED)
    assert {case.phase for case in COVERING} == set(PHASES)


@pytest.mark.slow
def test_every_fault_at_every_moment_is_as_it_should_be(tmp_path: Path) -> None:
    found, printed = run(tmp_path)
    assert {case: each["wrong"] for case, each in found.items() if each["wrong"]} == {}, printed
    assert len(found) == len(ALL)
