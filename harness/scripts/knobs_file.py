"""The knobs file: what can be turned about a script, and where each value goes. README has an example.

Everything that can be wrong with a file is said before anything is started; nothing in it is executed but the command.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.errors import InputError, UnknownNameError
from harness.observe.injection import Settings as Observed
from harness.scripts import key_paths, meaning
from harness.scripts.expressions import Expression
from harness.scripts.placeholders import BUILT_IN, names_in
from strategies.knob import Choice, Knob, Range, Setting, Settings

_TOP = {"command", "workdir", "env", "files", "knobs", "require", "samples_per_step", "tokens_per_step", "world_size"}
_TOP |= {"observe", "numerics"}
_OBSERVE = {each.name: each.type for each in fields(Observed) if each.name != "warmup_steps"}
_KNOB = {"values", "low", "high", "integer", "log", "default", "unit", "doc", "when", "value", "into", "new", "written"}
_KNOB |= {"absent", "mathematics", "remove_if_absent", "means"}

TOLERANCE = 1e-2
"""Largest relative difference of a step's loss to the baseline's that passes, unless the file has another."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A key path of a file that the script reads."""

    file: str
    """Its name under [files]."""
    path: str
    new: bool = False
    """Whether the file may lack it."""


@dataclass(frozen=True, kw_only=True)
class ScriptKnob:
    """One knob of a script."""

    name: str
    knob: Knob | None
    """What it may be; None if it follows from the others."""
    value: Expression | None = None
    """What it follows from."""
    when: Mapping[str, Collection[Setting]] = field(default_factory=dict)
    """It is there only in plans whose settings have one of these values."""
    into: tuple[Target, ...] = ()
    written: Mapping[str, str] = field(default_factory=dict)
    """How values stand in the command and the environment, where not as they are."""
    absent: str = ""
    """What stands in the command in plans without it; nothing: the word is left out."""
    remove_if_absent: bool = False
    """Whether plans without it have no such keys in their copies of files; else they stay as the file has them."""
    mathematics: bool = False
    """Whether it changes what is learned, so that losses are not to be compared."""
    means: Mapping[str, tuple[Setting, ...] | None] = field(default_factory=dict)
    """Column of trials -> what each of `knob`'s values is there; None: they are that themselves."""


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What must hold of a plan."""

    expression: Expression
    because: str | None = None
    """The sentence for what it refuses."""


@dataclass(frozen=True, kw_only=True)
class KnobsFile:
    """A script, its knobs, and where they go."""

    folder: Path
    """Where the file lies; its paths are meant from there."""
    command: tuple[str, ...]
    """Words with placeholders."""
    workdir: Path
    env: Mapping[str, str]
    files: Mapping[str, Path]
    knobs: Mapping[str, ScriptKnob]
    require: tuple[Requirement, ...] = ()
    samples_per_step: Expression | None = None
    tokens_per_step: Expression | None = None
    world_size: Expression | None = None
    """Ranks that a plan starts."""
    observed: Observed = field(default_factory=Observed)
    """What the file says of how steps are told."""
    tolerance: float = TOLERANCE

    @property
    def free(self) -> tuple[Knob, ...]:
        """The knobs that do not follow from others, in their order."""
        return tuple(each.knob for each in self.knobs.values() if each.knob is not None)

    @property
    def identity(self) -> str:
        """12 hexadecimal digits that stand for the command and what it is given, whatever its knobs may be."""
        content = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in self.files.items()}
        about = [self.command, dict(self.env), content]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """What the command is called: the file that it runs, such as train.py, or else its first word."""
        scripts = (Path(word).name for word in self.command if word.endswith((".py", ".sh")))
        return next(scripts, Path(self.command[0]).name)

    def plan(self, given: Mapping[str, Setting]) -> dict[str, Setting]:
        """A whole plan: values given, defaults, and what follows from them; knobs whose condition fails are absent.

        Raises:
            InputError: a name or value that is none, or a relation that cannot be calculated.
        """
        searched = {name for name, each in self.knobs.items() if each.knob is not None}
        for name in given:
            if name not in searched:
                raise UnknownNameError("knob", name, searched)
        plan: dict[str, Setting] = {}
        for name, each in self.knobs.items():
            if any(plan.get(other) not in values for other, values in each.when.items()):
                continue
            if each.value is not None:
                plan[name] = each.value.value(plan)
            elif each.knob is not None:
                plan[name] = given.get(name, each.knob.default)
                if not each.knob.accepts(plan[name]):
                    raise InputError(f"{name} must be {each.knob.describe()}, but got {plan[name]!r}")
        return plan

    def batch(self, plan: Settings, world_size: int) -> dict[str, float]:
        """What the file says of a step of all ranks: samples_per_step and tokens_per_step, where it says it."""
        given = {"samples_per_step": self.samples_per_step, "tokens_per_step": self.tokens_per_step}
        names = {**plan, "world_size": world_size}
        return {name: float(each.value(names)) for name, each in given.items() if each is not None}

    def columns(self, plan: Settings) -> dict[str, Setting]:
        """What a whole plan means in the harness's words: columns of trials."""
        found: dict[str, Setting] = {}
        for name, each in self.knobs.items():
            if name in plan:
                found |= meaning.columns(plan[name], each.knob, each.means)
        return found

    def why_not(self, plan: Settings) -> str | None:
        """Why a whole plan is not to be run, in one sentence; None if nothing speaks against it."""
        for each in self.require:
            if each.expression.names <= plan.keys() and not each.expression.value(plan):
                values = ", ".join(f"{name}={plan[name]}" for name in sorted(each.expression.names))
                return each.because or f"{each.expression.text} does not hold with {values}"
        return None


