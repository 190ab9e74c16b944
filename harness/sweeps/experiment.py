"""From a configuration to everything a sweep or a single run needs, checked before anything is written or started."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import strategies
from harness import workloads
from harness.errors import InputError, UnknownNameError
from harness.machine import hardware
from harness.machine.hardware import Hardware
from harness.plan import Plan, complete, parse_settings
from harness.search import samplers
from harness.search.space import Space
from harness.sweeps import command_lines
from harness.sweeps.config import SweepConfig
from harness.sweeps.limits import check_memory_limit, memory_ceiling_bytes
from harness.workloads.workload import Workload
from strategies.base import Strategy
from strategies.facts import Facts
from strategies.knob import Knob, Setting
from strategies.quantization import FP8_CAPABILITY

if TYPE_CHECKING:
    from harness.workloads.own import TorchWorkload

DEVICE_SECONDS = 600.0
"""Time budget on devices unless one is given, in s: contexts, communicators and kernels take seconds of each launch."""
OPTIONAL_PACKAGES = ("torchao", "flash_attn")
"""Packages whose absence makes plans infeasible."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A configuration with its machine, workloads and strategies."""

    config: SweepConfig
    hardware: Hardware
    world_size: int
    workloads: Mapping[int, Workload]
    """Global batch size -> workload."""
    strategies: tuple[Strategy, ...]
    """Those in play."""
    fixed: Mapping[str, Setting]
    """Knobs that are not searched."""
    enlarged_from: int | None = None
    """The workload's own batch, where the ranks do not divide it and it was made larger; None if it is used."""
    passed: bool = False
    """Whether the workload was passed as objects, so that no command can name it."""

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs of every registered strategy."""
        return strategies.knobs(strategies.registry().values())

    @property
    def seconds(self) -> float | None:
        """Wall time of the whole run in s, None if there is no limit. A launch on devices takes longer to begin."""
        if self.config.time_budget is None and self.config.trials is None and self.hardware.devices:
            return DEVICE_SECONDS
        return self.config.seconds

    @property
    def memory_ceiling_bytes(self) -> int | None:
        """What the worst rank of the winner may have held, in B; None for no limit."""
        return memory_ceiling_bytes(self.config, self.hardware, self.world_size)

    def facts(self, workload: Workload, world_size: int | None = None) -> Facts:
        """What strategies may know of a workload on this machine."""
        return Facts(
            device_type=self.hardware.device_type,
            world_size=world_size or self.world_size,
            global_batch_size=workload.global_batch_size,
            seq_len=workload.seq_len,
            workload=workload.name,
            model=workload.facts(),
            extras=frozenset(name for name in OPTIONAL_PACKAGES if importlib.util.find_spec(name)),
            compiler=_compiles(self.hardware.device_type),
            capability=self.hardware.capability,
            architecture=self.hardware.architecture,
        )

    def spaces(self) -> dict[int, Space]:
        """Global batch size -> the plans that are searched. Raises InputError if no plan can use the world size."""
        allowed = {"precision": tuple(self.config.precision)} if self.config.precision else {}
        return {
            size: Space(
                self.strategies,
                self.knobs,
                self.facts(workload),
                fixed=self.fixed,
                allowed=allowed,
                registered=tuple(strategies.registry().values()),
            )
            for size, workload in self.workloads.items()
        }

    def plan(self, settings: Mapping[str, Setting]) -> Plan:
        """One plan, its degrees made to fit the world size where they are not given.

        Raises:
            InputError: a setting cannot be used.
        """
        given = dict(settings)
        used = int(given.get("tp", 1)) * int(given.get("pp", 1))
        given.setdefault("dp", max(1, self.world_size // used))
        if given["dp"] != 1:
            given.setdefault("data_parallel", "ddp")
        return complete(given, self.knobs)

    def as_drawn(self, plan: Plan) -> Plan:
        """A recorded plan with the defaults of knobs that came later, as the search would draw it today."""
        try:
            return complete(plan, self.knobs)
        except InputError:  # of a package that is not there any more
            return plan

    def searched_as(self, row: Mapping[str, Any]) -> int:
        """The key in `workloads` under which the search tried a trial's plan."""
        return int(row["global_batch_size"])

    @property
    def workload_ids(self) -> tuple[str, ...]:
        """Everything that a trial of this experiment may have trained."""
        return tuple(workload.workload_id for workload in self.workloads.values())

    @property
    def searched(self) -> int:
        """How many spaces of plans there are."""
        return len(self.workloads)

    @property
    def raced(self) -> bool:
        """Whether a window may end early because its plan is slower than another."""
        return True

    def repeat(self, plan: Plan, size: int, chosen: Mapping[str, str]) -> str | None:
        """The command that repeats a plan; None where none can name what was passed.

        Args:
            plan: to repeat.
            size: key of its workload.
            chosen: workload id -> what its trials are compared with, as far as that is known.
        """
        if self.passed:
            return None
        config, workload = self.config, self.workloads[size]
        if chosen.get(workload.workload_id, "process") != "process":  # one process need not be tried once more
            config = replace(config, reference="twin")
        return command_lines.run_command(
            config,
            plan,
            {knob.name: knob.default for knob in self.knobs},
            config.workload or workload.name,
            size if config.global_batch else None,
        )

    def reference_plan(self, workload: Workload) -> Plan:
        """Everything at its default, on one rank, in micro-batches that any machine holds."""
        share = max(n for n in range(1, 9) if workload.global_batch_size % n == 0)
        return complete({"micro_batch_size": share}, self.knobs)


