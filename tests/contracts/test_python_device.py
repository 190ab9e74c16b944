"""Every strategy and every pair of them builds and steps on a device that is no CPU.

It meets no tensor of the CPU there, leaves no state behind on it, and never has the host wait for the device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import strategies
from harness.search import feasible
from tests.contracts.python_device import MODEL
from tests.contracts.test_strategies import Settings, alone, arranged, pairs
from tests.tiny import facts, gpt, plan

ROOT = Path(__file__).parents[2]
EAGER = {"TORCHDYNAMO_DISABLE": "1"}
"""Torchao's optimizers compile themselves; no device in Python has a compiler."""


def runs(settings: Settings) -> bool:
    wanted, workload = plan(settings), gpt(**MODEL)
    at_hand = replace(facts(workload, wanted.world_size), device_type="cuda", capability=(9, 0), compiler=True)
    return feasible.why_not(wanted, at_hand, strategies.registry().values()) is None


def plans() -> dict[str, Settings]:
    """Each strategy alone, and each way of using one with a way of using each other."""
    every = {each.id: arranged(each.values[0]) for each in [*alone(), *pairs()] if not each.marks}
    return {name: settings for name, settings in every.items() if runs(settings)}


def some(size: int = 16) -> Iterator[Any]:
    """As many as one process should try: a device is for life, so none can be tried in this one."""
    every = list(plans().items())
    for first in range(0, len(every), size):
        members = dict(every[first : first + size])
        yield pytest.param(members, id=f"{next(iter(members))}-to-{next(reversed(members))}")


@pytest.mark.parametrize("asked", list(some()))
def test_plans_step_on_the_device_alone(asked: dict[str, Settings]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.contracts.python_device"],
        input="".join(json.dumps(settings) + "\n" for settings in asked.values()),
        cwd=ROOT,
        env={**os.environ, **EAGER},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.removeprefix("SEEN ") for line in ended.stdout.splitlines() if line.startswith("SEEN ")]
    assert (ended.returncode, len(lines)) == (0, len(asked)), ended.stderr
    seen = dict(zip(asked, map(json.loads, lines), strict=True))
    assert {name: found["error"] for name, found in seen.items() if "error" in found} == {}
    assert {name for name, found in seen.items() if found["devices"] != ["npy"]} == set()
    # Torchao's optimizers have no way to leave out a step on the device.
    waits = {name for name, settings in asked.items() if "fp16" in settings.values() and "adamw" in name}
    assert {name: found["reads"] for name, found in seen.items() if found["reads"] and name not in waits} == {}
