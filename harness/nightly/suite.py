"""Suite: the plans that are measured every night, in a TOML file that a team keeps in git.

name = "team"
version = 1
schema_version = 5          # in whose words the plans are written; 4 if it is left out
workload = "hf:model,task=causal-lm"    # as --workload takes it
data = "notes.jsonl"        # relative paths, also those of the workload, begin at the folder of this file
seq_len = 128               # and field, tokenizer, global_batch, seed, keep_dropout, as a sweep takes them
world_size = 2
launches = 3                # of each plan in a session
steps = 16                  # measured steps of a launch, always the same
sessions = 16               # that confirm a suspicion
baseline_nights = 30        # that the baseline is frozen after
metrics = ["step_time_s", "peak_memory_bytes", "setup_s", "loss_last"]

[floors]                    # smallest relative change that counts, where it is not the metric's own
setup_s = 0.10

[plans.winner]
data_parallel = "zero2"
micro_batch_size = 4

Of a script it has these instead of a workload and a world size, and its plans are settings of the script's knobs:

knobs = "bench/knobs.toml"  # from the suite's own folder
script = "torchrun --nproc-per-node 2 train.py --bs {bs}"       # the one in the knobs file if it is left out
reference = "as-it-stands"  # the plan that the others must train alike with; the first one if it is left out
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError, UnknownNameError
from harness.plan import ONE_UNIT, upgraded
from harness.workloads import with_path
from strategies.knob import Setting

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Something that may become worse."""

    name: str
    """Column of a trial."""
    unit: str
    more_is_worse: bool
    floor: float
    """Smallest relative change that counts."""
    kind: str
    """"time": judged by its spread, and moved by the machine; "memory" and "loss": nearly the same every time."""


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="step_time_s", unit="s", more_is_worse=True, floor=0.02, kind="time"),
        Metric(name="tokens_per_s", unit="1/s", more_is_worse=False, floor=0.02, kind="time"),
        Metric(name="setup_s", unit="s", more_is_worse=True, floor=0.10, kind="time"),
        Metric(name="energy_j", unit="J", more_is_worse=True, floor=0.03, kind="time"),
        Metric(name="peak_memory_bytes", unit="B", more_is_worse=True, floor=0.01, kind="memory"),
        Metric(name="loss_last", unit="", more_is_worse=True, floor=0.0, kind="loss"),
    )
}
DEFAULT_METRICS = ("step_time_s", "setup_s", "peak_memory_bytes", "loss_last")

