"""The commands that a user can copy: to repeat a plan, to resume a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from harness.plan import Plan
from harness.sweeps.config import SweepConfig
from strategies.knob import Setting

PROGRAM = "python -m harness"
ANEW = ("trust_remote_code",)
"""What nobody repeats for somebody else: a command that was recorded does not say whether code is trusted."""


def workload_options(config: SweepConfig) -> dict[str, object]:
    """The options that say what is trained and on how many ranks, as they were given."""
    of_model = ("workload", "data", "tokenizer", "seq_len", "keep_dropout")
    names = (*of_model, "world_size", "seed", "memory_limit", "hardware_label", "reference")
    defaults = SweepConfig()
    given = {name: getattr(config, name) for name in names if getattr(config, name) != getattr(defaults, name)}
    return given | ({"field": config.field} if config.field != defaults.field else {})


def request(config: SweepConfig, workload: str, global_batch: int | None) -> dict[str, object]:
    """What says what was trained and nothing else, as JSON holds it: options of a sweep that are not at their default.

    Args:
        config: the sweep's configuration.
        workload: what was trained, also if it was not asked for by name.
        global_batch: samples of a step if it was asked for.
    """
    names = ("data", "field", "tokenizer", "seq_len", "seed", "keep_dropout")
    defaults = SweepConfig()
    given = {name: getattr(config, name) for name in names if getattr(config, name) != getattr(defaults, name)}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    return {"workload": workload, **plain, **({} if global_batch is None else {"global_batch": global_batch})}


def run_command(
    config: SweepConfig, plan: Plan, defaults: Mapping[str, Setting], workload: str, global_batch: int | None
) -> str:
    """The command that runs a plan again, with every option that matters written out.

    Args:
        config: the sweep's configuration.
        plan: the plan.
        defaults: knob -> default; settings at their default are left out.
        workload: what was trained, also if it was not asked for by name.
        global_batch: samples of a step if it was asked for.
    """
    options = {**workload_options(config), "workload": workload, "world_size": plan.world_size}
    if global_batch is not None:
        options["global_batch"] = global_batch
    words = [w for name, value in options.items() for w in (_option(name), *([] if value is True else [str(value)]))]
    for name, value in plan.differing(defaults).items():
        words += ["--set", f"{name}={str(value).lower() if isinstance(value, bool) else value}"]
    return f"{PROGRAM} run {shlex.join(words)}"


def resume_command(config: SweepConfig, name: str) -> str:
    """The command that takes a sweep up where it ended."""
    defaults = SweepConfig()
    words = ["--name", name]
    for option in SweepConfig.__dataclass_fields__:
        value = getattr(config, option)
        if option in ("name", *ANEW) or value == getattr(defaults, option):
            continue
        if isinstance(value, bool):
            words.append(_option(option) if value else f"--no-{option}")
            continue
        for item in value if option in ("set", "baseline") else [value]:
            text = ",".join(map(str, item)) if isinstance(item, tuple) else str(item)
            words += [_option(option), text]
    return f"{PROGRAM} sweep {shlex.join(words)}"


def resuming(config: SweepConfig, name: str, *, passed: bool) -> str:
    """What takes a sweep up where it ended: a command, or the call where no command can name what was passed to it."""
    if not passed:
        return resume_command(config, name)
    defaults = SweepConfig()
    left = ("name", "workload", *ANEW)
    changed = {o: getattr(config, o) for o in SweepConfig.__dataclass_fields__ if o not in left}
    given = {option: value for option, value in changed.items() if value != getattr(defaults, option)}
    words = [f"{o}={(str(v) if isinstance(v, Path) else v)!r}" for o, v in {"name": name, **given}.items()]
    return f"harness.sweep(model=..., batch=..., loss=..., {', '.join(words)})"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
