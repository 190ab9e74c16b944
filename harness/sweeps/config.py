"""What a sweep is asked to do: options of the command line or fields of a TOML file, checked on construction."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import InputError, UnknownNameError
from harness.launchers.job import Deadlines, Measurement

Direction = Literal["minimize", "maximize"]

OBJECTIVES: dict[str, tuple[tuple[str, Direction], ...]] = {
    "throughput": (("tokens_per_s", "maximize"),),
    "memory": (("peak_memory_bytes", "minimize"),),
    "pareto": (("tokens_per_s", "maximize"), ("peak_memory_bytes", "minimize")),
    "time-to-loss": (("time_to_loss_s", "minimize"),),
}
"""Name -> (column, direction) of each value that is optimized."""

REFERENCES = ("auto", "process", "twin")
"""What plans are compared with: one process where it fits, one process, or a twin (`harness.sweeps.references`)."""

RELAUNCHES, RESOLUTION = 3, "5%"
"""What final launches are for if nothing else is asked for."""

IN_FILE = " in the configuration"
"""Where a value stands, in sentences about it."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB|kB|KB|MB|GB|TB)", re.IGNORECASE)
_BYTES = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*(%?)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,39}")


def parse_duration(text: str) -> float:
    """ "90s", "5m" or "2h" in s. Raises InputError."""
    match = _DURATION.fullmatch(text.strip())
    if not match or float(match[1]) == 0:
        raise InputError(f"a duration is a positive number and s, m or h, such as 90s or 5m, but got {text!r}")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """ "6GiB", "512MiB" or "1.5GB" in bytes. Raises InputError."""
    match = _SIZE.fullmatch(text.strip())
    if not match or float(match[1]) == 0:
        raise InputError(f"a size is a positive number and a unit, such as 512MiB or 6GiB, but got {text!r}")
    return int(float(match[1]) * _BYTES[match[2].lower()])


