"""Units that run a suite every night: cron, systemd, GitHub Actions, Slurm."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError, StoreError


@dataclass(frozen=True)
class Unit:
    """One file."""

    path: Path
    """Where it belongs; for a crontab, where it is kept before it is loaded."""
    text: str


@dataclass(frozen=True)
class Job:
    """What is to run, and when."""

    suite: Path
    folder: Path
    """In which results and reports lie."""
    hour: int = 1
    minute: int = 0
    """Local time, but for GitHub, whose schedules are in UTC."""
    deadline: str = "2h"

    def __post_init__(self) -> None:
        if not 0 <= self.hour < 24 or not 0 <= self.minute < 60:
            raise InputError(f"the time of a night is from 00:00 to 23:59, but got {self.hour:02}:{self.minute:02}")

    @property
    def command(self) -> str:
        """What runs."""
        words = [sys.executable, "-m", "harness", "nightly", "run", str(self.suite), "--deadline", self.deadline]
        return shlex.join(words)


_END = "--deadline {0.deadline} --format github"
ADD = "Add to what is there with: (crontab -l 2>/dev/null; cat '{}') | crontab -"
"""What to do with a crontab."""


def cron(job: Job) -> list[Unit]:
    """A crontab of one line, to be added to the user's own, which `crontab FILE` would replace.

    Percent signs end a command there, so they are escaped.
    """
    command = f"cd {shlex.quote(str(job.folder))} && {job.command} >> nightly.log 2>&1".replace("%", "\\%")
    line = f"{job.minute} {job.hour} * * * {command}\n"
    path = job.folder / "nightly.crontab"
    return [Unit(path, f"# {ADD.format(path)}\n{line}")]


def systemd(job: Job) -> list[Unit]:
    """A service and its timer, for the user's own manager."""
    try:
        folder = Path.home() / ".config" / "systemd" / "user"
    except RuntimeError:
        raise InputError("the user has no home folder, in which systemd looks for units; set HOME") from None
    quoted = job.command.replace("%", "%%").replace("$", "$$")
    service = f"""# Begin with:  systemctl --user daemon-reload && systemctl --user enable --now harness-nightly.timer
# Without this it runs only while the user is logged in:  loginctl enable-linger
[Unit]
Description=Nightly benchmark of distributed training

[Service]
Type=oneshot
WorkingDirectory={str(job.folder).replace("%", "%%")}
ExecStart={quoted}
# 1 is a confirmed regression, 3 that something could not be measured: both are for people, not for restarts.
SuccessExitStatus=1 3
"""
    timer = f"""[Unit]
Description=Every night

[Timer]
OnCalendar=*-*-* {job.hour:02}:{job.minute:02}:00
Persistent=true

[Install]
WantedBy=timers.target
"""
    name = "harness-nightly"
    return [Unit(folder / f"{name}.service", service), Unit(folder / f"{name}.timer", timer)]


def github(job: Job) -> list[Unit]:
    """A workflow for a runner of the team's own: hardware that changes from night to night can judge nothing."""
    text = f"""name: nightly
on:
  schedule:
    - cron: "{job.minute} {job.hour} * * *"
  workflow_dispatch:
jobs:
  nightly:
    runs-on: self-hosted
    timeout-minutes: 360
    steps:
      - uses: actions/checkout@v4
        with:
          clean: false # or results/, which tonight is compared with, would be removed before each night
      - run: python -m harness nightly run {shlex.quote(job.suite.name)} --deadline {job.deadline} --format github
      - if: always()
        uses: actions/upload-artifact@v4
        with:
          name: nightly
          path: reports
"""
    return [Unit(job.folder / ".github" / "workflows" / "nightly.yml", text)]


def pull_request(job: Job) -> list[Unit]:
    """A workflow for the same runner that judges a pull request by the nights there are, and is no night itself."""
    text = f"""name: nightly-pull-request
on: pull_request
jobs:
  judge:
    # A pull request runs its code on this machine: only where those who may open one may do so.
    runs-on: self-hosted
    timeout-minutes: 360
    steps:
      - uses: actions/checkout@v4
        with:
          clean: false # or results/, with the nights that it is compared with, would be removed
      - name: Judge against a copy of the nights, so that the pull request does not become one of them
        run: |
          rm -rf results-pull-request
          mkdir results-pull-request
          if [ -d results/nightly ]; then cp -r results/nightly results-pull-request/; fi
          python -m harness nightly run {shlex.quote(job.suite.name)} --results results-pull-request {_END.format(job)}
      - if: always()
        uses: actions/upload-artifact@v4
        with:
          name: nightly-pull-request
          path: reports
"""
    return [Unit(job.folder / ".github" / "workflows" / "nightly-pull-request.yml", text)]


def slurm(job: Job) -> list[Unit]:
    """A batch script that asks for the next night before it begins with this one."""
    text = f"""#!/bin/bash
#SBATCH --job-name=harness-nightly
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=06:00:00
#SBATCH --output=nightly-%j.log
#SBATCH --chdir="{job.folder}"
sbatch --begin="$(date -d 'tomorrow {job.hour:02}:{job.minute:02}' +%Y-%m-%dT%H:%M)" nightly.sbatch
{job.command}
"""
    return [Unit(job.folder / "nightly.sbatch", text)]


FORMS: Mapping[str, Callable[[Job], list[Unit]]] = {
    "cron": cron,
    "systemd": systemd,
    "github": github,
    "pull_request": pull_request,
    "slurm": slurm,
}
"""Name -> what it takes."""


def write(units: list[Unit]) -> None:
    """Put the files where they belong.

    Raises:
        InputError: one exists already with another text.
        StoreError: one cannot be written.
    """
    for unit in units:
        if unit.path.exists() and unit.path.read_text(encoding="utf-8") != unit.text:
            raise InputError(f"{unit.path} exists and says something else; move it away, or edit it by hand")
    for unit in units:
        try:
            unit.path.parent.mkdir(parents=True, exist_ok=True)
            unit.path.write_text(unit.text, encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{unit.path} cannot be written: {error.strerror}") from error
