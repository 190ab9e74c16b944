"""The command line: bad input gets one clear sentence, exit code 2, and nothing is written."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from harness import __version__
from harness.cli.app import app
from harness.cli.helping import GROUPS
from harness.sweeps.config import SweepConfig
from tests.store.stores import filled

LONG_ENOUGH = "import this\n" * 50


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--strategies ddp,zero9", "unknown strategy 'zero9': did you mean 'zero3'? valid are"),
        ("--workload gtp-nano", "unknown workload 'gtp-nano': did you mean 'gpt-nano'? valid are"),
        ("--workload gpt:width=10,heads=3", "width must be a multiple of heads, but got (width=10, heads=3)"),
        ("--workload gpt:depth=3", "depth"),
        ("--sampler anneal", "unknown sampler 'anneal': valid are"),
        ("--sampler cmaes --objective pareto", "sampler 'cmaes' searches one objective, but 2 were asked for"),
        ("--objective speed", "unknown objective 'speed': valid are"),
        ("--world-size 0", "world size must be at least 1, but got 0"),
        (
            "--world-size 7 --global-batch 8",
            "can use 7 ranks: dp7: the global batch of 8 samples is not a multiple of dp=7",
        ),
        ("--trials 0", "trials must be at least 1, but got 0"),
        ("--data missing.txt", "missing.txt cannot be read"),
        ("--data empty.txt", "empty.txt is empty"),
        ("--data binary.txt", "binary.txt is not text"),
        ("--data short.txt", "shorter than one sequence: seq_len=128 needs 129 tokens, but it has 3"),
        ("--workload cnn --data long.txt", "data"),
        ("--global-batch 6 --set micro_batch_size=4", "none of the micro-batch sizes asked for divides the 3 samples"),
        ("--global-batch eight", "the global batch is one number, or several separated by commas, but got 'eight'"),
        ("--precision fp99", "precision must be fp32, tf32, bf16_autocast, bf16_params, bf16, fp16, but got 'fp99'"),
        ("--set bucket_mb=-3", "bucket_mb must be a number from 0.5 to 256 MB, but got '-3'"),
        ("--set bucket=3", "unknown knob 'bucket': did you mean 'bucket_mb'?"),
        ("--set bucket_mb", "a setting is written NAME=VALUE, but got 'bucket_mb'"),
        ("--time-budget 5", "a duration is a positive number and s, m or h, such as 90s or 5m, but got '5'"),
        ("--headroom 200%", "headroom is a share between 0 and 100 %, such as 2%, but got '200%'"),
        ("--precision-target x", "precision target is a share between 0 and 100 %, such as 2%, but got 'x'"),
        ("--finalists 0", "finalists must be at least 1, but got 0"),
        ("--relaunches -1", "relaunches must be at least 0, but got -1"),
        ("--resolution 0", "resolution is a share between 0 and 100 %, such as 2%, but got '0'"),
        ("--hardware-label ../x", "a hardware label has up to 40 letters, digits, dots and dashes, but got '../x'"),
        ("--also excel", "unknown format 'excel': valid are"),
        ("--memory-limit lots", "a size is a positive number and a unit, such as 512MiB or 6GiB, but got 'lots'"),
        ("--memory-limit 1MiB", "a memory limit of 1MiB a rank is below the"),
        ("--name ../escape", "a name has up to 80 letters, digits, dots, dashes and underscores"),
        ("--results short.txt", "short.txt cannot be a folder"),
        ("--results short.txt/deeper", "is a file; choose another folder"),
        ("--workload nowhere.py:workload", "the workload's file nowhere.py cannot be read"),
        ("--workload mine.py:train", "it has no function train; write def train(): return TorchWorkload(...)"),
        ("--workload mine.py", "it has no function workload; write def workload(): return TorchWorkload(...)"),
        ("--config missing.toml", "the configuration missing.toml cannot be read"),
        ("--config bad.toml", "the configuration bad.toml cannot be read"),
        ("--config wrong.toml", "unknown field of the configuration 'wrold_size': did you mean 'world_size'?"),
        ("--config types.toml", "trials in the configuration must be int, but got 'many'"),
    ],
)
def test_bad_input_of_a_sweep_is_one_sentence(arguments: str, sentence: str, in_an_empty_folder: Path) -> None:
    files = {
        "empty.txt": b"",
        "short.txt": b"ab\n",
        "long.txt": LONG_ENOUGH.encode(),
        "binary.txt": b"\xff\xfe\x00\x01" * 100,
        "bad.toml": b"trials = = 3",
        "wrong.toml": b"wrold_size = 2",
        "types.toml": b'trials = "many"',
        "mine.py": b"x = 1",
    }
    for name, content in files.items():
        (in_an_empty_folder / name).write_bytes(content)
    ended = harness("sweep", *arguments.split())
    assert ended.exit_code == 2, ended.output
    assert sentence in ended.output
    assert len(ended.output.strip().splitlines()) == 1
    assert {path.name for path in in_an_empty_folder.iterdir()} == set(files)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--set data_parallel=zero1 --set tp=2", "needs at least two data-parallel ranks, but dp=1 of 2"),
        ("--set tp=3 --world-size 2", "dp x tp x pp must be the world size, but 1 x 3 x 1 = 3 and there are 2"),
        ("--set micro_batch_size=3", "the global batch must be a multiple of dp x micro_batch_size"),
        ("--set pp=2 --set pp_schedule=gpipe --set micro_batch_size=8", "needs at least 2 micro-batches, but got 1"),
        ("--set zero1_impl=torch", "zero1_impl has a meaning only where data_parallel is zero1"),
        ("--plan missing.toml", "the plan missing.toml cannot be read"),
        ("0123456789ab", "unknown plan '0123456789ab': there is none yet"),
    ],
)
def test_a_plan_that_cannot_run_is_refused_with_the_reason(
    arguments: str, sentence: str, in_an_empty_folder: Path
) -> None:
    ended = harness("run", *arguments.split())
    assert ended.exit_code == 2, ended.output
    assert sentence in ended.output
    assert list(in_an_empty_folder.iterdir()) == []


def test_a_report_without_a_sweep_says_what_to_do() -> None:
    ended = harness("report")
    assert ended.exit_code == 2
    assert "results holds no sweep; run one first" in ended.output


def test_the_help_of_every_command_has_an_example() -> None:
    for command in ("sweep", "run", "report", "compare", "store compact", "doctor"):
        assert f"python -m harness {command}" in harness(*command.split(), "--help").output


REFERENCE = str(Path(__file__).parents[2] / "results" / "reference")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("compare", "results holds no trial; give a results folder, or run a sweep first"),
        (f"compare {REFERENCE} nothing", "nothing holds no trial"),
        (f"compare {REFERENCE} --format pdf", "unknown format 'pdf': valid are"),
        (f"compare {REFERENCE} --workload gpt-nanu", "unknown workload 'gpt-nanu': did you mean 'gpt-nano'?"),
        (f"compare {REFERENCE} --sweeps reference,other", "unknown sweep 'other'"),
        (f"compare {REFERENCE} --price missing.toml", "the price list missing.toml cannot be read"),
        ("store compact", "results holds no sweep; run one first"),
        ("report --watch", "results holds no sweep; run one first"),
        (f"report --results {REFERENCE} --also excel", "unknown format 'excel'"),
        (f"report --results {REFERENCE} nosuch", "unknown sweep 'nosuch'"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_sentence(arguments: str, sentence: str, in_an_empty_folder: Path) -> None:
    ended = harness(*arguments.split())
    assert ended.exit_code == 2, ended.output
    assert sentence in ended.output
    assert len(ended.output.strip().splitlines()) == 1
    assert list(in_an_empty_folder.iterdir()) == []


def test_a_comparison_is_printed_as_markdown_and_as_json(in_an_empty_folder: Path) -> None:
    text = harness("compare", REFERENCE, "--format", "markdown")
    assert text.exit_code == 0, text.output
    assert "| where | winner |" in text.output
    found = json.loads(harness("compare", REFERENCE, "--format", "json").output)
    assert found["trials"] > 0
    assert list(in_an_empty_folder.iterdir()) == []


def test_a_comparison_is_a_page(in_an_empty_folder: Path) -> None:
    ended = harness("compare", REFERENCE)
    assert ended.output.strip() == str(Path("reports") / "comparison.html")
    assert (in_an_empty_folder / ended.output.strip()).exists()


def test_a_report_can_also_be_csv(in_an_empty_folder: Path) -> None:
    ended = harness("report", "reference", "--results", REFERENCE, "--also", "csv")
    assert ended.exit_code == 0, ended.output
    assert ended.output.splitlines() == [
        str(Path("reports") / "reference.html"),
        str(Path("reports") / "reference.trials.csv"),
    ]


def test_compacting_says_what_it_did(in_an_empty_folder: Path) -> None:
    filled(in_an_empty_folder / "results")
    ended = harness("store", "compact")
    assert ended.output == "hw s: 6 files, now 2\n"


def test_a_port_in_use_cannot_be_watched() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = harness("report", "reference", "--results", REFERENCE, "--watch", "--port", str(port))
    assert ended.exit_code == 2
    assert f"port {port} cannot be served: Address already in use; choose another --port" in ended.output


def test_doctor_says_what_was_derived_of_a_workload() -> None:
    lines = json.loads(harness("doctor", "--workload", "cnn", "--json").output)
    assert {"state": "derived", "name": "inputs", "found": "images"} in lines
    said = harness("doctor", "--workload", "cnn")
    assert said.exit_code == 0, said.output
    assert [line.split()[0] for line in said.output.splitlines()] == [line["state"] for line in lines]


def test_doctor_answers_scripts_in_json() -> None:
    findings = json.loads(harness("doctor", "--json").output)
    assert {"python", "torch", "gloo"} <= {finding["name"] for finding in findings}
    assert all(finding["fix"] or finding["state"] == "ok" for finding in findings)


def test_the_version_is_printed() -> None:
    ended = subprocess.run([sys.executable, "-m", "harness", "--version"], capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == __version__


def test_the_main_job_stands_first_and_every_command_where_it_is_needed() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    commands = re.findall(r"^  ([a-z]+) {2,}[A-Z]", text.partition("Commands:")[2], re.M)
    assert commands == [
        "sweep",
        "run",
        "report",
        "compare",
        "nightly",
        "predict",
        "replay",
        "watch",
        "knobs",
        "store",
        "doctor",
    ]


def test_every_option_of_a_sweep_stands_in_its_group() -> None:
    text = CliRunner().invoke(app, ["sweep", "--help"]).output
    headings = re.findall(r"^([A-Z][\w ]+):$", text, re.M)
    assert headings == [*GROUPS, "Options"]
    by_heading = dict(zip(headings, re.split(r"^[A-Z][\w ]+:$", text, flags=re.M)[1:], strict=True))
    options = {heading: re.findall(r"^  --([a-z-]+)", part, re.M) for heading, part in by_heading.items()}
    assert options.pop("Options") == ["help"]
    named = [option.replace("-", "_") for group in options.values() for option in group]
    assert sorted(named) == sorted([*SweepConfig.__dataclass_fields__, "config", "json"])
    assert options["How long"] == ["trials", "time-budget"]
