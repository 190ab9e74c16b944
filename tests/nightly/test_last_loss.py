from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from harness.nightly.findings import Finding, Verdict
from harness.nightly.history import SEEDS, Night, Session
from harness.nightly.judge import judge
from harness.nightly.last_loss import Known, Losses, band, versions

from .invented import SUITE, night, session

LOSS = replace(SUITE, metrics=("loss_last",), plans={"ddp": {"data_parallel": "ddp"}})
NEW = {"torch": "2.14"}
APART = (2.9, 3.0, 3.1, 2.95, 3.05)
"""Last losses of five seeds: 2.6 % apart as a standard deviation, so the band is 17 %."""


def of(loss: float, purpose: str = "screen") -> Session:
    return session({"ddp": {"loss_last": [loss] * 3}}, purpose)


def seeds(losses: Sequence[float] = APART) -> Session:
    return Session(purpose=SEEDS, values={"ddp": {"loss_last": list(losses)}})


def past(count: int = 20, loss: float = 3.0) -> list[Night]:
    return [night(n, [of(loss * (1 + 1e-8 * (n % 3)))], LOSS) for n in range(count)]


def judged(loss: float, before: Sequence[Night], losses: Sequence[float] | None = None, **fields: Any) -> Finding:
    """The verdict on a loss; seeds must not be asked for unless their losses are given."""

    def measure(plans: Sequence[str]) -> list[Session]:
        assert losses is not None, "nobody needed seeds"
        return [seeds(losses)]

    tonight = night(90, [of(loss)], LOSS, **fields)
    (found,) = judge(LOSS, before, tonight, (), lambda plans: [], None, measure)
    return found


def test_under_the_same_versions_another_loss_is_another_training() -> None:
    assert judged(3.0, past()).verdict is Verdict.PASS
    found = judged(3.001, past())
    assert found.verdict is Verdict.CONFIRMED
    assert "nights with the same versions" in found.why
    assert judged(2.99, past()).verdict is Verdict.IMPROVED


def test_under_new_versions_the_same_loss_needs_no_seeds() -> None:
    assert judged(3.0, past(), environment=NEW).verdict is Verdict.PASS


def test_under_new_versions_a_loss_within_the_band_of_five_seeds_passes_and_says_so() -> None:
    found = judged(3.1, past(), APART, environment=NEW)
    assert found.verdict is Verdict.PASS
    assert "versions differ from the baseline's (torch 2.13 -> 2.14)" in found.why
    assert "within the band of 5 other seeds" in found.why
    assert found.smallest is not None
    assert found.smallest > 0.15


@pytest.mark.parametrize(("loss", "verdict"), [(4.0, Verdict.CONFIRMED), (2.3, Verdict.IMPROVED)])
def test_under_new_versions_a_loss_outside_the_band_is_another_training(loss: float, verdict: Verdict) -> None:
    found = judged(loss, past(), APART, environment=NEW)
    assert found.verdict is verdict
    assert "outside the band of 5 other seeds" in found.why
    assert found.p is not None
    assert found.p < 0.01


def test_too_few_seeds_leave_a_suspicion() -> None:
    found = judged(3.1, past(), APART[:3], environment=NEW)
    assert found.verdict is Verdict.SUSPECT
    assert "3 of 5 other seeds were measured" in found.why


@pytest.mark.parametrize(
    ("name", "asked"), [("torch", True), ("harness", True), ("driver", True), ("kernel", False), ("governor", False)]
)
def test_only_what_may_change_rounding_makes_versions_differ(name: str, asked: bool) -> None:
    other = {"torch": "2.13", name: "another"}
    found = judged(3.001, past(), APART if asked else None, environment=other)
    assert found.verdict is (Verdict.PASS if asked else Verdict.CONFIRMED)


def test_the_kernel_in_the_platforms_name_is_no_version_but_the_c_library_is() -> None:
    names = [
        f"Linux-{kernel}-x86_64-with-glibc{libc}"
        for kernel, libc in (("6.1", "2.36"), ("6.2", "2.36"), ("6.2", "2.40"))
    ]
    first, second, third = (versions({"platform": name}) for name in names)
    assert first == second != third


def test_seeds_are_measured_once_and_later_nights_of_the_same_versions_must_be_identical() -> None:
    first = night(40, [of(3.1), seeds()], LOSS, environment=NEW)
    first.verdicts = [judged(3.1, past(), APART, environment=NEW).to_json()]
    before = [*past(), first]
    assert judged(3.1, before, environment=NEW).verdict is Verdict.PASS
    assert judged(3.11, before, environment=NEW).verdict is Verdict.CONFIRMED


def test_the_seeds_of_a_night_that_stands_confirmed_tell_the_next_one_too() -> None:
    first = night(40, [of(4.0), seeds()], LOSS, environment=NEW)
    first.verdicts = [judged(4.0, past(), APART, environment=NEW).to_json()]
    assert judged(4.0, [*past(), first], environment=NEW).verdict is Verdict.CONFIRMED


def test_a_night_that_was_only_suspected_excuses_none_after_it() -> None:
    first = night(
        40, [of(4.0)], LOSS, environment=NEW, verdicts=[{"plan": "ddp", "metric": "loss_last", "verdict": "SUSPECT"}]
    )
    assert judged(4.0, [*past(), first], APART, environment=NEW).verdict is Verdict.CONFIRMED


def test_the_band_holds_99_of_100_differences_of_two_seeds() -> None:
    rng = random.Random(0)
    tries = 4000
    outside = 0
    for _ in range(tries):
        first, second, *five = (rng.gauss(1.0, 0.02) for _ in range(7))
        outside += abs(first - second) > band(five).width
    assert outside / tries == pytest.approx(0.01, abs=0.005)


def test_the_band_and_the_probability_agree() -> None:
    found = band([math.log(loss) for loss in APART])
    assert found.p(found.width) == pytest.approx(0.01, rel=0.01)
    assert found.smallest > found.width


def test_seeds_that_all_agree_make_no_band_but_rounding() -> None:
    known = Losses(now=1.1, versions=(("torch", "2"),), nights=[Known(1.0, (("torch", "1"),))], seeds=[1.0] * 5)
    assert known.told()[0] is Verdict.CONFIRMED