def parse_share(text: str, name: str) -> float:
    """ "2%" or "0.02" as 0.02. Raises InputError unless it lies between 0 and 1."""
    match = _SHARE.fullmatch(text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else math.nan
    if not 0 < share < 1:
        raise InputError(f"{name.replace('_', ' ')} is a share between 0 and 100 %, such as 2%, but got {text!r}")
    return share


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Every field has the name of its option, with underscores."""

    workload: str | None = None
    """What to train, "gpt-nano" or "gpt:blocks=6,width=384,heads=6"; None: gpt-nano on a CPU, gpt-124m on a GPU."""
    data: Path | None = None
    """Text or tokens to train on; None: the source files of Python's standard library."""
    field: str = "text"
    """Field of .jsonl files, column of .parquet files."""
    tokenizer: Path | None = None
    """JSON file of the `tokenizers` package; None: bytes are tokens."""
    seq_len: int | None = None
    """Tokens of one sample; None: the workload's own."""
    keep_dropout: bool = False
    """Whether the model's dropout is kept, with masks that are the same in every plan; else it is set to 0."""
    global_batch: tuple[int, ...] = ()
    """Samples of one optimizer step; several are several workloads, (): the workload's own, or the next multiple of
    the ranks."""
    trust_remote_code: bool = False
    """Whether code that a model's folder brings may be run. Nothing that was recorded answers this."""
    script: str | None = None
    """The command of a script to tune, with {name} for its knobs; None: the one of the knobs file, or a workload."""
    knobs: Path | None = None
    """TOML file that says what can be turned about a script; None: a workload of this package is trained."""
    baseline: tuple[str, ...] = ()
    """Knobs of a script, as NAME=VALUE, where what its plans are compared with is not at its default."""
    keep: bool = False
    """Whether what a script leaves behind in its trial's folder is kept in the results folder."""
    target_loss: float | None = None
    """Loss for time-to-loss; None: what every workload's reference reaches."""
    strategies: tuple[str, ...] = ()
    """Strategies in play; (): all that are not opt-in."""
    world_size: int | None = None
    """Ranks; None: one for each accelerator, two on a CPU."""
    precision: tuple[str, ...] = ()
    """Values of the knob `precision` in play; (): all that are not opt-in."""
    set: tuple[str, ...] = ()
    """Knobs that are not searched, as NAME=VALUE."""
    trials: int | None = None
    """Launches, those of earlier runs included; None: no limit."""
    time_budget: str | None = None
    """Wall time of the whole run; None: 3m (10m on GPUs), or no limit if `trials` is given."""
    sampler: str = "guided"
    """How the search draws plans."""
    objective: str = "throughput"
    """What is optimized: one of OBJECTIVES."""
    memory_limit: str | None = None
    """Memory of one rank; None: no limit but the machine's."""
    measure: str = "2.5s"
    """Budget of a trial's measured window."""
    precision_target: str = "2%"
    """A window ends sooner when half the 95 % interval of its median is at most this share of the median."""
    racing: bool = True
    """Whether a window ends early when its plan is surely slower than the best one."""
    finalists: int = 3
    """Plans that are launched again before a winner is named."""
    relaunches: int | None = None
    """How often each of them is at least, interleaved, as fresh processes; 0: never; None: three times, as long as that
    takes no longer than the search."""
    resolution: str | None = None
    """Those that may win are launched again until a difference of this share would be seen; None: of 5 %, as long as
    that takes no longer than the search."""
    reference: str = "auto"
    """What losses are compared with: one of REFERENCES."""
    headroom: str | None = None
    """Share of a rank's memory that the winner must leave free; None: none is required."""
    start_deadline: str = "2m"
    """When ranks without a first step count as hanging."""
    compile_deadline: str = "10m"
    """Likewise of plans that compile kernels: compile, and on devices int8 and quantised optimizers."""
    step_deadline: str = "1m"
    """When ranks without a sign of life count as hanging."""
    seed: int = 0
    """Of weights, data order and search."""
    hardware_label: str | None = None
    """Part of the hardware_id, for what cannot be detected, such as the network between machines."""
    results: Path = Path("results")
    """Folder of the parquet files."""
    reports: Path = Path("reports")
    """Folder of the HTML pages."""
    also: tuple[str, ...] = ()
    """Other formats in which the sweep is written beside its page: csv, tensorboard."""
    name: str | None = None
    """Name of the sweep; an existing one is resumed; None: a new one."""

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UnknownNameError("objective", self.objective, OBJECTIVES)
        if self.reference not in REFERENCES:
            raise UnknownNameError("reference", self.reference, REFERENCES)
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise InputError(
                f"a name has up to 80 letters, digits, dots, dashes and underscores, but got {self.name!r}"
            )
        if self.hardware_label is not None and not _LABEL.fullmatch(self.hardware_label):
            raise InputError(
                f"a hardware label has up to 40 letters, digits, dots and dashes, but got {self.hardware_label!r}"
            )
        lowest = {"world_size": 1, "trials": 1, "seq_len": 1, "seed": 0, "finalists": 1, "relaunches": 0}
        for option, low in lowest.items():
            value = getattr(self, option)
            if value is not None and value < low:
                raise InputError(f"{option.replace('_', ' ')} must be at least {low}, but got {value}")
        for batch in self.global_batch:
            if batch < 1:
                raise InputError(f"global batch must be at least 1, but got {batch}")
        for option in ("time_budget", "measure", "start_deadline", "compile_deadline", "step_deadline"):
            if getattr(self, option) is not None:
                parse_duration(getattr(self, option))
        if self.memory_limit is not None:
            parse_size(self.memory_limit)
        for option in ("precision_target", "headroom", "resolution"):
            if getattr(self, option) is not None:
                parse_share(getattr(self, option), option)

    @property
    def seconds(self) -> float | None:
        """Wall time of the whole run in s, None if there is no limit."""
        if self.time_budget is not None:
            return parse_duration(self.time_budget)
        return 180.0 if self.trials is None else None

    @property
    def least_rounds(self) -> int:
        """How often each finalist is launched again at least."""
        return RELAUNCHES if self.relaunches is None else self.relaunches

    @property
    def resolution_share(self) -> float:
        """The difference between plans that may win which must show, as a share."""
        return parse_share(self.resolution or RESOLUTION, "resolution")

    @property
    def memory_limit_bytes(self) -> int | None:
        """Memory of one rank, in B."""
        return None if self.memory_limit is None else parse_size(self.memory_limit)

    @property
    def measurement(self) -> Measurement:
        """How long a trial runs."""
        return Measurement(
            seconds=parse_duration(self.measure), precision=parse_share(self.precision_target, "precision_target")
        )

    @property
    def deadlines(self) -> Deadlines:
        """When a rank counts as hanging."""
        return Deadlines(
            start=parse_duration(self.start_deadline),
            compiling=parse_duration(self.compile_deadline),
            step=parse_duration(self.step_deadline),
        )


def load_config(path: Path | None, options: Mapping[str, Any]) -> SweepConfig:
    """The fields of a TOML file, if there is one, with every option that is not None in their place.

    Raises:
        InputError: the file is missing or not TOML, or a value has the wrong type.
        UnknownNameError: a field does not exist.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"the configuration {path} cannot be read: {error}") from None
    known = {f.name: f for f in fields(SweepConfig)}
    values = {name.replace("-", "_"): value for name, value in values.items()}
    for name in values:
        if name not in known:
            raise UnknownNameError("field of the configuration", name, known)
    converted = {name: _converted(name, value, str(known[name].type), IN_FILE) for name, value in values.items()}
    return replace(SweepConfig(), **{**converted, **{k: v for k, v in options.items() if v is not None}})


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that nobody has parsed yet, as values of the fields of SweepConfig.

    Raises:
        InputError: a value has the wrong type.
        UnknownNameError: an option does not exist.
    """
    known = {f.name: str(f.type) for f in fields(SweepConfig)}
    for name in options:
        if name not in known:
            raise UnknownNameError("option of a sweep", name, known)
    return {name: _converted(name, value, known[name], "") for name, value in options.items()}


def _converted(name: str, value: Any, kind: str, where: str) -> Any:
    if "Path" in kind and isinstance(value, str):
        return Path(os.path.expanduser(value))
    if kind.startswith("tuple"):
        items = value if isinstance(value, list) else [value]
        wanted: type = int if "int" in kind else str
        if all(type(item) is wanted for item in items):
            return tuple(items)
    elif kind == "bool" and isinstance(value, bool):
        return value
    elif "float" in kind and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif (("int" in kind and type(value) is int) or ("str" in kind and isinstance(value, str))) and "Path" not in kind:
        return value
    raise InputError(f"{name}{where} must be {kind.replace(' | None', '')}, but got {value!r}")
