"""From a configuration to everything a sweep over a script needs, checked before anything is written or started."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.launchers.job import Deadlines, Measurement
from harness.launchers.script import check
from harness.machine import hardware
from harness.machine.hardware import Hardware
from harness.plan import Plan, parse_settings
from harness.scripts import knobs_file
from harness.scripts.knobs_file import KnobsFile
from harness.scripts.lanes import ScriptWorkload
from harness.search import samplers
from harness.sweeps import command_lines
from harness.sweeps.config import SweepConfig
from harness.sweeps.experiment import check_writable
from harness.sweeps.script_space import ScriptSpace

SCRIPT_SECONDS = 600.0
"""Time budget unless one is given, in s: a launch of a script costs its own start."""
START_S = 300.0
"""When a script without a first step counts as hanging unless it is said, in s."""
LEAST_SECONDS = 1.0
"""Shortest window, in s."""
MAIN, APART = 1, 2
"""Keys of what computes as the baseline does, and of what does not."""
OPTIONS = {
    *("script", "knobs", "baseline", "keep", "set", "trials", "time_budget", "sampler", "objective", "measure"),
    *("precision_target", "finalists", "relaunches", "resolution", "start_deadline", "step_deadline", "seed"),
    *("hardware_label", "results", "reports", "also", "name"),
}
"""Fields of a configuration that mean something for a script."""


@dataclass(frozen=True, kw_only=True)
class ScriptExperiment:
    """A configuration with its machine and script; what each member is stands in `Experiment`."""

    config: SweepConfig
    hardware: Hardware
    script: KnobsFile
    space: ScriptSpace
    passed: bool = field(default=False, init=False)
    raced: bool = field(default=False, init=False)
    """A launch costs its start: little would be saved, and steps of other batches cannot be compared."""
    searched: int = field(default=1, init=False)

    @cached_property
    def workloads(self) -> Mapping[int, ScriptWorkload]:
        """What trials may come to train: the same as the baseline, and something else."""
        return {key: ScriptWorkload(self.script, self.space.baseline, key == APART) for key in (MAIN, APART)}

    @property
    def workload_ids(self) -> tuple[str, ...]:
        return tuple(workload.workload_id for workload in self.workloads.values())

    @property
    def seconds(self) -> float | None:
        unlimited = self.config.time_budget is None and self.config.trials is None
        return SCRIPT_SECONDS if unlimited else self.config.seconds

    @property
    def deadlines(self) -> Deadlines:
        """When ranks count as hanging."""
        asked = self.config.start_deadline != SweepConfig().start_deadline
        return self.config.deadlines if asked else replace(self.config.deadlines, start=START_S)

    @property
    def measurement(self) -> Measurement:
        """How long a trial runs: its command's own start takes longer than any window that could be saved."""
        return replace(self.config.measurement, least_seconds=LEAST_SECONDS)

    @property
    def memory_ceiling_bytes(self) -> int | None:
        return None

    def spaces(self) -> Mapping[int, ScriptSpace]:
        return {MAIN: self.space}

    def facts(self, workload: ScriptWorkload) -> None:
        return None

    def as_drawn(self, plan: Plan) -> Plan:
        """A recorded plan in the order of the knobs."""
        return Plan(tuple((knob.name, plan[knob.name]) for knob in self.space.knobs if knob.name in plan))

    def searched_as(self, row: Mapping[str, Any]) -> int:
        return MAIN

    def repeat(self, plan: Plan, size: int, chosen: Mapping[str, str]) -> str:
        return watch_command(self.config, plan, self.space)


def prepare(config: SweepConfig) -> ScriptExperiment:
    """Check everything a configuration asks of a script. Nothing is written, and nothing started.

    Raises:
        InputError: anything that cannot work, in one sentence.
    """
    default = SweepConfig()
    for each in fields(config):
        if each.name not in OPTIONS and getattr(config, each.name) != getattr(default, each.name):
            option = f"--{each.name.replace('_', '-')}"
            raise InputError(f"{option} says nothing of a script: its own knobs do; leave it out, or make it a knob")
    if config.objective == "time-to-loss":
        raise InputError("the objective time-to-loss is for workloads of this package; choose throughput or memory")
    if config.knobs is None:
        raise InputError("--script needs --knobs, the file that says what can be turned about it")
    check_writable(config.results)
    check_writable(config.reports)
    samplers.check(config.sampler, 2 if config.objective == "pareto" else 1)
    script = knobs_file.read(config.knobs, config.script)
    fixed, first = (parse_settings(pairs, script.free) for pairs in (config.set, config.baseline))
    for name in first.keys() & fixed.keys():
        if first[name] != fixed[name]:
            raise InputError(f"--set and --baseline have different values of {name}")
    if not script.free:
        raise InputError(f"{config.knobs} has no knob to turn: every one follows from others; watch measures one plan")
    space = ScriptSpace(script, fixed, first)
    if " " not in script.command[0] and "{" not in script.command[0]:
        check(script.command, script.workdir)
    machine = replace(hardware.detect(), label=config.hardware_label)
    return ScriptExperiment(config=config, hardware=machine, script=script, space=space)


def watch_command(config: SweepConfig, plan: Plan, space: ScriptSpace) -> str:
    """The command that runs a plan of a script again, with every setting that is not its default."""
    settings = command_lines.set_words(plan.differing({knob.name: knob.default for knob in space.knobs}))
    command = shlex.join(["--knobs", str(config.knobs), *settings]) + (f" -- {config.script}" if config.script else "")
    return f"{command_lines.PROGRAM} watch {command}"


def kernels(results: Path) -> Path:
    """Where compiled kernels of scripts are kept from trial to trial."""
    return results / "cache" / "inductor"
