"""From a plan of a script to what is launched for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from harness.launchers.job import Measurement
from harness.launchers.script import ScriptJob, check
from harness.scripts.knobs_file import KnobsFile
from harness.scripts.rendering import render
from strategies.knob import Settings

KERNELS = "TORCHINDUCTOR_CACHE_DIR"
"""A trial's own folder for temporary files would make every compilation a first one."""


def of_plan(
    script: KnobsFile,
    whole: Settings,
    folder: Path,
    measurement: Measurement,
    *,
    kernels: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> ScriptJob:
    """Fill a plan into its script's command, and write what belongs to it into the folder `own(folder)`.

    Args:
        script: its knobs file.
        whole: a plan, of `script.plan`.
        folder: of the trial; exists.
        measurement: how long it runs.
        kernels: where compiled kernels are kept, unless the user says where; None: where the script keeps them.
        environment: what is added to the script's.

    Raises:
        InputError: the command cannot be started.
    """
    own(folder).mkdir()
    rendered = render(script, whole, own(folder))
    check(rendered.command, script.workdir)
    kept = {} if kernels is None or KERNELS in os.environ else {KERNELS: str(kernels.absolute())}
    return ScriptJob(
        folder=folder,
        command=rendered.command,
        workdir=script.workdir,
        environment={**kept, **(environment or {}), **rendered.environment},
        measurement=measurement,
        observed=replace(script.observed, warmup_steps=measurement.warmup_steps),
    )


def own(folder: Path) -> Path:
    """Where what belongs to the script lies in a trial's folder."""
    return folder / "script"
