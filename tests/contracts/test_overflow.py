"""A step of fp16 whose gradients overflow is left out by every kind of optimizer, on every rank."""

from __future__ import annotations

import json
from pathlib import Path

from harness.launchers.launcher import Launcher
from tests.contracts import overflow
from tests.contracts.alive import Batch
from tests.contracts.test_strategies import DATA, Settings, arranged, ways
from tests.tiny import facts, gpt, plan, why_not

KINDS: list[Settings] = [
    *(way for strategy in DATA for way in ways(strategy)),
    {"tp": 2},
    *({"quantization": kind} for kind in ("adamw8bit", "adamw4bit", "adamwfp8")),
]


def test_a_step_that_overflows_changes_nothing(launcher: Launcher, tmp_path: Path) -> None:
    workload = gpt(blocks=2)
    every = [arranged({**kind, "precision": "fp16"}) for kind in KINDS]
    cases = [plan(settings) for settings in every if why_not(settings, workload) is None]
    assert len(cases) >= 8
    plans = tuple((workload, each, facts(workload, 2)) for each in cases)
    batch = Batch(workload=workload, plan=cases[0], facts=facts(workload, 2), folder=tmp_path, threads=1, plans=plans)
    ranks = launcher.start(batch, overflow.write_down)
    ended = []
    while ranks.running:
        ended += ranks.wait(60.0)
    assert [rank.status for rank in ended] == [0, 0]
    for rank in range(2):
        for case, seen in zip(cases, json.loads(batch.found_of(rank).read_text()), strict=True):
            assert seen == {"sound": True, "overflowed": False, "next": True}, case
