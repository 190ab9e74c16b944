from __future__ import annotations

from dataclasses import replace

import pytest

from harness.nightly.acknowledge import Acknowledgement
from harness.nightly.findings import Finding, Verdict
from harness.nightly.history import CONFIRM, Night, Session
from harness.nightly.judge import _standing_together, canary_moved, judge
from harness.nightly.night import exit_code
from harness.nightly.suite import Suite

from .invented import SUITE, World, night, session, stamp


def verdicts(findings: tuple[Finding, ...]) -> dict[str, Verdict]:
    return {finding.plan: finding.verdict for finding in findings}


def judged(world: World, past: list[Night], tonight: Night, **options: object) -> tuple[Finding, ...]:
    return judge(world.suite, past, tonight, options.get("entries", ()), world.measure)  # type: ignore[arg-type]


def test_a_night_like_the_others_passes_and_nothing_is_measured_again() -> None:
    world = World(noise=0.001)
    past = world.past(20)
    tonight = night(20, [session({plan: {"step_time_s": [1.0] * 3} for plan in SUITE.plans})])
    findings = judged(world, past, tonight)
    assert verdicts(findings) == {"ddp": Verdict.PASS, "zero2": Verdict.PASS}
    assert world.measured == []
    assert exit_code(findings) == 0


def test_a_slowdown_of_one_plan_is_confirmed_for_it_and_for_no_other() -> None:
    world = World(1)
    past = world.past(30)
    world.slower["zero2"] = 1.08
    tonight = world.tonight(30)
    findings = judged(world, past, tonight)
    assert verdicts(findings) == {"ddp": Verdict.PASS, "zero2": Verdict.CONFIRMED}
    found = next(finding for finding in findings if finding.plan == "zero2")
    assert found.effect == pytest.approx(0.08, abs=0.02)
    assert found.smallest is not None
    assert found.smallest < 0.06
    assert found.since == stamp(30)
    assert "12 fresh sessions are" in found.why
    assert sum(s.purpose == CONFIRM for s in tonight.sessions) == 12
    assert exit_code(findings) == 1


def test_a_lucky_night_that_fresh_sessions_do_not_bear_out_is_only_suspected() -> None:
    world = World(2, noise=0.005)
    past = world.past(30)
    tonight = night(30, [session({"ddp": {"step_time_s": [1.05] * 3}, "zero2": {"step_time_s": [1.0] * 3}})])
    findings = judged(world, past, tonight)
    assert verdicts(findings)["ddp"] is Verdict.SUSPECT
    assert world.measured == [["ddp"]]
    assert exit_code(findings) == 0


def test_without_time_for_fresh_sessions_a_suspicion_stays_one() -> None:
    world = World(3, noise=0.005)
    past = world.past(30)
    tonight = night(30, [session({plan: {"step_time_s": [1.5] * 3} for plan in SUITE.plans})])
    findings = judge(SUITE, past, tonight, (), lambda suspects: [])
    assert set(verdicts(findings).values()) == {Verdict.SUSPECT}
    assert "nothing was measured again" in findings[0].why


def test_a_machine_that_is_slower_as_a_whole_is_said_to_be_one() -> None:
    world = World(4)
    past = world.past(30)
    world.machine = 1.5
    tonight = world.tonight(30)
    assert canary_moved(past, tonight) == pytest.approx(0.5, abs=0.02)
    findings = judged(world, past, tonight)
    assert set(verdicts(findings).values()) == {Verdict.ENV_CHANGE}
    assert findings[0].effect == pytest.approx(0.5, abs=0.1)
    assert findings[0].value == pytest.approx(1.5, abs=0.1)
    assert exit_code(findings) == 0


@pytest.mark.parametrize(("canary", "seconds"), [(0.0104, 1.0), (0.0096, 1.0), (0.0104, 1.04)])
def test_where_the_canary_moved_no_time_is_judged(canary: float, seconds: float) -> None:
    world = World(4, noise=0.005)
    past = world.past(30)
    tonight = night(30, [session({plan: {"step_time_s": [seconds] * 3} for plan in SUITE.plans}, canary=canary)])
    world.machine = canary / 0.01
    assert set(verdicts(judged(world, past, tonight)).values()) == {Verdict.ENV_CHANGE}


