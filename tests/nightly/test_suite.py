from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from harness.errors import InputError, UnknownNameError
from harness.nightly import acknowledge
from harness.nightly.acknowledge import Acknowledgement
from harness.nightly.suite import Suite, load, parse

from .invented import SUITE

MIXER = Path(__file__).parents[1] / "example_model" / "mixer.py"

TEXT = """
name = "team"
version = 2
metrics = ["step_time_s", "setup_s"]
[floors]
setup_s = 0.2
[plans.ddp]
data_parallel = "ddp"
micro_batch_size = 4
[plans."my plan.1"]
tp = 2
"""


def test_a_suite_reads_what_it_writes(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(TEXT.replace('"my plan.1"', '"my-plan.1"'))
    suite = load(path)
    assert (suite.version, suite.floor("setup_s"), suite.floor("step_time_s")) == (2, 0.2, 0.02)
    path.write_text(suite.to_toml())
    assert load(path) == suite


def test_the_suite_that_comes_with_the_harness_is_one() -> None:
    suite = load(Path(str(files("harness.nightly") / "default.toml")))
    assert "ddp" in suite.plans


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name = ", "cannot be read"),
        ('name = "x"', "has no plan"),
        ("[plans.a]", "gives the suite no name"),
        ('name = "../x"\n[plans.a]', "a suite's name has up to 60"),
        ('name = "x"\nplan = 1\n[plans.a]', "unknown field of the suite 'plan': did you mean 'plans'"),
        ('name = "x"\nmetrics = ["speed"]\n[plans.a]', "unknown metric 'speed'"),
        ('name = "x"\nmetrics = []\n[plans.a]', "must be names, at least one of step_time_s"),
        ('name = "x"\nmetrics = [1, "a"]\n[plans.a]', "must be names"),
        ('name = "x"\nlaunches = 1\n[plans.a]', "launches of a suite must be at least 2, but got 1"),
        ('name = "x"\nlaunches = "3"\n[plans.a]', "launches in"),
        ('name = "x"\nbaseline_nights = 99\n[plans.a]', "must be at most 60"),
        ('name = "x"\n[floors]\nsetup_s = 2\n[plans.a]', "must be a share from 0 to 1"),
        ('name = "x"\n[plans]\na = 1', "must be a table of knobs"),
        ('name = "x"\n[plans."<b>"]\ntp = 1', "a plan's name has up to 60"),
    ],
)
def test_a_suite_that_is_none_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load(path)
    assert sentence in str(caught.value)


def test_a_missing_suite_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nightly init"):
        load(tmp_path / "none.toml")


def test_nights_are_comparable_only_if_the_plan_was_measured_in_the_same_way() -> None:
    same = parse({"name": "other", "plans": dict(SUITE.plans), "launches": 5}, "here")
    assert same.identity("ddp") == SUITE.identity("ddp")
    for change in ({"version": 2}, {"steps": 20}, {"workload": "cnn"}, {"plans": {"ddp": {"micro_batch_size": 2}}}):
        other = parse({"name": "other", "plans": dict(SUITE.plans)} | change, "here")
        assert other.identity("ddp") != SUITE.identity("ddp")


def test_acknowledgements_are_kept_in_a_file_and_the_last_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "ack.toml"
    assert acknowledge.read(path) == ()
    first = Acknowledgement(plan="ddp", metric="step_time_s", night="20260101", because='it is "worth" it\n')
    second = Acknowledgement(plan="*", metric="*", night="20260201", because="a new machine")
    for entry in (first, second):
        acknowledge.append(path, entry)
    found = acknowledge.read(path)
    assert found == (first, second)
    assert acknowledge.latest(found, "ddp", "step_time_s") == second
    assert acknowledge.latest(found[:1], "zero2", "step_time_s") is None


@pytest.mark.parametrize("text", ["x = [", "[[acknowledged]]\nplan = 1", '[[acknowledged]]\nplan = "a"\nother = 1'])
def test_acknowledgements_that_are_none_are_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "ack.toml"
    path.write_text(text)
    with pytest.raises(InputError, match="the acknowledgements"):
        acknowledge.read(path)


def test_only_what_the_suite_has_can_be_acknowledged() -> None:
    acknowledge.check(SUITE, "ddp", "*")
    with pytest.raises(UnknownNameError, match="did you mean 'zero2'"):
        acknowledge.check(SUITE, "zero3", "*")
    with pytest.raises(UnknownNameError, match="metric"):
        acknowledge.check(SUITE, "ddp", "speed")


def test_a_suite_is_frozen() -> None:
    with pytest.raises(AttributeError):
        SUITE.version = 2  # type: ignore[misc]
    assert isinstance(SUITE, Suite)


def test_what_is_trained_is_part_of_what_nights_have_in_common_and_old_suites_go_on() -> None:
    old, other = (Suite(name="team", plans={"ddp": {"tp": 1}}, **more) for more in ({}, {"seq_len": 16}))
    assert old.identity("ddp") == "d948d8da358a"
    assert other.identity("ddp") != old.identity("ddp")
