from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError, UnknownNameError
from harness.plan import complete
from harness.search.choosers import Domain
from harness.search.spaces import Point, Spaces
from strategies.knob import Range, Setting
from tests.search.fake_machine import ALL, KNOBS, small, space

WORLDS = [1, 2, 3, 4, 6, 8, 12]
spaces = st.builds(
    lambda extra, world_size, heads, shares: space(
        "ddp", *sorted(extra), world_size=world_size, heads=heads, global_batch_size=world_size * shares
    ),
    st.sets(st.sampled_from(sorted(set(ALL) - {"ddp"}))),
    st.sampled_from(WORLDS),
    st.sampled_from([1, 4, 6]),
    st.sampled_from([1, 3, 4]),
)


def chooser(data: st.DataObject) -> Any:
    def choose(name: str, domain: Domain) -> Setting:
        if not isinstance(domain, Range):
            return data.draw(st.sampled_from(domain), label=name)
        if domain.integer:
            return data.draw(st.integers(int(domain.low), int(domain.high)), label=name)
        return data.draw(st.floats(domain.low, domain.high), label=name)

    return choose


@given(spaces, st.data())
def test_every_plan_drawn_is_refused_in_a_sentence_or_consistent(searched, data) -> None:
    plan = searched.draw(chooser(data))
    reason = searched.why_not(plan)
    assert plan.world_size == searched.facts.world_size
    assert searched.facts.global_batch_size % (plan["dp"] * plan["micro_batch_size"]) == 0
    assert (plan["data_parallel"] == "none") == (plan["dp"] == 1)
    assert plan["precision"] != "fp16"
    assert reason is None or " " in reason


@given(spaces, st.data())
def test_a_plan_is_drawn_again_from_its_params(searched, data) -> None:
    plan = searched.draw(chooser(data))
    params = searched.params_of(plan)
    assert searched.draw(lambda name, domain: params[name]) == plan


def test_a_plan_outside_the_space_has_no_params() -> None:
    searched = space("ddp", "precision")
    base = {"dp": 2, "data_parallel": "ddp", "micro_batch_size": 4}
    assert searched.params_of(complete(base, KNOBS)) is not None
    for outside in ({"precision": "fp16"}, {"data_parallel": "zero"}, {"tp": 2}, {"micro_batch_size": 3}):
        assert searched.params_of(complete(base | outside, KNOBS)) is None


def test_opt_in_values_are_drawn_only_if_they_are_named() -> None:
    assert {p["precision"] for p in space("ddp", "precision").grid()} == {"fp32", "bf16"}
    named = space("ddp", "precision", allowed={"precision": ("fp16", "fp32")})
    assert {p["precision"] for p in named.grid()} == {"fp16", "fp32"}


def test_knobs_of_strategies_that_are_not_in_play_keep_their_default() -> None:
    assert {p["precision"] for p in space("ddp").grid()} == {"fp32"}


def test_a_knob_shared_by_two_strategies_is_drawn_if_either_is_in_play() -> None:
    assert {p["bucket_mb"] for p in space("zero").grid()} == {2.0, 25.0}


def test_a_fixed_knob_is_not_drawn_and_applies_only_where_it_exists() -> None:
    searched = space("ddp", "tensor", fixed={"bucket_mb": 8})
    assert {p.get("bucket_mb") for p in searched.grid()} == {8.0, None}


def test_fixed_degrees_leave_the_layouts_that_have_them() -> None:
    assert [x.label for x in space(world_size=8, fixed={"tp": 2}).layouts] == ["dp4.tp2", "dp2.tp2.pp2", "dp1.tp2.pp4"]


def test_the_grid_has_every_plan_once_and_none_that_cannot_run() -> None:
    plans = list(space(global_batch_size=8).grid())
    assert len(plans) == len(set(plans)) > 50
    assert all(space(global_batch_size=8).why_not(plan) is None for plan in plans)
    assert plans == list(space(global_batch_size=8).grid())


def test_the_grid_is_made_as_it_is_asked_for() -> None:
    assert len(list(itertools.islice(space(world_size=8, global_batch_size=4096).grid(), 3))) == 3


