"""The sweep that a configuration asks for, over a workload or over a script."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from harness.errors import InputError
from harness.sweeps.config import SweepConfig

if TYPE_CHECKING:
    from harness.launchers.launcher import Launcher
    from harness.sweeps.sweep import Display, Sweep
    from harness.workloads.own import TorchWorkload


def launcher_for(config: SweepConfig) -> AbstractContextManager[Launcher | None]:
    """What starts the ranks of a workload; None for a script, which has a launcher of its own."""
    from harness import launchers
    from harness.rank import preload_for

    if config.script is not None or config.knobs is not None:
        return contextlib.nullcontext()
    return launchers.create("local", preload_for(config.workload))


def sweep_of(
    config: SweepConfig,
    display: Display,
    launcher: Launcher | None,
    began: float,
    passed: TorchWorkload | None = None,
) -> Sweep:
    """A sweep, everything checked. Nothing is written.

    Args:
        config: what to do.
        display: told of everything that happens.
        launcher: of `launcher_for`.
        began: monotonic time from which the time budget counts, in s.
        passed: what to train, in place of the configuration's workload.

    Raises:
        InputError: anything that cannot work, in one sentence.
    """
    if launcher is None:
        from harness.sweeps import script_experiment
        from harness.sweeps.script_sweep import ScriptSweep

        if passed is not None:
            raise InputError("give a workload, or a script with its knobs, but not both")
        return ScriptSweep(script_experiment.prepare(config), display, began=began)
    launcher.warm_up()  # its imports take as long as ours and go on meanwhile
    from harness.sweeps import experiment
    from harness.sweeps.recipe_sweep import RecipeSweep

    return RecipeSweep(experiment.prepare(config, passed), display, launcher, began=began)