def test_a_canary_that_moves_excuses_no_change_of_memory() -> None:
    suite = replace(SUITE, metrics=("peak_memory_bytes",))
    world = World(5, suite=suite)

    def value(plan: str, size: float, purpose: str = "screen", canary: float = 0.01) -> Session:
        return session({plan: {"peak_memory_bytes": [size] * 3} for plan in suite.plans}, purpose, canary)

    past = [night(n, [value("", 1e9)], suite) for n in range(20)]
    tonight = night(20, [value("", 1.3e9, canary=0.02)], suite)
    findings = judge(suite, past, tonight, (), lambda names: [value("", 1.3e9, CONFIRM, 0.02) for _ in range(8)])
    assert verdicts(findings) == {"ddp": Verdict.CONFIRMED, "zero2": Verdict.CONFIRMED}
    assert world.measured == []


def test_a_change_of_memory_by_few_bytes_or_less_than_a_hundredth_is_none() -> None:
    suite = replace(SUITE, metrics=("peak_memory_bytes",), plans={"ddp": {"data_parallel": "ddp"}})

    def value(size: float, purpose: str = "screen") -> Session:
        return session({"ddp": {"peak_memory_bytes": [size] * 3}}, purpose)

    past = [night(n, [value(1e9)], suite) for n in range(20)]
    for size, limit, expected in ((1.005e9, None, "PASS"), (1.04e9, None, "SUSPECT"), (1.04e9, 24 << 30, "CONFIRMED")):
        fresh = [value(size, CONFIRM) for _ in range(8)]
        (finding,) = judge(suite, past, night(20, [value(size)], suite), (), lambda names, f=fresh: f, limit)
        assert finding.verdict == expected


def test_a_loss_that_is_not_the_baselines_is_confirmed_at_once() -> None:
    suite = replace(SUITE, metrics=("loss_last",), plans={"ddp": {"data_parallel": "ddp"}})

    def value(loss: float) -> Session:
        return session({"ddp": {"loss_last": [loss] * 3}})

    past = [night(n, [value(3.0 * (1 + 1e-8 * (n % 3)))], suite) for n in range(20)]
    for loss, expected in ((3.0, Verdict.PASS), (3.001, Verdict.CONFIRMED), (2.99, Verdict.IMPROVED)):
        (finding,) = judge(suite, past, night(20, [value(loss)], suite), (), lambda names: [])
        assert finding.verdict is expected


def test_getting_faster_is_said_and_fails_nothing() -> None:
    world = World(6)
    past = world.past(30)
    world.slower["ddp"] = 0.9
    findings = judged(world, past, world.tonight(30))
    assert verdicts(findings)["ddp"] is Verdict.IMPROVED
    assert exit_code(findings) == 0


def test_few_nights_give_no_verdict_and_say_how_many_more() -> None:
    world = World(7)
    findings = judged(world, world.past(4), world.tonight(4))
    assert set(verdicts(findings).values()) == {Verdict.INSUFFICIENT}
    assert findings[0].why == "the baseline has 4 of 10 nights; run 6 more"
    assert exit_code(findings) == 0


def test_what_was_not_measured_is_never_green() -> None:
    world = World(8)
    tonight = night(20, [session({"ddp": {"step_time_s": [1.0] * 3}})])
    tonight.sessions[0].failures["zero2"] = ["a launch ended with crash: exit status 1"]
    findings = judged(world, world.past(20), tonight)
    assert verdicts(findings)["zero2"] is Verdict.NOT_MEASURED
    assert "exit status 1" in next(f for f in findings if f.plan == "zero2").why
    assert exit_code(findings) == 3


def confirmed_since(world: World, at: int, count: int) -> list[Night]:
    """Nights that go on after a change, each with its verdict."""
    past = world.past(at)
    world.slower["zero2"] = 1.10
    for number in range(at, at + count):
        tonight = world.tonight(number)
        tonight.verdicts = [finding.to_json() for finding in judged(world, past, tonight)]
        past.append(tonight)
    return past


def test_a_regression_is_still_reported_a_month_later_and_never_becomes_the_baseline() -> None:
    past = confirmed_since(World(9), 20, 30)
    assert [v["verdict"] for v in past[-1].verdicts if v["plan"] == "zero2"] == ["CONFIRMED"]
    said = [v["verdict"] for n in past[20:] for v in n.verdicts if v["plan"] == "zero2"]
    assert said.count("CONFIRMED") >= 29


def test_an_acknowledged_change_is_the_new_normal_from_its_night_on() -> None:
    world = World(10)
    past = confirmed_since(world, 20, 15)
    entry = Acknowledgement(plan="zero2", metric="step_time_s", night=stamp(20), because="worth it")
    for number in range(12):  # the nights after the acknowledgement count
        tonight = world.tonight(35 + number)
        tonight.verdicts = [f.to_json() for f in judged(world, past, tonight, entries=(entry,))]
        past.append(tonight)
    findings = judged(world, past, world.tonight(50), entries=(entry,))
    assert verdicts(findings)["zero2"] in (Verdict.PASS, Verdict.SUSPECT)
    assert next(f for f in findings if f.plan == "zero2").baseline == pytest.approx(1.10, rel=0.03)