def read(path: Path, command: str | None = None) -> KnobsFile:
    """A knobs file, checked.

    Args:
        path: of the file.
        command: instead of the one in it.

    Raises:
        InputError: what is wrong with it, in one sentence.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no TOML: {error}") from None
    _known(given, _TOP, "entry of a knobs file")
    folder = path.resolve().parent
    files = {
        name: folder / _text(_tabled(each, f"[files.{name}]"), "path", f"[files.{name}]")
        for name, each in _tabled(given.get("files", {}), "[files]").items()
    }
    words = command if command is not None else _text(given, "command", str(path))
    try:
        argv = tuple(shlex.split(words))
    except ValueError as error:
        raise InputError(f"the command {words!r} cannot be split into words: {error}") from None
    knobs = _tabled(given.get("knobs", {}), "[knobs]")
    found = KnobsFile(
        folder=folder,
        command=argv,
        workdir=folder / _text({"workdir": ".", **given}, "workdir", str(path)),
        env={name: str(value) for name, value in _tabled(given.get("env", {}), "[env]").items()},
        files=files,
        knobs={name: _knob(name, _tabled(each, f"[knobs.{name}]"), files, list(knobs)) for name, each in knobs.items()},
        require=tuple(map(_requirement, _many(given.get("require", []), "require"))),
        samples_per_step=_expression(given.get("samples_per_step")),
        tokens_per_step=_expression(given.get("tokens_per_step")),
        world_size=_expression(given.get("world_size")),
        observed=_observed(_tabled(given.get("observe", {}), "[observe]")),
        tolerance=_tolerance(_tabled(given.get("numerics", {}), "[numerics]")),
    )
    if not found.command:
        raise InputError(f"{path} has an empty command")
    _check(found)
    return found


def _knob(name: str, given: Mapping[str, Any], files: Mapping[str, Path], order: list[str]) -> ScriptKnob:
    where = f"[knobs.{name}]"
    if not name.isidentifier() or name in BUILT_IN:
        raise InputError(
            f"{name!r} cannot be a knob's name: a name has letters, digits and _, and is none of {', '.join(BUILT_IN)}"
        )
    _known(given, _KNOB, f"entry of {where}")
    conditions = _tabled(given.get("when", {}), f"{where} when")
    when = {other: tuple(v) if isinstance(v, list) else (v,) for other, v in conditions.items()}
    value = _expression(given.get("value"))
    earlier = order[: order.index(name)]
    for other in [*when, *(value.names if value else ())]:
        if other not in earlier:
            raise InputError(f"{where} needs {other!r}, which is no knob above it")
    written = _tabled(given.get("written", {}), f"{where} written")
    if value is None:
        knob = _range(name, given, where) if "low" in given or "high" in given else _choice(name, given, where)
    elif given.keys() & {"values", "low", "high", "default"}:
        raise InputError(f"{where} has a value that follows from others, so it has no values to choose from")
    else:
        knob = None
    return ScriptKnob(
        name=name,
        knob=knob,
        value=value,
        when=when,
        into=tuple(_target(each, where, files, bool(given.get("new"))) for each in _listed(given.get("into", []))),
        written={str(key): str(each) for key, each in written.items()},
        absent=str(given.get("absent", "")),
        remove_if_absent=bool(given.get("remove_if_absent", False)),
        mathematics=bool(given.get("mathematics", False)),
        means=meaning.read(name, given.get("means"), knob, where),
    )


def _choice(name: str, given: Mapping[str, Any], where: str) -> Knob:
    values = given.get("values")
    if not isinstance(values, list) or not values or not all(isinstance(v, (bool, int, float, str)) for v in values):
        raise InputError(
            f"{where} needs values, such as [1, 2, 4], or low and high, or a value that follows from others"
        )
    common = {"default": given.get("default", values[0]), "doc": given.get("doc", ""), "unit": given.get("unit", "")}
    knob = Choice(name=name, values=tuple(values), **common)
    return _default_fits(knob, where)


def _range(name: str, given: Mapping[str, Any], where: str) -> Knob:
    low, high = given.get("low"), given.get("high")
    numbers = [v for v in (low, high) if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) != 2 or "values" in given or not numbers[0] < numbers[1]:
        raise InputError(f"{where} needs low and high, two numbers with low below high, and then no values")
    log, integer = (
        bool(given.get("log", False)),
        bool(given.get("integer", isinstance(low, int) and isinstance(high, int))),
    )
    if log and numbers[0] <= 0:
        raise InputError(f"{where} is logarithmic, so low must be above 0, but it is {low}")
    points = tuple(_spread(numbers[0], numbers[1], log=log, integer=integer))
    default = given.get("default", points[0])
    knob = Range(name=name, low=numbers[0], high=numbers[1], integer=integer, log=log, points=points, default=default,
                 doc=given.get("doc", ""), unit=given.get("unit", ""))  # fmt: skip
    return _default_fits(knob, where)


def _spread(low: float, high: float, *, log: bool, integer: bool) -> list[float]:
    """Five values for grid search."""
    shares = [at / 4 for at in range(5)]
    found = [low * (high / low) ** share if log else low + (high - low) * share for share in shares]
    return sorted({round(each) if integer else each for each in found})


def _default_fits(knob: Knob, where: str) -> Knob:
    if not knob.accepts(knob.default):
        raise InputError(f"{where} has the default {knob.default!r}, which is not {knob.describe()}")
    return knob


def _target(text: Any, where: str, files: Mapping[str, Path], new: bool) -> Target:
    file, colon, path = str(text).partition(":")
    if not colon or not path:
        raise InputError(f"{where} goes into {text!r}, which is not written FILE:KEY.PATH")
    if file not in files:
        raise UnknownNameError("file of a knobs file", file, files)
    return Target(file=file, path=path, new=new)


def _requirement(given: Any) -> Requirement:
    if isinstance(given, str):
        return Requirement(expression=Expression(given))
    table = _tabled(given, "an entry of require")
    _known(table, {"that", "because"}, "entry of require")
    because = table.get("because")
    return Requirement(expression=Expression(_text(table, "that", "an entry of require")), because=because)


def _check(found: KnobsFile) -> None:
    """What concerns several parts: every placeholder has its word, every knob goes somewhere, every path is there."""
    for name in found.files:
        if name in found.knobs or name in BUILT_IN:
            raise InputError(f"[files.{name}] cannot be called so: {{{name}}} is a knob's place, or a built-in one")
    valid = [*found.knobs, *found.files, *BUILT_IN]
    texts = {"the command": found.command, **{f"[env] {name}": (value,) for name, value in found.env.items()}}
    written = {f"[knobs.{name}]": tuple(each.written.values()) for name, each in found.knobs.items()}
    used: set[str] = set()
    for where, words in (texts | written).items():
        for name in (name for word in words for name in names_in(word, where)):
            if name not in valid:
                raise InputError(
                    f"{where} has {{{name}}}, and there is no such knob or file; there are {', '.join(valid)}"
                )
            used.add(name)
    expressions = [each.expression for each in found.require]
    expressions += [each for each in (found.samples_per_step, found.tokens_per_step, found.world_size) if each]
    for expression in expressions:
        if missing := expression.names - found.knobs.keys() - {"world_size"}:
            raise InputError(f"{expression.text!r} has {sorted(missing)[0]!r}, and there is no such knob")
    needed = used.union(
        *(e.value.names for e in found.knobs.values() if e.value), *(e.when for e in found.knobs.values())
    )
    for name, each in found.knobs.items():
        recorded = each.value is not None and each.means  # it tells what a plan is
        if name not in needed and not each.into and not recorded:
            raise InputError(
                f"the knob {name} goes nowhere: no placeholder {{{name}}}, no into, and no knob follows from it"
            )
    for name, path in found.files.items():
        if name not in used:
            raise InputError(
                f"the file {name} goes nowhere: the command has no placeholder {{{name}}} for its copy's path"
            )
        content = key_paths.load(path)
        for target in (t for each in found.knobs.values() for t in each.into if t.file == name):
            key_paths.put(content, target.path, None, str(path), new=target.new)
    if not found.workdir.is_dir():
        raise InputError(f"the command cannot run in {found.workdir}: there is no such folder")


def _observed(given: Mapping[str, Any]) -> Observed:
    _known(given, _OBSERVE, "entry of [observe]")
    for name, value in given.items():
        if type(value) is not int or value < 0:
            raise InputError(f"[observe] {name} must be a whole number from 0, but got {value!r}")
    return Observed(**given)


def _tolerance(given: Mapping[str, Any]) -> float:
    _known(given, {"tolerance"}, "entry of [numerics]")
    value = given.get("tolerance", TOLERANCE)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise InputError(f"[numerics] tolerance must be a number between 0 and 1, such as 0.01, but got {value!r}")
    return float(value)


# -- small checks


def _known(given: Mapping[str, Any], valid: Collection[str], kind: str) -> None:
    for name in given:
        if name not in valid:
            raise UnknownNameError(kind, name, valid)


def _tabled(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InputError(f"{where} must be a table, but is {given!r}")
    return given


def _text(given: Mapping[str, Any], name: str, where: str) -> str:
    found = given.get(name)
    if not isinstance(found, str) or not found.strip():
        raise InputError(f"{where} needs {name}, a text, but got {found!r}")
    return found


def _many(given: Any, where: str) -> list[Any]:
    if not isinstance(given, list):
        raise InputError(f"{where} must be a list, but is {given!r}")
    return given


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _expression(given: Any) -> Expression | None:
    return None if given is None else Expression(str(given))
