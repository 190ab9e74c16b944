"""Each unit is read by the program it is for, where that is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.nightly.schedule import FORMS, Job, Unit, write


def job(folder: Path) -> Job:
    return Job(suite=folder / "night 100%.toml", folder=folder, hour=3, minute=30)


def checker(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_a_crontab_has_five_fields_and_no_bare_percent_sign(tmp_path: Path) -> None:
    (unit,) = FORMS["cron"](job(tmp_path))
    (line,) = [line for line in unit.text.splitlines() if not line.startswith("#")]
    assert line.split()[:5] == ["30", "3", "*", "*", "*"]
    assert "%" not in line.replace("\\%", "")
    assert "nightly run" in line


def test_crontab_takes_it(tmp_path: Path) -> None:
    program = checker("crontab")
    (unit,) = FORMS["cron"](job(tmp_path))
    path = tmp_path / "tab"
    path.write_text(unit.text)
    done = subprocess.run([program, "-T", str(path)], capture_output=True, text=True, check=False)
    if "invalid option" in done.stderr or "usage" in done.stderr.lower():
        pytest.skip("this crontab cannot check a file")
    assert done.returncode == 0, done.stderr


def test_systemd_verifies_the_service_and_its_timer(tmp_path: Path) -> None:
    program = checker("systemd-analyze")
    units = FORMS["systemd"](job(tmp_path))
    paths = [tmp_path / unit.path.name for unit in units]
    for unit, path in zip(units, paths, strict=True):
        path.write_text(unit.text)
    done = subprocess.run(
        [program, "verify", "--man=no", *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("form", "begin"), [("github", '- cron: "30 3 * * *"'), ("pull_request", "on: pull_request")])
def test_the_workflow_is_one(form: str, begin: str, tmp_path: Path) -> None:
    (unit,) = FORMS[form](job(tmp_path))
    assert "runs-on: self-hosted" in unit.text
    assert begin in unit.text
    program = checker("actionlint")
    path = tmp_path / "nightly.yml"
    path.write_text(unit.text)
    done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_bash_reads_the_batch_script(tmp_path: Path) -> None:
    (unit,) = FORMS["slurm"](job(tmp_path))
    done = subprocess.run(["bash", "-n"], input=unit.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --exclusive" in unit.text


def test_every_form_runs_this_python(tmp_path: Path) -> None:
    for name in ("cron", "systemd", "slurm"):
        assert any(sys.executable in unit.text for unit in FORMS[name](job(tmp_path)))


def test_a_file_that_says_something_else_is_left_alone(tmp_path: Path) -> None:
    unit = Unit(tmp_path / "unit", "new")
    write([unit])
    write([unit])
    assert unit.path.read_text() == "new"
    unit.path.write_text("mine")
    with pytest.raises(InputError, match="exists and says something else"):
        write([unit])
    assert unit.path.read_text() == "mine"


def test_a_time_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="from 00:00 to 23:59, but got 25:00"):
        Job(suite=tmp_path, folder=tmp_path, hour=25)


def test_other_jobs_of_the_user_are_kept(tmp_path: Path) -> None:
    (unit,) = FORMS["cron"](job(tmp_path))
    advice = unit.text.splitlines()[0]
    assert advice.endswith(f"(crontab -l 2>/dev/null; cat '{tmp_path}/nightly.crontab') | crontab -")


@pytest.mark.parametrize("form", ["github", "pull_request"])
def test_the_workflow_keeps_what_tonight_is_compared_with(form: str, tmp_path: Path) -> None:
    (unit,) = FORMS[form](job(tmp_path))
    assert "clean: false" in unit.text


def test_a_timer_runs_while_nobody_is_logged_in(tmp_path: Path) -> None:
    service, _ = FORMS["systemd"](job(tmp_path))
    assert "loginctl enable-linger" in service.text
    assert "enable --now harness-nightly.timer" in service.text


def test_a_folder_with_a_space_is_one_word_to_slurm(tmp_path: Path) -> None:
    (unit,) = FORMS["slurm"](job(tmp_path / "my bench"))
    assert f'#SBATCH --chdir="{tmp_path}/my bench"' in unit.text


def test_a_user_without_a_home_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match="set HOME"):
        FORMS["systemd"](job(tmp_path))


def test_the_workflow_in_the_readme_runs_what_is_printed(tmp_path: Path) -> None:
    (unit,) = FORMS["pull_request"](Job(suite=tmp_path / "nightly.toml", folder=tmp_path))
    commands = unit.text.partition("run: |\n")[2].partition("      - if")[0]
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert commands.strip()
    assert all(line.strip() in readme for line in commands.splitlines())
