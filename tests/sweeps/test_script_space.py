"""The plans that a knobs file spans."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.plan import Plan
from harness.scripts.knobs_file import read
from harness.scripts.lanes import ScriptWorkload, changes_mathematics
from harness.search.choosers import at_random
from harness.sweeps.script_space import ScriptSpace

KNOBS = """
command = "python train.py {micro} {accumulate} {bucket} {stage} {lr}"
require = [{ that = "micro * accumulate == 8", because = "a step has 8 samples" }]
[knobs.micro]
values = [1, 2, 3, 8]
default = 2
means = "micro_batch_size"
[knobs.accumulate]
value = "8 // micro"
means = "grad_accumulation"
[knobs.stage]
values = ["off", "one"]
means = { data_parallel = ["ddp", "zero1"], precision = ["fp32", "fp32"] }
[knobs.bucket]
low = 1
high = 64
log = true
when = { stage = ["one"] }
[knobs.lr]
values = [0.1, 0.2]
mathematics = true
"""


def space(tmp_path: Path, **settings: object) -> ScriptSpace:
    (tmp_path / "knobs.toml").write_text(KNOBS)
    return ScriptSpace(read(tmp_path / "knobs.toml"), **settings)  # type: ignore[arg-type]


def test_a_plan_holds_what_is_chosen_and_what_follows_is_calculated(tmp_path: Path) -> None:
    found = space(tmp_path)
    assert dict(found.baseline) == {"micro": 2, "stage": "off", "lr": 0.1}
    whole = found.script.plan(found.baseline)
    assert whole["accumulate"] == 4
    assert found.script.columns(whole) == {
        "micro_batch_size": 2,
        "grad_accumulation": 4,
        "data_parallel": "ddp",
        "precision": "fp32",
    }


def test_drawing_tracing_and_the_grid_agree(tmp_path: Path) -> None:
    found = space(tmp_path)
    draw = at_random(random.Random(0))
    plans = {found.draw(draw) for _ in range(200)}
    for plan in plans:
        assert found.draw(lambda name, domain, plan=plan: found.trace(plan).params[name]) == plan  # type: ignore[misc]
        assert ("bucket" in plan) == (plan["stage"] == "one")
    reasons = {plan["micro"]: found.why_not(plan) for plan in plans}
    assert reasons == {1: None, 2: None, 8: None, 3: "a step has 8 samples"}
    grid = list(found.grid())
    assert len(grid) == len(set(grid)) == 3 * 2 + 3 * 5 * 2  # micro x lr, and with five buckets besides
    assert not found.finite  # a bucket is a number of a range


def test_it_begins_with_the_baseline_and_each_knob_alone(tmp_path: Path) -> None:
    first, *others = space(tmp_path, first={"micro": 8}).showcases()
    assert dict(first) == {"micro": 8, "stage": "off", "lr": 0.1}
    changed = [{k: v for k, v in plan.items() if first.get(k) != v} for plan in others]
    assert changed == [{"micro": 1}, {"stage": "one", "bucket": 1}, {"lr": 0.2}]


def test_what_is_fixed_is_not_searched(tmp_path: Path) -> None:
    found = space(tmp_path, fixed={"stage": "off", "lr": 0.2})
    assert {plan["lr"] for plan in found.grid()} == {0.2}
    assert found.finite
    assert found.why_not(Plan((("micro", 2), ("stage", "off"), ("lr", 0.1)))) == "lr is 0.2 in this sweep"


def test_a_baseline_that_is_not_to_be_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a step has 8 samples"):
        space(tmp_path, first={"micro": 3})


def test_what_changes_the_mathematics_is_another_workload(tmp_path: Path) -> None:
    found = space(tmp_path)
    main, apart = (ScriptWorkload(found.script, found.baseline, apart) for apart in (False, True))
    other = ScriptWorkload(found.script, found.plan({"micro": 8}))
    assert len({main.workload_id, apart.workload_id, other.workload_id}) == 3
    assert sorted([apart.workload_id, main.workload_id])[0] == main.workload_id  # ranked first
    whole = found.script.plan(found.baseline)
    assert changes_mathematics(found.script, found.script.plan({"lr": 0.2}), whole)
    assert not changes_mathematics(found.script, found.script.plan({"micro": 8}), whole)


@pytest.mark.parametrize(
    ("means", "message"),
    [
        ('"micro_batch"', "did you mean 'micro_batch_size'"),
        ('{ precision = ["fp32"] }', "has 4 values, so means.precision is a list of as many words"),
        ("7", "neither a column nor a table"),
    ],
)
def test_a_meaning_that_there_is_not_is_named(means: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "knobs.toml").write_text(KNOBS.replace('means = "micro_batch_size"', f"means = {means}"))
    with pytest.raises(InputError, match=message):
        read(tmp_path / "knobs.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[observe]\nbackwards = 3", "unknown entry of .observe."),
        ("[observe]\nstep_of = -1", "must be a whole number from 0"),
        ("[numerics]\ntolerance = 2", "must be a number between 0 and 1"),
        ('world_size = "nproc"', "has 'nproc', and there is no such knob"),
    ],
)
def test_tables_are_checked(text: str, message: str, tmp_path: Path) -> None:
    head, body = ("", f"{KNOBS}\n{text}") if text.startswith("[") else (f"{text}\n", KNOBS)
    (tmp_path / "knobs.toml").write_text(head + body)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "knobs.toml")