def prepare(config: SweepConfig, passed: TorchWorkload | None = None) -> Experiment:
    """Check everything a configuration asks for. Nothing is written.

    Args:
        config: what to do.
        passed: what to train, in place of the configuration's workload.

    Raises:
        InputError: anything that cannot work, in one sentence.
    """
    check_writable(config.results)
    check_writable(config.reports)
    samplers.check(config.sampler, 2 if config.objective == "pareto" else 1)
    machine = replace(hardware.detect(), label=config.hardware_label)
    chosen = _strategies(config.strategies, machine)
    fixed = parse_settings(config.set, strategies.knobs(strategies.registry().values()))
    world = config.world_size or machine.default_ranks
    batches: Sequence[int | None] = config.global_batch or (None,)
    found, own = [_workload(config, machine, batch, passed) for batch in batches], None
    if not config.global_batch and (rest := found[0].global_batch_size % world):
        own = found[0].global_batch_size
        found = [_workload(config, machine, own + world - rest, passed)]
    experiment = Experiment(
        config=config,
        hardware=machine,
        world_size=world,
        workloads={workload.global_batch_size: workload for workload in found},
        strategies=chosen,
        fixed=fixed,
        enlarged_from=own,
        passed=passed is not None,
    )
    _check_devices(experiment)
    memory_ceiling_bytes(config, machine, world)  # refuses a headroom that means nothing
    for workload in found:
        check_memory_limit(config, chosen, experiment.facts(workload))
    return experiment


def check_writable(folder: Path) -> None:
    """Raises InputError if files could not be made in a folder that may not exist yet."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{folder} cannot be a folder: {existing} is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written: {existing} is not writable; choose another folder")


def _strategies(names: Sequence[str], machine: Hardware) -> tuple[Strategy, ...]:
    """Those that were asked for, or the usual ones; torch.compile too where float8 is no gain without it."""
    registry = strategies.registry()
    for name in names:
        if name not in registry:
            raise UnknownNameError("strategy", name, registry)
    compiled = (machine.capability or (0, 0)) >= FP8_CAPABILITY and _compiles(machine.device_type)
    return tuple(
        strategy
        for name, strategy in registry.items()
        if name in names or (not names and (name not in strategies.OPT_IN or (name == "compile" and compiled)))
    )


def _workload(
    config: SweepConfig, machine: Hardware, global_batch: int | None, passed: TorchWorkload | None
) -> Workload:
    if passed is not None:
        from harness.workloads.passed import create

        if config.keep_dropout:
            passed = replace(passed, keep_dropout=True)
        return create(passed, cache=config.results / "cache", global_batch_size=global_batch, seed=config.seed)
    return workloads.create(
        config.workload or ("gpt-nano" if machine.device_type == "cpu" else "gpt-124m"),
        cache=config.results / "cache",
        data=config.data,
        field=config.field,
        tokenizer=config.tokenizer,
        global_batch_size=global_batch,
        seq_len=config.seq_len,
        seed=config.seed,
        keep_dropout=config.keep_dropout,
        trust_remote_code=config.trust_remote_code,
    )


def _compiles(device_type: str) -> bool:
    """Whether kernels can be compiled: inductor's C++ for a CPU, Triton's launchers in C for a device."""
    own, usual = ("CXX", ("g++", "clang++", "c++")) if device_type == "cpu" else ("CC", ("gcc", "clang", "cc"))
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return headers.exists() and any(shutil.which(name) for name in (os.environ.get(own, ""), *usual) if name)


def _check_devices(experiment: Experiment) -> None:
    machine = experiment.hardware
    if machine.devices and experiment.world_size > len(machine.devices):
        beside = f"; {machine.unused}" if machine.unused else ""
        raise InputError(
            f"a rank needs a device of its own, but got (world size={experiment.world_size}, "
            f"devices={len(machine.devices)}{beside}); set CUDA_VISIBLE_DEVICES='' to run on the CPU"
        )
