from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import HarnessError, InputError
from harness.scripts.knobs_file import KnobsFile, read
from harness.scripts.rendering import render

WHOLE = """
command = "torchrun --nproc-per-node {nproc} train.py --bs {micro} --config={ds} {checkpointing} --json {{}} {bucket}"
require = [{ that = "micro * nproc * accumulation == 16", because = "the global batch is 16" }, "micro < 16"]
samples_per_step = "micro * nproc * accumulation"
[env]
OMP_NUM_THREADS = "{nproc}"
[files.ds]
path = "ds.json"
[knobs.nproc]
values = [2]
[knobs.micro]
values = [1, 2, 4, 3, 16]
default = 4
[knobs.accumulation]
value = "16 // (micro * nproc)"
into = "ds:gradient_accumulation_steps"
[knobs.stage]
values = [0, 1]
into = "ds:zero.stage"
[knobs.bucket]
low = 1000
high = 1000000
log = true
when = { stage = [1] }
into = ["ds:zero.bucket", "ds:zero.other"]
remove_if_absent = true
[knobs.checkpointing]
values = [false, true]
written = { true = "--checkpointing --every {nproc}" }
"""
DS = {"gradient_accumulation_steps": 1, "zero": {"stage": 0, "bucket": 1, "other": 1}, "fp16": {"enabled": False}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ds.json").write_text(json.dumps(DS))
    return tmp_path


def written(folder: Path, text: str = WHOLE) -> KnobsFile:
    (folder / "knobs.toml").write_text(text)
    return read(folder / "knobs.toml")


def test_a_plan_becomes_a_command_an_environment_and_copies(folder: Path) -> None:
    script, trial = written(folder), folder / "trial"
    trial.mkdir()
    plan = script.plan({"stage": 1, "bucket": 5000})
    assert plan == {"nproc": 2, "micro": 4, "accumulation": 2, "stage": 1, "bucket": 5000, "checkpointing": False}
    rendered = render(script, plan, trial)
    copy = trial / "ds.json"
    assert rendered.environment == {"OMP_NUM_THREADS": "2"}
    command = f"torchrun --nproc-per-node 2 train.py --bs 4 --config={copy} false --json {{}} 5000"
    assert rendered.command == tuple(command.split())
    zero = {"stage": 1, "bucket": 5000, "other": 5000}
    assert json.loads(copy.read_text()) == {"gradient_accumulation_steps": 2, "zero": zero, "fp16": {"enabled": False}}
    assert json.loads((folder / "ds.json").read_text()) == DS  # the user's own


def test_what_a_plan_does_not_have_vanishes(folder: Path) -> None:
    script, trial = written(folder), folder / "trial"
    trial.mkdir()
    plan = script.plan({"checkpointing": True})
    assert "bucket" not in plan
    rendered = render(script, plan, trial)
    assert rendered.command[-5:] == ("--checkpointing", "--every", "2", "--json", "{}")
    assert json.loads((trial / "ds.json").read_text())["zero"] == {"stage": 0}


def test_what_is_required_refuses_with_its_sentence(folder: Path) -> None:
    script = written(folder)
    assert script.why_not(script.plan({})) is None
    assert script.why_not(script.plan({"micro": 3})) == "the global batch is 16"
    assert (
        script.why_not(script.plan({"micro": 16}) | {"accumulation": 0.5}) == "micro < 16 does not hold with micro=16"
    )


def test_the_command_can_come_from_elsewhere(folder: Path) -> None:
    (folder / "knobs.toml").write_text('[knobs.a]\nvalues = ["x y"]\n')
    script = read(folder / "knobs.toml", "python train.py {a} --p {port} --python={python}")
    command = render(script, script.plan({}), folder).command
    assert command[:3] == ("python", "train.py", "x y")  # one word, whatever is in it
    assert command[4].isdecimal()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("--bs {micro}", "--bs {macro}", r"the command has \{macro\}, and there is no such knob or file"),
        ('{nproc}"\n[files', '{procs}"\n[files', r"\[env\] OMP_NUM_THREADS has \{procs\}"),
        ("--every {nproc}", "--every {n}", r"\[knobs.checkpointing\] has \{n\}"),
        ("{checkpointing} ", "", "the knob checkpointing goes nowhere"),
        ("--config={ds}", "", "the file ds goes nowhere"),
        ("ds:zero.stage", "ds:zero.level", "has no 'zero.level': there is no 'level'; there are stage, bucket, other"),
        ("ds:zero.stage", "dx:zero.stage", "unknown file of a knobs file 'dx'"),
        ("ds:zero.stage", "zero.stage", "not written FILE:KEY.PATH"),
        (
            "16 // (micro * nproc)",
            "16 // (micro * stage)",
            r"\[knobs.accumulation\] needs 'stage', which is no knob above",
        ),
        ("when = { stage", "when = { level", r"\[knobs.bucket\] needs 'level'"),
        ("16 // (micro * nproc)", "open(micro)", "is no arithmetic of knobs"),
        ("default = 4", "default = 5", "has the default 5, which is not 1, 2, 4"),
        ("default = 4", "defualt = 4", "unknown entry of .* did you mean 'default'"),
        ("low = 1000\n", "low = 0\n", "logarithmic, so low must be above 0"),
        ("low = 1000\n", "low = 2000000\n", "low below high"),
        ("values = [0, 1]", "values = []", r"\[knobs.stage\] needs values"),
        ("[knobs.nproc]", "[knobs.port]", "'port' cannot be a knob's name"),
        ("micro < 16", "micros < 16", "'micros < 16' has 'micros', and there is no such knob"),
        ("--json {{}}", "--json {}", "a { in '{}' that belongs to no placeholder"),
        ("--json {{}}", "--json '", "cannot be split into words"),
        ('path = "ds.json"', 'path = "dx.json"', "dx.json cannot be read"),
        ("require =", 'workdir = "x"\nrequire =', "the command cannot run in .*x: there is no such folder"),
        ("when = { stage = [1] }", "when = 3", r"\[knobs.bucket\] when must be a table, but is 3"),
        ("[files.ds]", '[files.micro]\npath = "ds.json"\n[files.ds]', r"\[files.micro\] cannot be called so"),
        ("command =", "comand =", "did you mean 'command'"),
        ("[env]", "[env", "is no TOML"),
    ],
)
def test_every_mistake_in_a_knobs_file_is_one_sentence(folder: Path, old: str, new: str, message: str) -> None:
    assert old in WHOLE
    text = WHOLE.replace(old, new)
    with pytest.raises(InputError, match=message):
        written(folder, text)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"micro": 5}, "micro must be one of|micro must be"), ({"accumulation": 2}, "unknown knob 'accumulation'")],
)
def test_a_plan_holds_what_the_file_allows(folder: Path, given: dict[str, int], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        written(folder).plan(given)
