"""Acknowledgements: lines in a file in git that say why a change is accepted, from which the baseline begins anew.

[[acknowledged]]
plan = "winner"             # or "*" for every plan
metric = "step_time_s"      # or "*"
night = "20260301T010000Z-ab12"
last = "20260303T010000Z-cd34"     # what was said until then is accepted, what is said later is not
because = "the new tokenizer is worth it"
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError, StoreError, UnknownNameError
from harness.nightly.suite import METRICS, Suite

EVERY = "*"


@dataclass(frozen=True, kw_only=True)
class Acknowledgement:
    """One accepted change."""

    plan: str
    metric: str
    night: str
    """Nights from this one on count for the new baseline."""
    because: str
    last: str = ""
    """The last night that there was when the change was accepted; "" if every later one is."""

    def covers(self, plan: str, metric: str) -> bool:
        """Whether it is about a metric of a plan."""
        return self.plan in (plan, EVERY) and self.metric in (metric, EVERY)


def read(path: Path) -> tuple[Acknowledgement, ...]:
    """The acknowledgements of a file; () if there is none.

    Raises:
        InputError: the file cannot be read, or an entry lacks something.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("acknowledged", [])
        found = tuple(Acknowledgement(**entry) for entry in entries)
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the acknowledgements {path} cannot be read: {reason}") from None
    if broken := [
        entry for entry in found if not all(isinstance(v, str) and (v or n == "last") for n, v in vars(entry).items())
    ]:
        raise InputError(f"the acknowledgements {path} have an entry that lacks something: {broken[0]}")
    return found


def check(suite: Suite, plan: str, metric: str) -> None:
    """Refuse an acknowledgement of something the suite does not have.

    Raises:
        UnknownNameError: no such plan or metric.
    """
    if plan != EVERY and plan not in suite.plans:
        raise UnknownNameError("plan of the suite", plan, [*suite.plans, EVERY])
    if metric != EVERY and metric not in METRICS:
        raise UnknownNameError("metric", metric, [*METRICS, EVERY])


def append(path: Path, entry: Acknowledgement) -> None:
    """Add an entry to the file.

    Raises:
        StoreError: it cannot be written.
    """
    lines = ["", "[[acknowledged]]", *(f"{name} = {json.dumps(value)}" for name, value in vars(entry).items() if value)]
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


def latest(entries: Sequence[Acknowledgement], plan: str, metric: str) -> Acknowledgement | None:
    """The last acknowledgement that is about a metric of a plan."""
    fits = [entry for entry in entries if entry.covers(plan, metric)]
    return max(fits, key=lambda entry: entry.night, default=None)
