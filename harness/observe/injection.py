"""The watching side: what a command finds in its environment so that its ranks are watched, and nothing else is.

torch calls entry points of the group "torch.backends"; a folder on PYTHONPATH with one is enough. It acts in processes
that import torch, however late and whoever started them, and collides with nobody's sitecustomize. Interpreters that
leave PYTHONPATH aside (-I, -E) are not watched. An entry point of the harness's own would reach them, and would break
every `import torch` beside a folder called harness.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.observe.telling import FOREVER, SETTINGS

PACKAGE = "harness_observer"
"""The name by which processes of others load this package."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the ranks' watchers are told."""

    warmup_steps: int = 4
    """Steps before the window opens."""
    communication: int = 2
    """The warm-up step whose collectives are counted; 0: none."""
    backwards_per_step: int = 0
    """Of trainings without an optimizer of torch's: so many backward passes are a step; 0: they have one."""
    step_of: int | None = None
    """Where optimizers step unequally often: which one counts, by the order in which they first step."""


def prepare(folder: Path, settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Write what watched processes need into a folder.

    Args:
        folder: of the trial; events come to lie in it.
        settings: for the watchers.
        environ: the environment that the command would have.

    Returns:
        What to add to that environment.
    """
    path = folder / "path"
    path.mkdir()
    (path / PACKAGE).symlink_to(Path(__file__).parent)
    about = path / f"{PACKAGE}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[torch.backends]\n{PACKAGE} = {PACKAGE}.entry:autoload\n")
    announce(folder, FOREVER)
    os.mkfifo(folder / "alive", 0o600)
    told = folder / "observe.json"
    told.write_text(json.dumps({"folder": str(folder), "path": str(path), **asdict(settings)}))
    return {
        SETTINGS: str(told),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(path), environ.get("PYTHONPATH")])),
    }


def announce(folder: Path, steps: int) -> None:
    """Have every rank stop after so many steps; it must lie ahead of all of them, or they do not stop together."""
    file = os.open(folder / "control", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(file, struct.pack("<q", steps), 0)
    finally:
        os.close(file)
