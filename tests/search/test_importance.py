from __future__ import annotations

import random

import optuna
import pytest

from harness.search.importance import FEWEST, classes, importance


def plans(count: int = 40) -> tuple[list[dict[str, object]], list[float]]:
    rng = random.Random(0)
    settings = [{"decides": rng.choice("abcd"), "idle": rng.choice((1, 2, 3)), "same": True} for _ in range(count)]
    return settings, [float("abcd".index(str(plan["decides"]))) + rng.random() / 10 for plan in settings]


def test_the_knob_that_decides_has_the_largest_share_and_shares_add_up() -> None:
    shares = importance(*plans())
    assert list(shares) == ["decides", "idle"]
    assert shares["decides"] > 0.7
    assert sum(shares.values()) == pytest.approx(1.0)


def test_a_knob_that_only_some_plans_have_takes_part() -> None:
    settings, values = plans()
    for plan, value in zip(settings, values, strict=True):
        if value >= 3:
            plan["extra"] = 1
        del plan["decides"]
    assert next(iter(importance(settings, values))) == "extra"


def test_numbers_that_hardly_repeat_count_as_quarters_of_them() -> None:
    found = classes([float(value) for value in range(1, 9)] + [None])
    assert found == ["1 to 2"] * 2 + ["2 to 4"] * 2 + ["4 to 6"] * 2 + ["6 to 8"] * 2 + ["without"]
    assert classes([1, 2.5, True, None, "none"]) == ["1", "2.5", "True", "without", "none"]


def test_too_few_plans_or_equal_ones_say_nothing() -> None:
    settings, values = plans()
    assert importance(settings[: FEWEST - 1], values[: FEWEST - 1]) == {}
    assert importance(settings, [1.0] * len(settings)) == {}
    assert importance([{"same": True}] * 40, values) == {}


def test_what_optuna_says_is_as_loud_as_before() -> None:
    before = optuna.logging.get_verbosity()
    importance(*plans())
    assert optuna.logging.get_verbosity() == before
