"""Suites of a script: made, read, and told from those of a workload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError, InputError
from harness.nightly.findings import Finding, Verdict
from harness.nightly.history import History
from harness.nightly.init import write
from harness.nightly.night import measurement
from harness.nightly.pages import commands
from harness.nightly.script_bisect import of_suite
from harness.nightly.script_night import Script, ScriptNight, plans
from harness.nightly.script_suite import REFERENCE, knobs_path, of_sweep, pinned
from harness.nightly.suite import Suite, load, parse
from harness.scripts.knobs_file import read
from harness.store.records import SCHEMA_VERSION
from harness.sweeps.config import SweepConfig
from harness.trial.recorder import Launched, Result

KNOBS = """
command = "{python} train.py {micro} {fused}"
require = [{ that = "micro < 64", because = "64 do not fit" }]
[knobs.micro]
values = [4, 8, 64]
[knobs.fused]
values = [false, true]
written = { false = "", true = "--fused" }
[knobs.twice]
value = "2 * micro"
[knobs.more]
values = [1, 2]
when = { twice = [16] }
"""


@pytest.fixture
def knobs(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "knobs.toml"
    path.parent.mkdir()
    path.write_text(KNOBS.replace("{fused}", "{fused} {more}"))
    return path


def test_a_script_is_pinned_with_every_setting_of_its_plan(knobs: Path, tmp_path: Path) -> None:
    output = tmp_path / "suites" / "nightly.toml"
    output.parent.mkdir()
    suite = pinned(knobs, "{python} other.py {micro} '{fused}' {more}", ["micro=8"], "team", output)
    assert suite.plans == {REFERENCE: {"micro": 8, "fused": False, "more": 1}}
    assert (suite.knobs, suite.reference) == ("../code/knobs.toml", REFERENCE)
    write(suite, output)
    assert load(output) == suite
    script = read(knobs_path(suite, output), suite.script)
    assert script.command == ("{python}", "other.py", "{micro}", "{fused}", "{more}")


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["micro=5"], "micro must be one of 4, 8, 64"),
        (["size=5"], "unknown knob 'size'"),
        (["micro=64"], "this plan is not to be run: 64 do not fit"),
    ],
)
def test_a_plan_that_cannot_be_pinned_is_one_sentence(pairs: list[str], sentence: str, knobs: Path) -> None:
    with pytest.raises(HarnessError, match=sentence):
        pinned(knobs, None, pairs, "team", knobs.with_name("nightly.toml"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"script": "python a.py"}, "script of a suite says nothing without knobs"),
        ({"reference": "a"}, "reference of a suite says nothing without knobs"),
        ({"knobs": "k.toml", "workload": "cnn"}, "workload of a suite says nothing of a script"),
        ({"knobs": "k.toml", "world_size": 2}, "world_size of a suite says nothing of a script"),
        ({"knobs": "k.toml", "reference": "b"}, "unknown plan of the suite 'b'"),
        ({"knobs": 1}, "knobs in here must be a str"),
    ],
)
def test_half_a_suite_of_a_script_is_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HarnessError, match=sentence):
        parse({"name": "team", "plans": {"a": {}}, **values}, "here")


def test_the_command_is_part_of_what_nights_must_have_in_common_and_the_way_to_the_knobs_is_not() -> None:
    def identity(**values: Any) -> str:
        return Suite(name="team", plans={"a": {"micro": 4}}, **values).identity("a")

    one = identity(knobs="k.toml", script="python a.py")
    assert one == identity(knobs="code/k.toml", script="python a.py", schema_version=SCHEMA_VERSION)
    assert one != identity(knobs="k.toml", script="python b.py")
    assert one != identity()


def test_settings_of_a_script_are_never_put_into_other_words() -> None:
    given = {"data_parallel": "ddp", "bucket_mb": 8}  # which meant something else of workloads before version 5
    assert Suite(name="team", plans={"a": given}, knobs="k.toml").settings("a") == given


def test_a_plan_of_other_knobs_is_refused_by_its_name(knobs: Path) -> None:
    suite = Suite(name="team", plans={"mine": {"size": 4}}, knobs="knobs.toml")
    with pytest.raises(InputError, match="the plan 'mine' of the suite 'team': unknown knob 'size'"):
        plans(suite, read(knobs))


def test_the_page_says_how_a_plan_of_a_script_is_run_once(tmp_path: Path) -> None:
    suite = Suite(name="team", plans={"a": {"micro": 4, "fused": True}}, knobs="k.toml", script="python a.py {micro}")
    worse = Finding(plan="a", metric="step_time_s", verdict=Verdict.CONFIRMED, why="so")
    said = dict(commands(suite, Path("suites/nightly.toml"), [worse]))["Run a once"]
    assert said == "python -m harness watch --knobs suites/k.toml --set micro=4 --set fused=true -- python a.py {micro}"


class Sweep:
    """The parts of a store that hold one sweep."""

    def __init__(self, knobs: Path, rows: list[dict[str, Any]]) -> None:
        self.recorded = rows
        about = {"command": ["{python}", "train.py", "{micro}", "{fused}", "{more}"], "knobs": str(knobs)}
        self.info = {
            "script": {**about, "baseline": {"micro": 4, "fused": False}},
            "workload": {"workload_id": "main"},
        }

    def sweep_info(self, hardware_id: str, sweep: str) -> dict[str, Any]:
        return self.info

    def rows(self, sweep: str, hardware_id: str) -> list[dict[str, Any]]:
        return self.recorded


def row(plan: str, rate: float, kind: str | None = None, workload: str = "main") -> dict[str, Any]:
    known = {"outcome": "ok", "role": "search", "disturbed": None, "round": None, "workload_id": workload}
    rates = {"tokens_per_s": rate, "tokens_per_s_low": rate, "tokens_per_s_high": rate, "step_time_s": 1 / rate}
    beside = {"peak_memory_bytes": 1, "time_to_loss_s": None, "data_parallel": kind, "knobs": plan, "plan_id": plan}
    return {**known, **rates, **beside}


def made_of(tmp_path: Path, knobs: Path, rows: list[dict[str, Any]], given: Path | None = None) -> Suite:
    store: Any = Sweep(knobs, rows)
    return of_sweep(store, "hw", "tuned", "team", tmp_path / "nightly.toml", given)


def test_a_suite_of_a_sweep_has_what_it_was_compared_with_and_its_winner(knobs: Path, tmp_path: Path) -> None:
    rows = [
        row('{"fused":false,"micro":4}', 10),
        row('{"fused":true,"micro":8,"more":2}', 30),
        row('{"fused":true,"micro":4}', 20),
        row('{"fused":false,"micro":8}', 90, workload="main-apart"),
    ]
    suite = made_of(tmp_path, knobs, rows)
    assert suite.plans == {
        REFERENCE: {"micro": 4, "fused": False},
        "winner": {"micro": 8, "fused": True, "more": 2},
    }
    assert (suite.knobs, suite.script) == ("code/knobs.toml", "{python} train.py {micro} {fused} {more}")


def test_the_best_of_each_strategy_is_watched_where_knobs_mean_one(knobs: Path, tmp_path: Path) -> None:
    rows = [
        row('{"fused":true,"micro":8,"more":2}', 30, "zero2"),
        row('{"fused":true,"micro":4}', 20, "ddp"),
        row('{"fused":true,"micro":8,"more":1}', 10, "zero2"),
    ]
    assert list(made_of(tmp_path, knobs, rows).plans) == [REFERENCE, "winner-zero2", "ddp"]


def test_a_sweep_whose_knobs_file_was_moved_can_be_told_where(knobs: Path, tmp_path: Path) -> None:
    rows = [row('{"fused":true,"micro":4}', 20)]
    gone = tmp_path / "gone.toml"
    with pytest.raises(InputError, match=r"gone.toml of the sweep 'tuned' is not here; say where it is, with --knobs"):
        made_of(tmp_path, gone, rows)
    assert made_of(tmp_path, gone, rows, knobs).knobs == "code/knobs.toml"


def test_a_sweep_in_which_nothing_ended_well_makes_no_suite(knobs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trial of the sweep 'tuned' is ok"):
        made_of(tmp_path, knobs, [])


@pytest.mark.parametrize(
    ("suite", "plan", "metric", "sentence"),
    [
        (Suite(name="t", plans={"a": {}}), None, "step_time_s", "--measure must say what is run"),
        (
            Suite(name="t", plans={"a": {}, "b": {}}, knobs="k"),
            None,
            "step_time_s",
            "--plan must say which plan .* a, b",
        ),
        (Suite(name="t", plans={"a": {}}, knobs="k"), "c", "step_time_s", "unknown plan of the suite 'c'"),
        (Suite(name="t", plans={"a": {}}, knobs="k"), None, "tokens_per_s", "unknown metric that is to be small"),
        (Suite(name="t", plans={"a": {}}, knobs="no.toml"), None, "step_time_s", "no.toml cannot be read"),
        (Suite(name="t", plans={"a": {}}, knobs="code/knobs.toml"), None, "step_time_s", "is in no git repository"),
    ],
)
def test_what_cannot_be_bisected_is_one_sentence(
    suite: Suite, plan: str | None, metric: str, sentence: str, knobs: Path
) -> None:
    with pytest.raises(HarnessError, match=sentence):
        of_suite(suite, knobs.parents[1] / "nightly.toml", plan, metric)


class FakeRunner:
    """Launches that never happen."""

    rank_memory = None
    main = "the script"

    def __init__(self) -> None:
        self.launched: list[tuple[dict[str, Any], str, str]] = []

    def run(self, plan: Any, workload: Any, facts: None, launched: Launched) -> Result:
        self.launched.append((dict(plan), workload, launched.role))
        return Result(f"t{len(self.launched)}", {"outcome": "ok", "step_time_s": 1.0, "loss_last": 2.0}, 1.0)


class Night(ScriptNight):
    """A night without a canary."""

    def _canary(self) -> dict[str, float]:
        return {}


def test_plans_of_a_script_are_launched_in_turns_and_recorded_as_a_nights(knobs: Path, tmp_path: Path) -> None:
    suite = Suite(
        name="team", plans={"one": {"micro": 4}, "two": {"micro": 8}}, knobs="knobs.toml", metrics=("step_time_s",)
    )
    runner, nothing = FakeRunner(), None
    given: Any = {"runner": runner, "canary": nothing, "bench": nothing, "environment": {"torch": "2.13"}}
    night = Night(suite=suite, script=read(knobs), history=History(tmp_path, "team", "hw"), **given)
    _, findings = night.run(())
    assert [plan["micro"] for plan, _, _ in runner.launched] == [4, 8, 8, 4, 4, 8]
    assert {(workload, role) for _, workload, role in runner.launched} == {("the script", "nightly")}
    assert {finding.verdict for finding in findings} == {Verdict.INSUFFICIENT}


def test_a_plan_that_the_file_refuses_is_not_launched(knobs: Path, tmp_path: Path) -> None:
    suite = Suite(name="team", plans={"one": {"micro": 4}, "big": {"micro": 64}}, knobs="knobs.toml")
    config = SweepConfig(results=tmp_path / "results", reports=tmp_path / "reports")
    checked = Script(suite, knobs.with_name("nightly.toml"), config)
    assert checked.refused == {"big": "it cannot run here: 64 do not fit"}
    assert checked.reference == "one"
    assert measurement(suite).max_steps == suite.steps
    assert not (tmp_path / "results").exists()


def test_a_command_that_cannot_be_started_is_refused_before_anything_is(knobs: Path, tmp_path: Path) -> None:
    suite = Suite(name="t", plans={"a": {}}, knobs="knobs.toml", script="no-such-program {micro} {fused} {more}")
    config = SweepConfig(results=tmp_path / "results", reports=tmp_path / "reports")
    with pytest.raises(InputError, match="no-such-program is no program on PATH"):
        Script(suite, knobs.with_name("nightly.toml"), config)
