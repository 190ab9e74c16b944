"""The nights of a suite: one JSON file each, that survives re-installation, pruning and damage to its neighbours.

    results/nightly/SUITE/HARDWARE_ID/NIGHT.json

A file appears whole or not at all. It holds what the judge needs and nothing that only this version could read; the
trials behind it stand in results/trials like any others, in the sweep nightly-SUITE.
"""

from __future__ import annotations

import contextlib
import glob
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import filelock

from harness.errors import InputError, StoreError

_NAME = re.compile(r"\d{8}T\d{6}Z")
AHEAD = timedelta(hours=1)
"""How far a night may lie in the future: clocks of machines differ."""
SCREEN, CONFIRM, SEEDS = "screen", "confirm", "seeds"


@dataclass(kw_only=True)
class Session:
    """Some launches of each plan in turns, between two runs of the canary."""

    purpose: str
    """SCREEN, CONFIRM on suspicion, or SEEDS: the last losses of other seeds, kept for nights of the same versions."""
    canary: dict[str, float] = field(default_factory=dict)
    """Seconds of the canary's parts, median of before and after; {} if it could not be measured."""
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Plan -> metric -> one value for each launch that succeeded."""
    failures: dict[str, list[str]] = field(default_factory=dict)
    """Plan -> why launches did not succeed."""
    trials: dict[str, list[str]] = field(default_factory=dict)
    """Plan -> trial_ids."""


@dataclass(kw_only=True)
class Night:
    """Everything of one night."""

    night: str
    """When it began, in UTC: sorts in time whatever the clock on the wall does."""
    suite: str
    version: int
    hardware_id: str
    identities: dict[str, str]
    """Plan -> `Suite.identity`."""
    environment: dict[str, str]
    sessions: list[Session] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    machine_id: str | None = None
    """What `hardware_id` is without the versions of torch and the driver; None before they were told apart."""
    complete: bool = False
    """Whether every launch that was due was tried and judged."""

    def screened(self) -> Session | None:
        """The session that every night has."""
        return next((session for session in self.sessions if session.purpose == SCREEN), None)


def new_night(moment: datetime | None = None) -> str:
    """A name that sorts in time: UTC knows no daylight saving, and two runs in one night have names of their own."""
    return f"{moment or datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


class History:
    """The nights of one suite on one machine.

    A hardware_id changes with the versions of torch and the driver; the nights before an update are what those after it
    are judged by. So they are looked for under every id of this machine.

    Args:
        root: results folder.
        suite: name.
        hardware_id: what it runs on now; nights are written there.
        machine_id: the id that does not change with versions; None: nights of any machine that reads alike.
    """

    def __init__(self, root: Path, suite: str, hardware_id: str, machine_id: str | None = None) -> None:
        self.folder = root / "nightly" / suite / hardware_id
        self.machine_id = machine_id
        self.problems: list[str] = []
        """One sentence for each night that could not be read."""

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else runs a night of this suite on this hardware meanwhile.

        Raises:
            InputError: somebody does.
            StoreError: the folder cannot be written.
        """
        path = self.folder / ".running.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(path)
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(
                f"another process is running a night of this suite in {self.folder}; wait for it to end"
            ) from None
        except OSError as error:
            raise StoreError(f"{path.parent} cannot be written: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    def write(self, night: Night) -> Path:
        """Keep a night. Raises StoreError if the folder cannot be written."""
        path = self.folder / f"{night.night}.json"
        hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            hidden.write_text(json.dumps(asdict(night), separators=(",", ":")), encoding="utf-8")
            hidden.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):  # the folder may not even exist
                hidden.unlink()
            raise StoreError(f"{path.parent} cannot be written: {error.strerror or error}") from error
        return path

    def nights(self) -> list[Night]:
        """Every night of this machine that can be read, oldest first; others are named in `problems` and skipped."""
        alike = self.folder.parent.glob(f"{glob.escape(_without_hash(self.folder.name))}-??????")
        found = [night for folder in {self.folder, *alike} for night in self._read(folder) if self._is_ours(night)]
        return sorted(found, key=lambda night: night.night)

    def own(self) -> list[Night]:
        """Those that were recorded under this very id."""
        return sorted(self._read(self.folder), key=lambda night: night.night)

    def _is_ours(self, night: Night) -> bool:
        return (
            night.hardware_id == self.folder.name
            or None in (night.machine_id, self.machine_id)
            or (night.machine_id == self.machine_id)
        )

    def _read(self, folder: Path) -> Iterator[Night]:
        soon = f"{datetime.now(UTC) + AHEAD:%Y%m%dT%H%M%SZ}"
        for path in sorted(folder.glob("*.json")):
            if path.name > soon:
                self._problem(f"the night {path} lies in the future, by this machine's clock, and is skipped")
                continue
            try:
                yield _night(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                self._problem(f"the night {path} cannot be read ({type(error).__name__}: {error}) and is skipped")

    def _problem(self, sentence: str) -> None:
        if sentence not in self.problems:
            self.problems.append(sentence)


def _without_hash(hardware_id: str) -> str:
    return hardware_id.rpartition("-")[0] or hardware_id


def _night(found: Mapping[str, Any]) -> Night:
    known = {name: found[name] for name in Night.__dataclass_fields__ if name in found}
    sessions = [
        Session(**{name: session[name] for name in Session.__dataclass_fields__ if name in session})
        for session in known.get("sessions", [])
    ]
    night = Night(**{**known, "sessions": sessions})
    if not isinstance(night.night, str) or not _NAME.match(night.night):
        raise ValueError("it is no night")
    texts = [night.identities, night.environment]
    lists = (values for s in sessions for metrics in s.values.values() for values in metrics.values())
    numbers = chain(chain.from_iterable(lists), *(s.canary.values() for s in sessions))
    if not (
        {*map(type, chain.from_iterable(table.values() for table in texts))} <= {str}
        and {*map(type, numbers)} <= {int, float}
        and {*map(type, night.verdicts)} <= {dict}
        and all(isinstance(table, dict) for s in sessions for table in (s.trials, s.failures))
    ):
        raise ValueError("a field has the wrong type")
    return night