def test_a_second_regression_never_becomes_the_baseline_of_an_acknowledged_one() -> None:
    world = World(10, noise=0.01)
    past = confirmed_since(world, 20, 12)
    accepted = Acknowledgement(
        plan="zero2", metric="step_time_s", night=stamp(20), because="worth it", last=past[-1].night
    )
    world.slower["zero2"] = 1.32  # 20 % slower than what was accepted
    for number in range(32, 52):
        tonight = world.tonight(number)
        tonight.verdicts = [f.to_json() for f in judged(world, past, tonight, entries=(accepted,))]
        past.append(tonight)
    said = [v["verdict"] for night in past[32:] for v in night.verdicts if v["plan"] == "zero2"]
    assert set(said) == {"CONFIRMED"}


def test_a_plan_that_stands_for_something_else_has_a_history_of_its_own() -> None:
    world = World(11)
    past = world.past(20)
    other = replace(SUITE, plans={**SUITE.plans, "zero2": {"data_parallel": "zero2", "micro_batch_size": 2}})
    tonight = night(20, [session({plan: {"step_time_s": [1.0] * 3} for plan in SUITE.plans})], other)
    findings = judge(other, past, tonight, (), lambda names: [])
    assert verdicts(findings)["zero2"] is Verdict.INSUFFICIENT
    assert verdicts(findings)["ddp"] is not Verdict.INSUFFICIENT


def test_among_many_metrics_a_single_weak_confirmation_may_be_chance() -> None:
    weak = Finding(plan="p", metric="step_time_s", verdict=Verdict.CONFIRMED, why="slower", p=8e-4)
    others = [Finding(plan=f"q{n}", metric="step_time_s", verdict=Verdict.PASS, why="") for n in range(199)]
    assert _standing_together([weak])[0].verdict is Verdict.CONFIRMED
    (first, *_) = _standing_together([weak, *others])
    assert first.verdict is Verdict.SUSPECT
    assert "among 200 metrics" in first.why


def test_the_baseline_is_frozen() -> None:
    suite = replace(SUITE, baseline_nights=12)
    world = World(12, noise=0.003, suite=suite)
    past = world.past(12)
    for number in range(12, 40):  # each night is a little slower than the one before
        world.slower["ddp"] = 1 + 0.002 * (number - 11)
        past.append(world.tonight(number))
    findings = judge(suite, past, world.tonight(40), (), world.measure)
    assert verdicts(findings)["ddp"] is Verdict.CONFIRMED
    assert next(f for f in findings if f.plan == "ddp").nights == 12


def test_what_no_launch_told_is_not_blamed_on_the_deadline() -> None:
    suite = replace(SUITE, metrics=("step_time_s", "energy_j"))
    tonight = night(20, [session({plan: {"step_time_s": [1.0] * 3} for plan in suite.plans})], suite)
    tonight.sessions[0].trials["zero2"] = []
    tonight.sessions[0].values.pop("zero2")
    why = {(f.plan, f.metric): f.why for f in judge(suite, [], tonight, (), lambda names: [])}
    assert "this machine does not tell energy_j" in why["ddp", "energy_j"]
    assert why["zero2", "step_time_s"] == "it was not launched before the night's deadline"


@pytest.mark.parametrize("kind", ["nothing", "canary alone"])
def test_a_night_of_nothing_is_not_measured(kind: str) -> None:
    world = World(13)
    tonight = night(20, [] if kind == "nothing" else [Session(purpose="screen", canary={"product_s": 0.01})])
    findings = judged(world, world.past(20), tonight)
    assert set(verdicts(findings).values()) == {Verdict.NOT_MEASURED}


def test_a_metric_in_which_more_is_better_is_worse_when_it_falls() -> None:
    suite: Suite = replace(SUITE, metrics=("tokens_per_s",), plans={"ddp": {"data_parallel": "ddp"}})

    def value(rate: float, purpose: str = "screen") -> Session:
        return session({"ddp": {"tokens_per_s": [rate] * 3}}, purpose)

    past = [night(n, [value(1000.0 + n % 3)], suite) for n in range(20)]
    fresh = [value(900.0 + at, CONFIRM) for at in range(8)]
    (finding,) = judge(suite, past, night(20, [value(900.0)], suite), (), lambda names: fresh)
    assert finding.verdict is Verdict.CONFIRMED
    assert finding.value == pytest.approx(900.0)
    assert finding.effect == pytest.approx(0.11, abs=0.01)
