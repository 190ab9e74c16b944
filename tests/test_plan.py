from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError, UnknownNameError
from harness.plan import Plan, complete, parse_settings
from strategies import Choice, Range, Setting

KNOBS = (
    Choice(name="kind", default="plain", values=("plain", "bucketed"), doc=""),
    Range(name="dp", default=1, low=1, high=64, integer=True, points=(1, 2), unit="ranks", doc=""),
    Range(name="tp", default=1, low=1, high=64, integer=True, points=(1,), doc=""),
    Range(name="pp", default=1, low=1, high=64, integer=True, points=(1,), doc=""),
    Range(name="size_mb", default=25.0, low=0.5, high=99, points=(1,), unit="MB", doc="", when={"kind": ("bucketed",)}),
    Choice(name="overlap", default=True, values=(True, False), doc="", when={"kind": ("bucketed",)}),
)

settings = st.dictionaries(
    st.text(min_size=1), st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()), max_size=8
)


def test_settings_that_are_not_given_have_their_defaults() -> None:
    assert dict(complete({"dp": 4}, KNOBS)) == {"kind": "plain", "dp": 4, "tp": 1, "pp": 1}


def test_a_knob_exists_only_where_its_condition_holds() -> None:
    assert {"size_mb", "overlap"}.isdisjoint(complete({}, KNOBS))
    assert complete({"kind": "bucketed"}, KNOBS)["size_mb"] == 25.0
    with pytest.raises(InputError, match="size_mb has a meaning only where kind is bucketed"):
        complete({"size_mb": 4.0}, KNOBS)


def test_an_unknown_knob_gets_the_nearest_and_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown knob 'knd': did you mean 'kind'"):
        complete({"knd": "plain"}, KNOBS)


@pytest.mark.parametrize(
    ("given_", "problem"),
    [
        ({"dp": 0}, "dp must be an integer from 1 to 64 ranks, but got 0"),
        ({"dp": 2.0}, "but got 2.0"),
        ({"dp": True}, "but got True"),
        ({"kind": "other"}, "kind must be plain, bucketed, but got 'other'"),
        ({"kind": "bucketed", "overlap": 1}, "overlap must be true, false, but got 1"),
        ({"kind": "bucketed", "size_mb": 0.1}, "size_mb must be a number from 0.5 to 99 MB, but got 0.1"),
    ],
)
def test_a_value_the_knob_does_not_accept_is_refused(given_: dict[str, Setting], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        complete(given_, KNOBS)


def test_a_whole_number_for_a_real_knob_is_the_same_plan() -> None:
    whole, real = (complete({"kind": "bucketed", "size_mb": size}, KNOBS) for size in (8, 8.0))
    assert isinstance(whole["size_mb"], float)
    assert whole == real


def test_the_ranks_are_the_product_of_the_degrees() -> None:
    assert complete({"dp": 2, "tp": 3, "pp": 4}, KNOBS).world_size == 24


@given(settings, st.randoms())
def test_plans_of_the_same_settings_are_one_plan_in_whatever_order(values: dict[str, Setting], random: Any) -> None:
    items = list(values.items())
    random.shuffle(items)
    one, other = Plan(tuple(values.items())), Plan(tuple(items))
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other}) == 1


@given(settings, settings)
def test_plans_of_different_settings_have_different_ids(one: dict[str, Setting], other: dict[str, Setting]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (Plan(tuple(one.items())).plan_id == Plan(tuple(other.items())).plan_id) == same


@given(settings)
def test_a_plan_comes_back_from_its_json(values: dict[str, Setting]) -> None:
    plan = Plan(tuple(values.items()))
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert {name: type(value) for name, value in again.items()} == {name: type(value) for name, value in plan.items()}


@given(st.dictionaries(st.sampled_from(["dp", "tp", "pp"]), st.integers(1, 64)))
def test_what_differs_from_the_defaults_is_enough_to_repeat_a_plan(values: dict[str, Setting]) -> None:
    plan = complete(values, KNOBS)
    differing = plan.differing({knob.name: knob.default for knob in KNOBS})
    assert complete(differing, KNOBS) == plan
    assert all(value != 1 for value in differing.values())


def test_settings_are_read_as_they_are_written() -> None:
    pairs = ["kind=bucketed", "dp=4", "size_mb=8", "overlap=False"]
    assert parse_settings(pairs, KNOBS) == {"kind": "bucketed", "dp": 4, "size_mb": 8.0, "overlap": False}


@pytest.mark.parametrize(
    ("pair", "problem"),
    [
        ("dp", "a setting is written NAME=VALUE, but got 'dp'"),
        ("dp=two", "dp must be an integer from 1 to 64 ranks, but got 'two'"),
        ("overlap=yes", "overlap must be one of true, false, but got 'yes'"),
        ("sizemb=2", "did you mean 'size_mb'"),
    ],
)
def test_a_setting_that_cannot_be_read_is_refused(pair: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        parse_settings([pair], KNOBS)
