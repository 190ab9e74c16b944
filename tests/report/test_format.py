from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report import format as fmt

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def plain(text: str) -> str:
    return text.replace(fmt.NBSP, " ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (2e-5, "20.0 µs"), (0.0123, "12.3 ms"), (1.234, "1.23 s"), (125, "2 min 05 s"), (3725, "1 h 02 min")],
)
def test_seconds_are_shown_in_the_unit_that_people_use(seconds: float, text: str) -> None:
    assert plain(fmt.duration(seconds)) == text


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_what_is_not_known_is_a_dash(missing: float | None) -> None:
    formatters = (fmt.size, fmt.duration, fmt.rate, fmt.percent, fmt.signed_percent, fmt.relative_error, fmt.times)
    assert {show(missing) for show in formatters} == {fmt.MISSING}


@given(st.integers(min_value=1, max_value=2**50))
def test_a_size_read_back_is_the_size_to_three_digits(size: int) -> None:
    number, unit = plain(fmt.size(size)).split()
    assert float(number.replace(",", "")) * UNITS[unit] == pytest.approx(size, rel=5.1e-3)


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_a_rate_read_back_is_the_rate_to_four_digits(rate: float) -> None:
    assert float(fmt.rate(rate).replace(",", "")) == pytest.approx(rate, rel=5.1e-4)


@given(st.floats(min_value=1e-12, max_value=1e3))
def test_a_relative_error_keeps_two_digits(value: float) -> None:
    assert float(fmt.relative_error(value)) == pytest.approx(value, rel=0.051)


def test_a_ratio_is_put_into_words() -> None:
    assert plain(fmt.compared(1.04, "faster", "slower", "as fast")) == "4.0 % faster"
    assert plain(fmt.compared(0.77, "faster", "slower", "as fast")) == "23 % slower"
    assert fmt.compared(1.001, "faster", "slower", "as fast") == "as fast"


def test_a_difference_has_its_sign_unless_it_rounds_to_nothing() -> None:
    assert plain(fmt.signed_percent(0.04)) == "+4 %"
    assert re.fullmatch(r"\N{MINUS SIGN}12 %", plain(fmt.signed_percent(-0.123)))
    assert plain(fmt.signed_percent(-0.001)) == "0 %"


def test_a_long_list_is_counted() -> None:
    assert fmt.listed(["a"]) == "a"
    assert fmt.listed(["a", "b", "c"]) == "a, b and c"
    assert fmt.listed(["a", "b", "c", "d", "e", "f"]) == "a, b, c and 3 more"


def test_a_fact_is_formatted_by_the_unit_in_its_name() -> None:
    assert plain(fmt.by_name("memory_bytes", 2**30)) == "1.00 GiB"
    assert plain(fmt.by_name("wall_s", 0.5)) == "500 ms"
    assert fmt.by_name("turbo", True) == "yes"
    assert fmt.by_name("parameters", 3012345) == "3,012,345"
    assert fmt.by_name("strategies", ["ddp", "zero1"]) == "ddp, zero1"
    assert fmt.by_name("anything", None) == fmt.MISSING
