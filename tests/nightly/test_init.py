"""A suite made from a sweep trains what the sweep trained, or says that it does not."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import strategies
from harness.cli import nightly_commands
from harness.errors import InputError
from harness.nightly.suite import load
from harness.store.records import SCHEMA_VERSION
from harness.store.store import Store
from harness.sweeps.command_lines import asked_by, run_command
from harness.sweeps.config import SweepConfig
from harness.sweeps.experiment import prepare
from tests.families import written
from tests.store.stores import trial
from tests.tiny import plan
from tests.workloads.test_own import EXAMPLE

from .invented import SUITE

DEFAULTS = {knob.name: knob.default for knob in strategies.knobs(strategies.registry().values())}


def swept(config: SweepConfig, recorded: Mapping[str, str] | None = None) -> str:
    """The workload_id of a sweep with one trial, as it is recorded."""
    (workload,) = prepare(config).workloads.values()
    chosen = plan({"dp": 2, "data_parallel": "ddp", "micro_batch_size": 2})
    values: dict[str, Any] = {
        "workload": workload.name,
        "workload_id": workload.workload_id,
        "global_batch_size": workload.global_batch_size,
        "plan_id": chosen.plan_id,
        "knobs": chosen.to_json(),
        "data_parallel": "ddp",
        "world_size": 2,
        "outcome": "ok",
        "role": "search",
        "numerics": "pass",
        "tokens_per_s": 9.0,
        "schema_version": SCHEMA_VERSION,
    }
    row, store = trial(1, **values), Store(config.results)
    store.append("here", "one", row, [])
    command = run_command(config, chosen, DEFAULTS, config.workload or workload.name, None)
    repeat = {row["trial_id"]: command} if recorded is None else recorded
    store.write_sweep_info("here", "one", {"repeat": repeat})
    return workload.workload_id


def data(folder: Path) -> Path:
    path = folder / "texts é.jsonl"
    path.write_text("".join(json.dumps({"body": f"a text {i}", "label": i % 3}) + "\n" for i in range(9)))
    return path


@pytest.mark.parametrize("output", ["nightly.toml", "kept/nightly.toml"])
def test_a_suite_trains_what_a_sweep_of_a_model_of_transformers_trained(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    from tests.workloads.test_hf import tokenizer

    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    written("bert", tmp_path)
    tokenizer(tmp_path)
    config = SweepConfig(
        workload="hf:bert,blocks=2,task=sequence-classification",
        data=data(tmp_path).relative_to(tmp_path),
        field="body,label",
        tokenizer=Path("tokenizer.json"),
        seq_len=24,
        seed=3,
        global_batch=(6,),
        keep_dropout=True,
        trust_remote_code=True,
        world_size=2,
    )
    trained = swept(config)
    assert nightly_commands.init("one", Path("results"), Path(output), "team") == 0
    assert capsys.readouterr().err == ""
    suite = load(Path(output))
    assert not suite.trust_remote_code
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # where a suite is run from is of no account
    found = prepare(SweepConfig(**suite.asked(Path("..", output).parent), world_size=suite.world_size))
    assert [workload.workload_id for workload in found.workloads.values()] == [trained]


def test_a_suite_trains_what_a_sweep_of_a_file_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = os.path.relpath(EXAMPLE)
    trained = swept(SweepConfig(workload=f"{relative}:workload,blocks=layers.*", world_size=2, seed=1))
    nightly_commands.init("one", Path("results"), Path("nightly.toml"), "team")
    suite = load(Path("nightly.toml"))
    assert suite.workload == f"{relative}:workload,blocks=layers.*"
    found = prepare(SweepConfig(**suite.asked(Path()), world_size=suite.world_size))
    assert [workload.workload_id for workload in found.workloads.values()] == [trained]


def test_an_enlarged_batch_is_the_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    swept(SweepConfig(workload="cnn", world_size=3))
    nightly_commands.init("one", Path("results"), Path("nightly.toml"), "team")
    assert load(Path("nightly.toml")).global_batch == 66


def test_what_has_changed_since_the_sweep_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("a line of text\n" * 99)
    trained = swept(SweepConfig(workload="gpt:blocks=1,width=16,heads=2,seq=8", data=Path("notes.txt"), world_size=2))
    Path("notes.txt").write_text("another line of text\n" * 99)
    nightly_commands.init("one", Path("results"), Path("nightly.toml"), "team")
    assert f"warning: the sweep trained {trained}, but the suite makes gpt-nano-" in capsys.readouterr().err
    Path("notes.txt").unlink()
    nightly_commands.init("one", Path("results"), Path("other.toml"), "team")
    assert "warning: the suite's workload cannot be made here: " in capsys.readouterr().err


@pytest.mark.parametrize("recorded", [{}, {"t1": "rm -rf x"}, {"t1": "python -m harness run --world-size two"}])
def test_a_sweep_of_what_no_command_names_makes_no_suite(
    recorded: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    swept(SweepConfig(workload="cnn", world_size=2), recorded)
    with pytest.raises(InputError, match="has no record of a command that says what it trained"):
        nightly_commands.init("one", Path("results"), Path("nightly.toml"), "team")
    assert not Path("nightly.toml").exists()


def test_a_command_gives_back_what_was_asked_for() -> None:
    config = SweepConfig(
        data=Path("a b/ü.jsonl"), field="x,y", seed=2, keep_dropout=True, seq_len=8, memory_limit="2GiB"
    )
    command = run_command(config, plan({"dp": 2, "data_parallel": "ddp"}), DEFAULTS, "hf:m,lora=4", 12)
    assert asked_by(command) == {
        "workload": "hf:m,lora=4",
        "data": "a b/ü.jsonl",
        "field": "x,y",
        "seq_len": 8,
        "keep_dropout": True,
        "world_size": 2,
        "seed": 2,
        "memory_limit": "2GiB",
        "global_batch": 12,
    }
    assert asked_by("python -m harness sweep --workload cnn") is None


def test_a_suites_file_holds_any_path(tmp_path: Path) -> None:
    suite = replace(SUITE, data='a "b" \\ 😀.jsonl', seq_len=4, keep_dropout=True, field="x")
    path = tmp_path / "suite.toml"
    path.write_text(suite.to_toml(), encoding="utf-8")
    assert load(path) == suite
    assert suite.identity("ddp") != SUITE.identity("ddp")
    assert tomllib.loads(SUITE.to_toml()).keys().isdisjoint({"data", "field", "seed", "keep_dropout"})