def test_grid_points_of_an_integer_are_integers() -> None:
    assert {type(p["prefetch"]) for p in space("zero").grid() if "prefetch" in p} == {int}


def test_a_space_without_ranges_is_finite_and_its_grid_is_all_of_it() -> None:
    assert small().finite
    assert len(list(small().grid())) == 10
    assert not space("ddp").finite


def test_a_layout_no_plan_can_have_is_left_out() -> None:
    assert [x.label for x in space("ddp", "tensor", heads=3).layouts] == ["dp2"]


def test_one_rank_has_one_layout_and_no_data_parallelism() -> None:
    plans = list(space("ddp", "tensor", "precision", world_size=1, global_batch_size=2).grid())
    assert {(p["dp"], p["tp"], p["pp"], p["data_parallel"]) for p in plans} == {(1, 1, 1, "none")}


@pytest.mark.parametrize(
    ("names", "world_size", "batch", "reasons"),
    [
        (("ddp",), 2, 7, ["dp2: the global batch of 7 samples is not a multiple of dp=2", "tp=2 needs tensor"]),
        (("tensor",), 3, 6, ["the strategies tensor can use 3 ranks", "dp1.tp3: tp=3 does not divide 4 heads"]),
        (("precision",), 2, 4, ["dp=2 needs a data-parallel strategy"]),
    ],
)
def test_a_world_size_no_plan_can_use_is_refused_with_the_reasons(names, world_size, batch, reasons) -> None:
    with pytest.raises(InputError, match="no plan of") as error:
        space(*names, world_size=world_size, global_batch_size=batch)
    assert all(reason in str(error.value) for reason in reasons)


def test_micro_batches_that_divide_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="none of the micro-batch sizes asked for divides the 8 samples of a rank"):
        space("ddp", allowed={"micro_batch_size": (3, 5)})


def test_an_unknown_knob_or_value_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'precision'"):
        space(fixed={"precison": "fp32"})
    with pytest.raises(InputError, match="precision must be fp32, bf16, fp16, but got 'fp8'"):
        space(allowed={"precision": ("fp32", "fp8")})
    with pytest.raises(InputError, match="at least one value"):
        space(allowed={"precision": ()})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"dp": 4, "data_parallel": "ddp"}, "4 x 1 x 1 = 4 and there are 2"),
        ({"dp": 2, "data_parallel": "ddp", "micro_batch_size": 3}, "16 is not one of 2 x 3 = 6"),
        ({"dp": 2}, "data_parallel=none .* dp=2"),
        ({"dp": 1, "tp": 2, "data_parallel": "zero"}, "data_parallel=zero needs at least two"),
        ({"dp": 2, "data_parallel": "ddp", "precision": "fp16"}, None),
        ({"tp": 2, "precision": "bf16"}, "bf16 is not for tensor parallelism"),
    ],
)
def test_a_plan_that_cannot_run_is_refused_with_its_values(settings, sentence) -> None:
    reason = space("ddp").why_not(complete(settings, KNOBS))
    assert reason is None if sentence is None else re.search(sentence, str(reason))


def test_with_several_global_batches_the_size_is_the_first_choice() -> None:
    both = Spaces({size: space("ddp", "tensor", global_batch_size=size) for size in (8, 3)})
    asked: list[str] = []

    def last(name: str, domain: Domain) -> Setting:
        asked.append(name)
        return domain.high if isinstance(domain, Range) else domain[-1]

    point = both.draw(last)
    assert point.global_batch_size == 3
    assert asked[0] == "global_batch_size"
    assert {size for size, _ in both.grid()} == {8, 3}
    assert Point(8, point.plan) != point
    assert "one of 8, 3 samples" in str(both.why_not(Point(5, point.plan)))


@given(st.data())
def test_one_name_always_has_one_set_of_candidates(data) -> None:
    both = Spaces({size: space(world_size=4, global_batch_size=size) for size in (8, 12, 6)})
    asked: list[tuple[str, Domain]] = []
    for _ in range(5):
        choose = chooser(data)
        both.draw(lambda name, domain, choose=choose: (asked.append((name, domain)), choose(name, domain))[1])
    assert len(asked) >= 5
    assert dict(asked) == dict(reversed(asked))
