"""Plan: one point of the search space, a setting for every knob that exists at that point."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.errors import InputError, UnknownNameError
from strategies.knob import Knob, Setting

COMPUTES = ("precision", "quantization", "activation_checkpoint")
"""Knobs that say how a rank computes, whatever it shares with others."""

ONE_UNIT = 5
"""Version of the schema from which `bucket_mb` has one meaning."""


@dataclass(frozen=True)
class Plan(Mapping[str, Setting]):
    """Frozen and hashable; a mapping from knob name to value, as strategies read it.

    Two plans are equal, and have the same `plan_id`, if they hold the same settings. Build one with `complete`.
    """

    settings: tuple[tuple[str, Setting], ...]
    """(name, value) in the order of the knobs."""

    def __getitem__(self, name: str) -> Setting:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self.settings)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def get(self, name: str, default: Any = None) -> Any:  # the one of Mapping takes ten times as long
        return self._by_name.get(name, default)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.plan_id == other.plan_id

    def __hash__(self) -> int:
        return hash(self.plan_id)

    @cached_property
    def _by_name(self) -> dict[str, Setting]:
        return dict(self.settings)

    @cached_property
    def plan_id(self) -> str:
        """12 hexadecimal digits, a hash of every setting."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    @property
    def world_size(self) -> int:
        """Ranks: data parallel x tensor parallel x pipeline parallel."""
        return int(self["dp"]) * int(self["tp"]) * int(self["pp"])

    def to_json(self) -> str:
        """Canonical JSON: sorted names, no spaces."""
        return json.dumps(self._by_name, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, schema_version: int | None = None) -> Plan:
        """The plan that `to_json` wrote; the settings are not checked against the knobs of this version.

        Args:
            text: of a plan.
            schema_version: that it was recorded under, None for this one's (see `upgraded`).
        """
        settings = json.loads(text)
        if schema_version is not None:
            settings = upgraded(settings, schema_version)
        return cls(tuple(settings.items()))

    def differing(self, default: Mapping[str, Setting]) -> dict[str, Setting]:
        """The settings in which this plan is not `default`: what has to be written down to repeat it."""
        return {name: value for name, value in self.settings if default.get(name) != value}


def complete(given: Mapping[str, Setting], knobs: Iterable[Knob]) -> Plan:
    """The plan that has the `given` settings, and the default of every other knob that exists beside them.

    Args:
        given: knob name -> value.
        knobs: all knobs, each after the knobs its condition names.

    Raises:
        UnknownNameError: a setting names no knob.
        InputError: a value is not one the knob accepts, or the knob does not exist beside the other settings.
    """
    knobs = tuple(knobs)
    names = {knob.name for knob in knobs}
    for name in given:
        if name not in names:
            raise UnknownNameError("knob", name, names)
    settings: dict[str, Setting] = {}
    for knob in knobs:
        if knob.applies(settings):
            settings[knob.name] = _checked(knob, given.get(knob.name, knob.default))
        elif knob.name in given:
            needs = " and ".join(
                [f"{k} is {' or '.join(map(str, v))}" for k, v in knob.when.items()]
                + [f"{k} is not {' or '.join(map(str, v))}" for k, v in knob.unless.items()]
            )
            raise InputError(f"{knob.name} has a meaning only where {needs}, but this plan has {settings}")
    return Plan(tuple((knob.name, settings[knob.name]) for knob in knobs if knob.written(settings)))


def upgraded(settings: Mapping[str, Setting], schema_version: int) -> dict[str, Setting]:
    """Settings that were recorded under an earlier schema, so that they mean today what they meant then.

    Before version 5 `bucket_mb` counted bytes of parameters, not of the gradients that are summed; it was MiB where
    torch's DistributedDataParallel made the buckets, and stood without a meaning in plans of FSDP2.

    Args:
        settings: of a plan; they may leave out what was at its default.
        schema_version: that they were recorded under.
    """
    found, kind = dict(settings), settings.get("data_parallel")
    if schema_version >= ONE_UNIT or kind not in ("ddp", "zero1", "zero2"):
        return found
    if settings.get("zero2_impl") == "fsdp2":
        found.pop("bucket_mb", None)
        return found
    by_torch = kind == "ddp" or settings.get("zero1_impl") == "torch"
    factor = (2**20 / 10**6 if by_torch else 1.0) * _gradient_bytes(settings) / _parameter_bytes(settings)
    if factor != 1.0:
        found["bucket_mb"] = float(settings.get("bucket_mb", 25.0)) * factor
    return found


def _parameter_bytes(settings: Mapping[str, Setting]) -> int:
    return 2 if settings.get("precision") in ("bf16", "bf16_params") else 4


def _gradient_bytes(settings: Mapping[str, Setting]) -> int:
    """Of the format in which flat buckets sum gradients."""
    return 2 if settings.get("precision") == "bf16" or settings.get("reduce_dtype") == "bf16" else 4


def parse_settings(pairs: Iterable[str], knobs: Iterable[Knob]) -> dict[str, Setting]:
    """`["bucket_mb=8", "precision=bf16"]` -> settings.

    Raises:
        InputError: a pair is not NAME=VALUE, or the value is not one the knob accepts.
        UnknownNameError: no such knob.
    """
    by_name = {knob.name: knob for knob in knobs}
    settings: dict[str, Setting] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"a setting is written NAME=VALUE, but got {pair!r}")
        if name not in by_name:
            raise UnknownNameError("knob", name, by_name)
        try:
            settings[name] = by_name[name].parse(text)
        except ValueError as error:
            raise InputError(str(error)) from None
    return settings


def _checked(knob: Knob, value: Setting) -> Setting:
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(knob.default, float):
        value = float(value)
    if not knob.accepts(value):
        raise InputError(f"{knob.name} must be {knob.describe()}, but got {value!r}")
    return value