OF_WORKLOAD = ("data", "field", "tokenizer", "seq_len", "keep_dropout", "global_batch", "seed")
"""Fields that say beside `workload` what is trained, with the names that a sweep's options have."""
_COUNTS = ("launches", "steps", "sessions", "baseline_nights")
_OF_SCRIPT = ("script", "knobs", "reference")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is measured every night."""

    name: str
    plans: Mapping[str, Mapping[str, Setting]]
    """Name -> knobs, the others at their defaults. The name is what a plan's history goes by."""
    schema_version: int = ONE_UNIT - 1
    """In which words the settings are written (`harness.plan.upgraded`)."""
    version: int = 1
    """To be raised by whoever changes what a plan's name stands for."""
    workload: str | None = None
    """None: the default workload of the machine."""
    data: str | None = None
    """Text or tokens to train on; None: the workload's own."""
    field: str = "text"
    """Field or column of `data`."""
    tokenizer: str | None = None
    """JSON file of the package `tokenizers`; None: the workload's own."""
    seq_len: int | None = None
    """Tokens of one sample; None: the workload's own."""
    keep_dropout: bool = False
    """Whether the model's dropout is kept."""
    global_batch: int | None = None
    """Samples of one optimizer step; None: the workload's own, or the next multiple of the ranks."""
    seed: int = 0
    """Of weights and data order."""
    trust_remote_code: bool = False
    """Whether code that the workload's folder brings may be run: for whoever keeps this file to say, no sweep writes
    it."""
    world_size: int | None = None
    """None: one rank for each accelerator, two on a CPU."""
    launches: int = 3
    """Fresh launches of each plan in a session."""
    steps: int = 16
    """Measured steps of each launch: always as many, so that the last loss is always that of the same step."""
    sessions: int = 16
    """That confirm a suspicion, each with as many launches of the suspected plans."""
    baseline_nights: int = 30
    """After so many nights the baseline is frozen."""
    knobs: str | None = None
    """File that says what the plans' settings are of a script, from the suite's own folder; None: of a workload."""
    script: str | None = None
    """The script's command; None: the one in the file of its knobs."""
    reference: str | None = None
    """The plan of a script that the others must agree with in their first losses; None: the first one."""
    metrics: tuple[str, ...] = DEFAULT_METRICS
    floors: Mapping[str, float] = dataclasses.field(default_factory=dict)  # `field` is one of its fields
    """Metric -> smallest relative change that counts, where it is not the metric's own."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(f"a suite's name has up to 60 letters, digits, dots and dashes, but got {self.name!r}")
        if not self.plans:
            raise InputError(f"the suite {self.name!r} has no plan; add a table such as [plans.ddp]")
        for name in self.plans:
            if not _NAME.fullmatch(name):
                raise InputError(f"a plan's name has up to 60 letters, digits, dots and dashes, but got {name!r}")
        for name in (*self.metrics, *self.floors):
            if name not in METRICS:
                raise UnknownNameError("metric", name, METRICS)
        for name in ("seq_len", "global_batch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} of a suite must be at least 1, but got {getattr(self, name)}")
        least = {
            "seed": 0,
            "launches": 2,
            "steps": 5,
            "sessions": 4,
            "baseline_nights": 10,
            "version": 1,
            "schema_version": 1,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} of a suite must be at least {low}, but got {getattr(self, name)}")
        _check_script(self)
        if self.baseline_nights > 60:
            raise InputError(f"baseline_nights of a suite must be at most 60, but got {self.baseline_nights}")

    def settings(self, plan: str) -> dict[str, Setting]:
        """The knobs of a plan in the words of this version, the others at their defaults."""
        if self.knobs is not None:
            return dict(self.plans[plan])
        return upgraded(self.plans[plan], self.schema_version)

    def floor(self, metric: str) -> float:
        """Smallest relative change of a metric that counts."""
        return self.floors.get(metric, METRICS[metric].floor)

    def identity(self, plan: str) -> str:
        """What nights must have in common to be compared for a plan: its settings, and how it is measured."""
        parts = [self.version, self.workload, self.world_size, self.steps, dict(self.plans[plan])]
        parts += [self.schema_version] if self.schema_version >= ONE_UNIT and self.knobs is None else []
        parts += ["script", self.script] if self.knobs is not None else []
        parts += [more] if (more := self._given(OF_WORKLOAD)) else []
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def asked(self, folder: Path) -> dict[str, Any]:
        """What to train, by the names of a sweep's options, whether code is trusted left out.

        Args:
            folder: of the suite's file, where relative paths begin; they are given relative to this process's folder.
        """

        def found(path: str, maybe_a_name: bool = False) -> str:
            there = os.path.normpath(folder / path)
            return path if maybe_a_name and not os.path.exists(there) else there

        paths = {name: Path(found(getattr(self, name))) for name in ("data", "tokenizer") if getattr(self, name)}
        batch = {} if self.global_batch is None else {"global_batch": (self.global_batch,)}
        workload = None if self.workload is None else with_path(self.workload, found)
        return {"workload": workload, **self._given(OF_WORKLOAD), **paths, **batch}

    def _given(self, names: Iterable[str]) -> dict[str, Any]:
        """Those of these fields that are not at their default."""
        usual = Suite.__dataclass_fields__
        return {name: getattr(self, name) for name in names if getattr(self, name) != usual[name].default}

    def to_toml(self) -> str:
        """The file that `load` reads."""
        always = ("name", "version", "schema_version", "workload", "world_size", *_OF_SCRIPT, *_COUNTS)
        found = {name: value for name in always if (value := getattr(self, name)) is not None}
        found |= self._given((*OF_WORKLOAD, "trust_remote_code"))
        lines = [f"{name} = {_toml(value)}" for name, value in found.items()]
        lines.append(f"metrics = {json.dumps(list(self.metrics))}")
        if self.floors:
            lines += ["", "[floors]", *(f"{name} = {value}" for name, value in self.floors.items())]
        for name, settings in self.plans.items():
            lines += ["", f"[plans.{json.dumps(name)}]", *(f"{knob} = {json.dumps(v)}" for knob, v in settings.items())]
        return "\n".join(lines) + "\n"


def _check_script(suite: Suite) -> None:
    """Refuse a suite that is half of a script and half of a workload."""
    if suite.knobs is None:
        for name in ("script", "reference"):
            if getattr(suite, name) is not None:
                raise InputError(f"{name} of a suite says nothing without knobs, the file of a script's knobs")
        return
    usual = Suite.__dataclass_fields__
    for name in ("workload", *OF_WORKLOAD, "world_size", "trust_remote_code"):
        if getattr(suite, name) != usual[name].default:
            raise InputError(f"{name} of a suite says nothing of a script; its knobs do")
    if suite.reference is not None and suite.reference not in suite.plans:
        raise UnknownNameError("plan of the suite", suite.reference, suite.plans)


def _toml(value: Setting) -> str:
    return json.dumps(value, ensure_ascii=False)  # TOML has no pairs of surrogates


def load(path: Path) -> Suite:
    """Read a suite.

    Raises:
        InputError: the file is missing, not TOML, or a value has the wrong type.
        UnknownNameError: a field or metric does not exist.
    """
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"the suite {path} cannot be read: {reason}; make one with: python -m harness nightly init"
        ) from None
    return parse(values, str(path))


def parse(values: Mapping[str, Any], where: str) -> Suite:
    """A suite from the tables of its file; raises as `load`."""
    fields = Suite.__dataclass_fields__
    for name in values:
        if name not in fields:
            raise UnknownNameError("field of the suite", name, fields)
    wanted = {
        **dict.fromkeys(("version", "schema_version", "world_size", *_COUNTS), int),
        **dict.fromkeys(("seq_len", "global_batch", "seed"), int),
        **dict.fromkeys(("name", "workload", *_OF_SCRIPT, "data", "field", "tokenizer"), str),
        **dict.fromkeys(("plans", "floors"), dict),
        **dict.fromkeys(("keep_dropout", "trust_remote_code"), bool),
        "metrics": list,
    }
    for name, kind in wanted.items():
        if name in values and type(values[name]) is not kind:
            raise InputError(f"{name} in {where} must be a {kind.__name__}, but got {values[name]!r}")
    if "name" not in values:
        raise InputError(f'{where} gives the suite no name; add a line such as name = "team"')
    for name, settings in values.get("plans", {}).items():
        if not isinstance(settings, dict) or not all(isinstance(v, (str, int, float, bool)) for v in settings.values()):
            raise InputError(f"the plan {name!r} in {where} must be a table of knobs, but got {settings!r}")
    for name, floor in values.get("floors", {}).items():
        if isinstance(floor, bool) or not isinstance(floor, (int, float)) or not 0 <= floor < 1:
            raise InputError(f"the floor of {name} in {where} must be a share from 0 to 1, but got {floor!r}")
    metrics = values.get("metrics", DEFAULT_METRICS)
    if not metrics or not all(isinstance(name, str) for name in metrics):
        raise InputError(f"metrics in {where} must be names, at least one of {', '.join(METRICS)}, but got {metrics!r}")
    plans = values.get("plans", {})
    return Suite(**{**values, "plans": plans, "metrics": tuple(metrics)})
