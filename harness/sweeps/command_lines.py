"""The commands that a user can copy: to repeat a plan, to resume a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.plan import Plan
from harness.sweeps.config import SweepConfig
from strategies.knob import Setting

PROGRAM = "python -m harness"
_RUN = [*PROGRAM.split(), "run"]
ANEW = ("trust_remote_code",)
"""What nobody repeats for somebody else: a command that was recorded does not say whether code is trusted."""


def workload_options(config: SweepConfig) -> dict[str, object]:
    """The options that say what is trained and on how many ranks, as they were given."""
    of_model = ("workload", "data", "tokenizer", "seq_len", "keep_dropout")
    names = (*of_model, "world_size", "seed", "memory_limit", "hardware_label", "reference")
    defaults = SweepConfig()
    given = {name: getattr(config, name) for name in names if getattr(config, name) != getattr(defaults, name)}
    return given | ({"field": config.field} if config.field != defaults.field else {})


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
    return f"{PROGRAM} run {shlex.join([*option_words(options), *set_words(plan.differing(defaults))])}"


def option_words(options: Mapping[str, object]) -> list[str]:
    """Fields of a configuration as words of a command line; None is left out, and of a flag what is not set."""
    words = []
    for name, value in options.items():
        if value is not None and value is not False:
            words += [_option(name), *([] if value is True else [_text(value)])]
    return words


def set_words(settings: Mapping[str, Setting]) -> list[str]:
    """Settings as words of a command line."""
    pairs = {name: str(value).lower() if isinstance(value, bool) else value for name, value in settings.items()}
    return [word for name, value in pairs.items() for word in ("--set", f"{name}={value}")]


def asked_by(command: str) -> dict[str, Any] | None:
    """The options of a command that `run_command` wrote, by the names of their fields, paths as they were written.

    The plan is left out. None if it is no such command.
    """
    kinds = {name: str(field.type) for name, field in SweepConfig.__dataclass_fields__.items()}
    try:
        words = shlex.split(command)
        found: dict[str, Any] = {}
        rest = iter(words[len(_RUN) :])
        for word in rest:
            name = word.removeprefix("--").replace("-", "_")
            kind = kinds[name]
            value = True if kind == "bool" else next(rest)
            found[name] = int(value) if "int" in kind else value
    except (ValueError, KeyError, StopIteration):
        return None
    found.pop("set", None)
    return found if words[: len(_RUN)] == _RUN else None


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
            words += [_option(option), _text(item)]
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


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
