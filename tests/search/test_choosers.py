from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from harness.search.choosers import at_random, contains, every
from harness.search.layout import Layout, divisors, factorisations
from strategies.knob import Range


def ranges() -> st.SearchStrategy[Range]:
    def build(ends: tuple[int, int], integer: bool, log: bool) -> Range:
        low, high = sorted(ends)
        return Range(name="x", default=low, low=low, high=high, integer=integer, log=log, points=(low, high), doc="")

    return st.builds(build, st.tuples(st.integers(1, 500), st.integers(1, 500)), st.booleans(), st.booleans())


@given(ranges(), st.integers())
def test_a_random_number_lies_in_its_range(domain: Range, seed: int) -> None:
    assert contains(domain, at_random(random.Random(seed))("x", domain))


def test_every_combination_of_conditional_choices_comes_once_and_in_order() -> None:
    def draw(choose):
        first = choose("first", ("a", "b"))
        return first, choose("second", (1, 2, 3)) if first == "b" else None

    assert list(every(draw)) == [("a", None), ("b", 1), ("b", 2), ("b", 3)]


def test_a_draw_without_choices_has_one_result() -> None:
    assert list(every(lambda choose: "only")) == ["only"]


@given(st.integers(1, 5000))
def test_divisors_are_all_the_numbers_that_divide(number: int) -> None:
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


@given(st.integers(1, 256))
def test_layouts_multiply_to_the_world_size_and_differ(world_size: int) -> None:
    found = factorisations(world_size)
    assert {dp * tp * pp for dp, tp, pp in found} == {world_size}
    assert len(set(found)) == len(found)
    assert found[0] == Layout(dp=world_size, tp=1, pp=1)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64))
def test_a_label_can_be_read_back(dp: int, tp: int, pp: int) -> None:
    assert Layout.parse(Layout(dp, tp, pp).label) == Layout(dp, tp, pp)


def test_labels_leave_out_degrees_of_one_but_for_data_parallelism() -> None:
    assert [x.label for x in (Layout(1, 1, 1), Layout(1, 2, 1), Layout(2, 2, 2))] == ["dp1", "dp1.tp2", "dp2.tp2.pp2"]
