"""What a night's numbers depend on besides the plans, and what of it has changed."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError
from harness.machine.hardware import Hardware
from harness.sweeps.about import environment as versions


@dataclass(frozen=True)
class Change:
    """One thing that is not what it was."""

    name: str
    before: str
    now: str


def gather(hardware: Hardware, project: Path | None) -> dict[str, str]:
    """Versions, machine settings and the commit of the user's project.

    Raises:
        InputError: the project is no git working tree.
    """
    machine = {
        "kernel": hardware.kernel,
        "operating system": hardware.operating_system,
        "governor": hardware.governor,
        "cores": str(hardware.usable_cores),
        "driver": ", ".join(sorted({device.driver for device in hardware.devices if device.driver})),
    }
    found = {**versions(), **{name: value for name, value in machine.items() if value}}
    return found | ({"project": commit(project)} if project is not None else {})


def commit(project: Path) -> str:
    """The commit of a working tree, marked if it has changes.

    Raises:
        InputError: it is no git working tree, or there is no git.
    """
    head = git(project, "rev-parse", "HEAD")
    return f"{head} with changes" if git(project, "status", "--porcelain", "--untracked-files=no") else head


def git(project: Path, *arguments: str) -> str:
    """What git prints about a project.

    Raises:
        InputError: git failed, with what it says.
    """
    try:
        done = subprocess.run(["git", "-C", str(project), *arguments], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise InputError("git is not installed, but --project needs it") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        raise InputError(f"git {' '.join(arguments)} in {project} failed: {said[-1] if said else error}") from None
    return done.stdout.strip()


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[Change, ...]:
    """What differs between two nights' environments, by name."""
    names = sorted({*before, *now})
    return tuple(
        Change(name, before.get(name, "-"), now.get(name, "-")) for name in names if before.get(name) != now.get(name)
    )
