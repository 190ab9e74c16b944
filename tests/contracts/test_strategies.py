"""Every registered strategy, alone and with every other, computes what one process in fp32 computes.

A new strategy needs nothing here: the plans are made of its own showcases. Of the ways in which two strategies can be
combined, each way of using each of the two is tried once; all of them with --slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import pytest

import strategies
from harness.workloads.gpt import Gpt
from strategies import Setting, Slot, Strategy
from tests.tiny import Laboratory, facts, gpt, why_not

Settings = dict[str, Setting]

MORE: dict[str, list[Settings]] = {"precision": [{"precision": "fp16"}], "chunked_loss": [{"loss_chunks": 4}]}
"""Ways of using a strategy that no showcase shows."""

DATA = [strategy for strategy in strategies.registry().values() if strategy.slot is Slot.DATA]


def ways(strategy: Strategy) -> list[Settings]:
    return [*strategy.showcases(facts(gpt(), 2)), *MORE.get(strategy.name, [])]


def arranged(settings: Settings) -> Settings:
    """On two ranks along every axis in use, or along dp; each replica's share in two micro-batches."""
    data_parallel = "data_parallel" in settings or not settings.keys() & {"tp", "pp"}
    return {"dp": 2, "micro_batch_size": 2, **settings} if data_parallel else {"micro_batch_size": 4, **settings}


def model(settings: Settings) -> Gpt:
    """Two blocks, or as many as the schedule has stages."""
    return gpt(blocks=4 if settings.get("pp_schedule") == "interleaved" else 2)


def case(settings: Settings, *, slow: bool = False) -> Any:
    name = "-".join(str(value) if isinstance(value, str) else f"{knob}{value}" for knob, value in settings.items())
    return pytest.param(settings, id=name, marks=[pytest.mark.slow] if slow else [])


def alone() -> Iterator[Any]:
    yield case({"data_parallel": "ddp", "static_graph": True, "micro_batch_size": 4})
    for strategy in strategies.registry().values():
        yield from (case(settings, slow=strategy.name == "compile") for settings in ways(strategy))


def pairs() -> Iterator[Any]:
    for one, other in combinations(strategies.registry().values(), 2):
        if one.slot is other.slot:
            continue
        ours, theirs = ways(one), ways(other)
        if not (ours and theirs):  # a model does not offer it
            continue
        needed = {(i % len(ours), i % len(theirs)) for i in range(max(len(ours), len(theirs)))}
        for (i, a), (j, b) in product(enumerate(ours), enumerate(theirs)):
            yield case({**a, **b}, slow=(i, j) not in needed or "compile" in (one.name, other.name))


def assert_a_sentence(reason: str) -> None:
    assert re.fullmatch(r"\S.*\s.*[^.\s]", reason), reason


@pytest.mark.parametrize("settings", list(alone()))
def test_a_strategy_follows_one_process(settings: Settings, laboratory: Laboratory) -> None:
    assert why_not(arranged(settings), model(settings)) is None
    row = laboratory.follows(arranged(settings), model(settings))
    assert row["numerics"] == "pass"


@pytest.mark.parametrize("settings", list(pairs()))
def test_two_strategies_follow_one_process_or_say_why_they_cannot(settings: Settings, laboratory: Laboratory) -> None:
    reason = why_not(arranged(settings), model(settings))
    if reason is None:
        laboratory.follows(arranged(settings), model(settings))
    else:
        assert_a_sentence(reason)


@pytest.mark.parametrize("kind", [strategy.name for strategy in DATA])
def test_data_tensor_and_pipeline_parallelism_compose_on_eight_ranks(kind: str, laboratory: Laboratory) -> None:
    settings: Settings = {"data_parallel": kind, "dp": 2, "tp": 2, "pp": 2, "micro_batch_size": 2}
    row = laboratory.follows(settings, gpt(blocks=2))
    assert row["numerics"] == "pass"


@pytest.mark.parametrize("kind", [strategy.name for strategy in DATA])
def test_three_ranks_follow_one_process(kind: str, laboratory: Laboratory) -> None:
    row = laboratory.follows(
        {"data_parallel": kind, "dp": 3, "micro_batch_size": 1}, gpt(global_batch_size=6, blocks=3)
    )
    assert row["numerics"] == "pass"
