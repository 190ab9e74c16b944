"""Every plan that a search can draw from the real strategies is refused in a sentence, or can run."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import strategies
from harness.errors import InputError
from harness.plan import Plan, complete
from harness.search.choosers import at_random
from harness.search.space import Space
from harness.workloads.gpt import Gpt
from strategies import OPT_IN
from tests.tiny import Laboratory, facts, gpt, knobs

ALL = tuple(strategies.registry().values())
IN_PLAY = tuple(strategy for strategy in ALL if strategy.name not in OPT_IN)

REAL_TRIALS = 18


def workload(rng: random.Random) -> Gpt:
    """A tiny transformer of any shape, the awkward ones included."""
    heads = rng.choice([1, 2, 3, 5])
    return gpt(
        vocab=rng.choice([13, 64, 67]),
        heads=heads,
        width=heads * rng.choice([8, 16]),
        blocks=rng.choice([1, 2, 3, 5]),
        seq=rng.choice([16, 24]),
        global_batch_size=rng.choice([1, 4, 6, 7, 8, 9]),
        tied=rng.random() < 0.3,
    )


def space(trained: Gpt, world_size: int) -> Space | None:
    """The space that a sweep of every strategy searches; None if no plan can use the world size."""
    with contextlib.suppress(InputError):
        return Space(IN_PLAY, knobs(), facts(trained, world_size), registered=ALL)
    return None


def consistent(plan: Plan) -> bool:
    """Whether the plan has exactly the knobs that exist beside its settings, each at a value it accepts."""
    return complete(dict(plan), knobs()) == plan and Plan.from_json(plan.to_json()) == plan


@settings(deadline=None, max_examples=60)
@given(st.randoms(use_true_random=False), st.sampled_from([1, 2, 3, 4, 8]))
def test_a_drawn_plan_is_consistent_and_refused_only_in_a_sentence(rng: random.Random, world_size: int) -> None:
    searched = space(workload(rng), world_size)
    assume(searched is not None)
    assert searched is not None
    for _ in range(10):
        plan = searched.draw(at_random(rng))
        reason = searched.why_not(plan)
        assert reason is None or re.fullmatch(r"\S.*\s.*[^.\s]", reason)
        assert plan.world_size == world_size
        assert consistent(plan)


def plans_that_can_run() -> Iterator[Any]:
    """Distinct plans on two ranks, drawn from a seed, up to three of each of some workloads."""
    rng = random.Random(7)
    seen: set[Plan] = set()
    while len(seen) < REAL_TRIALS:
        trained = workload(rng)
        searched = space(trained, 2)
        if searched is None:
            continue
        drawn = {searched.draw(at_random(rng)): None for _ in range(10)}
        for plan in [plan for plan in drawn if plan not in seen and searched.why_not(plan) is None][:3]:
            seen.add(plan)
            yield pytest.param(plan, trained, id=plan.plan_id)


@pytest.mark.parametrize(("plan", "trained"), list(plans_that_can_run()))
def test_a_drawn_plan_that_is_not_refused_follows_one_process(plan: Plan, trained: Gpt, laboratory: Laboratory) -> None:
    row = laboratory.follows(plan, trained)
    assert row["numerics"] == "pass"
