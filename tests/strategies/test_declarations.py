"""What strategies declare: knobs, shares, stages, schedules of the learning rate and of the loss scale."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import strategies
from strategies import Choice, Knob, Range, Slot, Strategy
from strategies.optimizer import OptimizerConfig
from strategies.pipeline_parallel import balance
from strategies.recipe import ORDER
from strategies.tensor_parallel import shares
from strategies.training import LossScale
from tests.tiny import facts, gpt, knobs, plan

REGISTERED = list(strategies.registry().values())

every_strategy = pytest.mark.parametrize("strategy", REGISTERED, ids=[each.name for each in REGISTERED])
every_knob = pytest.mark.parametrize("knob", knobs(), ids=[each.name for each in knobs()])


@every_strategy
def test_a_strategy_has_a_name_a_place_and_a_line_for_people(strategy: Strategy) -> None:
    assert re.fullmatch("[a-z][a-z0-9_]*", strategy.name)
    assert strategy.slot in ORDER
    assert strategy.summary
    assert not strategy.active(plan({"micro_batch_size": 8}))


@every_strategy
def test_the_showcases_of_a_strategy_use_it(strategy: Strategy) -> None:
    known = facts(gpt(), 2)
    offering = replace(known.model, vocab_size=32000, attention=("sdpa", "eager"))  # what only some models do
    shown = strategy.showcases(replace(known, model=offering))
    assert shown
    for way in shown:
        degree = {"dp": 2} if strategy.slot is Slot.DATA else {}
        assert strategy.active(plan({**degree, **way}))


@every_strategy
def test_a_data_parallel_strategys_own_knobs_exist_for_it_alone(strategy: Strategy) -> None:
    if strategy.slot is Slot.DATA:
        assert all(strategy.name in knob.when.get("data_parallel", ()) for knob in strategy.knobs)


@every_knob
def test_a_knob_accepts_its_default_and_its_grid_and_reads_them_as_written(knob: Knob) -> None:
    for value in (knob.default, *knob.grid):
        assert knob.accepts(value)
        assert knob.parse(str(value)) == value
        assert type(knob.parse(str(value))) is type(value)
    assert set(knob.opt_in) <= set(knob.grid)
    assert knob.doc


@every_knob
def test_a_knob_says_what_it_accepts(knob: Knob) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{knob.name} must be")):
        knob.parse("no such value")
    assert not knob.accepts("no such value")
    assert not knob.accepts(None)


@given(st.floats(1, 50), st.floats(50, 100), st.floats())
def test_a_range_accepts_what_lies_in_it(low: float, high: float, value: float) -> None:
    knob = Range(name="x", default=50.0, low=low, high=high, points=(), doc="")
    assert knob.accepts(value) == (low <= value <= high)
    assert knob.accepts(True) is False


def test_a_choice_tells_numbers_from_truth_values() -> None:
    knob = Choice(name="x", default=1, values=(1, 2), doc="")
    assert [knob.accepts(value) for value in (1, True, 1.0, 3)] == [True, False, False, False]


def test_knobs_follow_those_their_conditions_name() -> None:
    seen: set[str] = set()
    for knob in knobs():
        assert knob.when.keys() <= seen
        seen.add(knob.name)
    assert len(seen) == len(knobs())


def test_conditions_that_form_a_circle_are_refused() -> None:
    class Circle(strategies.Strategy):
        name, slot, summary = "circle", Slot.EXTRA, ""
        knobs = (
            Choice(name="a", default=1, values=(1,), doc="", when={"b": (1,)}),
            Choice(name="b", default=1, values=(1,), doc="", when={"a": (1,)}),
        )

        def active(self, plan: Any) -> bool:
            return False

        def showcases(self, facts: Any) -> list[dict[str, Any]]:
            return []

        def apply(self, training: Any) -> None: ...

    with pytest.raises(ValueError, match="form a circle: a, b"):
        strategies.knobs([Circle()])


# -- formulas


@given(st.integers(0, 1000), st.integers(1, 64))
def test_shares_are_whole_and_as_even_as_can_be(total: int, world: int) -> None:
    each = shares(total, world)
    assert (sum(each), len(each)) == (total, world)
    assert max(each) - min(each) <= 1
    assert each == sorted(each, reverse=True)


@given(st.integers(1, 8), st.integers(0, 40), st.floats(0.1, 10), st.floats(0, 50))
def test_no_other_division_of_the_blocks_has_a_faster_slowest_stage(
    stages: int, more: int, block: float, head: float
) -> None:
    blocks = stages + more
    counts = balance(blocks, stages, block, head)
    assert (sum(counts), len(counts)) == (blocks, stages)
    assert min(counts) >= 1
    slowest = max(n * block + (head if s == stages - 1 else 0.0) for s, n in enumerate(counts))
    on_last = range(1, blocks - stages + 2)
    best = min(
        max(last * block + head, math.ceil((blocks - last) / (stages - 1)) * block if stages > 1 else 0.0)
        for last in (on_last if stages > 1 else [blocks])
    )
    assert slowest == pytest.approx(best)


@given(st.integers(0, 3000))
def test_the_learning_rate_rises_then_falls_to_its_least(step: int) -> None:
    config = OptimizerConfig(lr=0.5, warmup_steps=10, decay_steps=1000, lr_min_ratio=0.2)
    now, later = config.lr_at(step), config.lr_at(step + 1)
    assert 0 < now <= 0.5
    assert (later > now) if step < 9 else (later <= now)
    assert config.lr_at(9) == 0.5
    assert config.lr_at(1000 + step) == pytest.approx(0.1)
    assert config.lr_at(505) == pytest.approx(0.3)


def test_the_loss_scale_halves_at_an_overflow_and_doubles_after_enough_good_steps() -> None:
    scale = LossScale(torch.device("cpu"), initial=8.0, growth_interval=3)
    good, bad = torch.tensor(1.0), torch.tensor(torch.inf)
    assert [scale.adapt(norm).item() for norm in (good, good, bad)] == [0.0, 0.0, 1.0]
    assert scale.value == 4.0
    assert [scale.adapt(good).item() for _ in range(4)] == [0.0] * 4
    assert scale.value == 8.0
    assert scale.adapt(torch.tensor(torch.nan)).item() == 1.0
    assert scale.value == 4.0
