"""The nightly command as a team runs it: every exit code, from a suite that a sweep made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.nightly.history import History, Night, Session
from harness.nightly.suite import load

pytestmark = pytest.mark.e2e

SUITE = """
name = "tiny"
workload = "gpt:blocks=2,width=64,heads=2"
world_size = 2
launches = 2
steps = 5
sessions = 4
metrics = ["step_time_s", "loss_last"]
[plans.ddp]
data_parallel = "ddp"
micro_batch_size = 4
"""


def nightly(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", "nightly", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)


def invented_past(folder: Path, first: Night, seconds: float) -> None:
    """Twelve nights like one that was measured, but with other step times."""
    history = History(folder / "results", "tiny", first.hardware_id)
    values = first.sessions[0].values["ddp"]
    for number in range(12):
        times = [seconds * (1 + 0.001 * (number % 4))] * 2
        session = Session(purpose="screen", values={"ddp": {**values, "step_time_s": times}})
        history.write(
            Night(
                night=f"2026010{number // 10}T0{number % 10}0000Z-0000",
                suite="tiny",
                version=1,
                hardware_id=first.hardware_id,
                identities=first.identities,
                environment={**first.environment, "torch": "1.0"},
                sessions=[session],
                complete=True,
            )
        )


def test_a_team_hears_of_what_got_worse_and_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "nightly.toml").write_text(SUITE)
    first = nightly(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "INSUFFICIENT" in first.stdout
    assert "the baseline has 0 of 10 nights; run 10 more" in first.stdout
    (place,) = (tmp_path / "results" / "nightly" / "tiny").iterdir()
    (measured,) = History(tmp_path / "results", "tiny", place.name).nights()

    invented_past(tmp_path, measured, seconds=1e-6)
    second = nightly(tmp_path, "run", "--format", "json")
    assert second.returncode == 1, second.stdout + second.stderr
    verdicts = {f["metric"]: f["verdict"] for f in json.loads(second.stdout)["findings"]}
    assert verdicts == {"step_time_s": "CONFIRMED", "loss_last": "PASS"}
    pages = sorted((tmp_path / "reports" / "nightly" / "tiny").glob("*.html"))
    assert "torch" in pages[-1].read_text(encoding="utf-8")
    assert (tmp_path / "reports" / "nightly" / "index.html").exists()

    accepted = nightly(tmp_path, "ack", "ddp", "step_time_s", "--because", "it does more now")
    assert accepted.returncode == 0, accepted.stderr
    assert "it does more now" in (tmp_path / "nightly-acknowledged.toml").read_text()
    third = nightly(tmp_path)
    assert third.returncode == 0, third.stdout + third.stderr


def test_what_cannot_run_here_is_not_green(tmp_path: Path) -> None:
    (tmp_path / "nightly.toml").write_text(SUITE + "[plans.odd]\ntp = 3\nmicro_batch_size = 8\n")
    ended = nightly(tmp_path, "run", "--format", "markdown")
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "NOT_MEASURED" in ended.stdout
    assert "it cannot run here: dp x tp x pp must be the world size" in ended.stdout


@pytest.mark.parametrize(
    ("text", "arguments", "sentence"),
    [
        (SUITE + "[plans.bad]\nbucket = 3\n", (), "the plan 'bad' of the suite 'tiny': unknown knob 'bucket'"),
        (SUITE, ("--format", "pdf"), "unknown format 'pdf'"),
        (SUITE, ("--project", "."), "git rev-parse HEAD in . failed"),
        (SUITE, ("--deadline", "soon"), "a duration is a positive number"),
    ],
)
def test_bad_input_is_one_sentence(text: str, arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "nightly.toml").write_text(text)
    ended = nightly(tmp_path, "run", *arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert sentence in ended.stderr
    assert not (tmp_path / "results" / "nightly").exists()


def test_a_suite_is_made_from_a_sweep(tmp_path: Path) -> None:
    reference = Path(__file__).parents[2] / "results" / "reference"
    made = nightly(tmp_path, "init", "reference", "--results", str(reference))
    assert made.returncode == 0, made.stderr
    suite = load(tmp_path / "nightly.toml")
    assert any(name.startswith("winner-") for name in suite.plans)
    assert suite.workload == "gpt-nano"
    again = nightly(tmp_path, "init", "reference", "--results", str(reference))
    assert again.returncode == 2
    assert "nightly.toml exists already" in again.stderr


def test_the_unit_of_a_night_is_printed_and_written(tmp_path: Path) -> None:
    (tmp_path / "nightly.toml").write_text(SUITE)
    printed = nightly(tmp_path, "install", "--cron", "--time", "03:30")
    assert printed.returncode == 0, printed.stderr
    assert "30 3 * * *" in printed.stdout
    written = nightly(tmp_path, "install", "--slurm", "--write")
    assert written.returncode == 0, written.stderr
    assert (tmp_path / "nightly.sbatch").exists()
    wrong = nightly(tmp_path, "install", "--cron", "--time", "noon")
    assert wrong.returncode == 2
    assert "HH:MM" in wrong.stderr
