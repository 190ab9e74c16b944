"""No trust where none is due: files run no code, names are no paths, nothing listens to other machines."""

from __future__ import annotations

import ast
import ipaddress
import json
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from harness.launchers.job import Deadlines, Job, Measurement
from harness.launchers.launcher import Launcher
from harness.nightly.suite import Suite, parse
from harness.store.store import Store
from harness.sweeps.about import new_name
from harness.sweeps.command_lines import resuming, run_command
from harness.sweeps.config import SweepConfig
from harness.trial.supervise import follow
from harness.workloads.passed import Passed
from harness.workloads.passed import create as create_passed
from tests.test_architecture import FILES, imports
from tests.tiny import facts, plan
from tests.trial.faulty import faulty
from tests.workloads.cells import example as passed_example

UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "code", "runpy"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
PICKLING = {("torch", "load"), ("np", "load"), ("numpy", "load")}
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def calls(path: Path) -> Iterator[tuple[str, str, set[str]]]:
    """(owner, function, its keyword arguments as written, "name=value") of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            keywords = {f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords if keyword.arg}
            if isinstance(node.func, ast.Name):
                yield "", node.func.id, keywords
            elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                yield node.func.value.id, node.func.attr, keywords


def test_no_file_that_a_user_gives_can_run_code() -> None:
    found = [f"{path.name} imports {name}" for path in FILES for name in imports(path) & UNSAFE_MODULES]
    for path in FILES:
        for owner, name, keywords in calls(path):
            safely = keywords & {"allow_pickle=False", "weights_only=True"}
            if (not owner and name in UNSAFE_CALLS) or ((owner, name) in PICKLING and not safely):
                found.append(f"{path.name} calls {owner}.{name}")
    # What a notebook passed is pickled and read again, but from this process's memory: see the next test.
    # YAML can name classes; the only file that knows it reads and writes plain values.
    assert sorted(found) == [
        "key_paths.py imports yaml",
        "passed.py imports cloudpickle",
        "passed.py imports pickle",
    ]
    (key_paths,) = [path for path in FILES if path.name == "key_paths.py"]
    assert {name for owner, name, _ in calls(key_paths) if owner == "yaml"} == {"safe_load"}
    assert "safe_dump" in key_paths.read_text()


def test_what_was_passed_reaches_ranks_by_their_job_and_stands_in_no_file(tmp_path: Path) -> None:
    (path,) = [path for path in FILES if path.name == "passed.py"]
    known = {name for _, name, _ in calls(path)}
    assert known & {"loads", "dump"} == {"loads"}  # Pickler(buffer).dump(...) writes to memory
    assert known & {"open", "load", "read_bytes", "read_text", "write_bytes", "write_text", "write"} == set()
    workload = create_passed(passed_example(), cache=tmp_path, global_batch_size=None, seed=0)
    assert isinstance(workload.source, Passed)
    workload.prepare()
    (written,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    torch.load(written, weights_only=True)  # no more than weights
    assert workload.source.pickled[:100] not in written.read_bytes()


def test_the_file_of_a_workload_is_the_only_one_that_is_imported_by_its_path() -> None:
    assert [path.name for path in FILES if "exec_module" in path.read_text()] == ["own.py"]


def test_code_that_a_models_folder_brings_is_trusted_by_nothing_that_was_recorded() -> None:
    assert [path.name for path in FILES if "from_dynamic_module" in path.read_text()] == ["hf_code.py"]
    plans: dict[str, dict[str, str]] = {"one": {"data_parallel": "zero1"}}
    mine = Suite(name="mine", plans=plans, trust_remote_code=True)  # what a user wrote into a file of theirs
    assert parse(tomllib.loads(mine.to_toml()), "mine").trust_remote_code
    assert "trust" not in Suite(name="made", plans=plans).to_toml()
    asked = SweepConfig(workload="hf:folder", trust_remote_code=True, keep_dropout=True)
    command = run_command(asked, plan({}), {}, "hf:folder", None)
    assert "--keep-dropout" in command
    assert "trust" not in command  # which pages and results keep
    assert "trust" not in resuming(asked, "night", passed=False)
    assert "trust" not in resuming(asked, "night", passed=True)


@pytest.mark.parametrize("workload", ["../../etc/passwd", "/", "..", "", "gpt:blocks=2,width=64", "a\nb", "é" * 300])
def test_a_sweep_without_a_name_gets_one_that_is_no_path(workload: str) -> None:
    name = new_name(workload, MOMENT)
    assert Path(name).name == name
    assert len(name) <= 80
    assert not name.startswith((".", "-"))
    assert "=" not in name  # it is a value in the name of a folder


def test_two_sweeps_that_start_in_the_same_second_have_different_names() -> None:
    assert len({new_name("gpt", MOMENT) for _ in range(20)}) > 1


def test_a_workload_that_names_a_path_reads_no_file_outside(tmp_path: Path) -> None:
    inside, outside = Store(tmp_path / "results"), Store(tmp_path)
    curve = [{"step": 0, "loss": 1.0, "grad_norm": 1.0, "step_time_s": 1.0}]
    outside.write_reference("secret", curve)
    (tmp_path / "results" / "references").mkdir(parents=True)
    assert outside.reference("secret") is not None
    assert inside.reference("../../references/secret") is None


def test_nothing_listens_to_other_machines_during_a_trial(launcher: Launcher, tmp_path: Path) -> None:
    workload, chosen = faulty("tell_sockets"), plan({"dp": 2, "micro_batch_size": 4})
    few = Measurement(warmup_steps=4, min_steps=1, max_steps=1)
    job = Job(workload=workload, plan=chosen, facts=facts(workload, 2), folder=tmp_path, threads=1, measurement=few)
    output = follow(launcher, job, Deadlines()).outputs[1]
    addresses = json.loads(next(line for line in output.splitlines() if line.startswith("[")))
    assert addresses  # gloo waits for its peers
    assert [address for address in addresses if not ipaddress.ip_address(address).is_loopback] == []
