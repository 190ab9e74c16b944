"""Suites of a script: made from a knobs file or from a sweep over one, and found again from their file."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.nightly.environment import git
from harness.nightly.suite import Suite
from harness.plan import Plan, parse_settings
from harness.scripts import knobs_file
from harness.scripts.knobs_file import KnobsFile
from harness.scripts.lanes import plan_of
from harness.store.records import SCHEMA_VERSION, Outcome, Role
from harness.store.standings import Row, order, standings
from harness.store.store import Store
from strategies.knob import Setting

REFERENCE = "as-it-stands"
"""What the plan is called that the others are compared with."""
METRICS = ("step_time_s", "peak_memory_bytes", "loss_last")
"""Of a script: what it does before its ranks show themselves is its launcher's, and no part of `setup_s`."""
_PLAIN = re.compile(r"[\w@%+=:,./{}-]+")
"""A word that needs no quotes, placeholders among them."""


def knobs_path(suite: Suite, path: Path | None) -> Path:
    """Where the knobs file of a suite lies.

    Args:
        suite: of a script.
        path: the suite's own file, from whose folder it is meant; None: from here.
    """
    assert suite.knobs is not None
    return (path.parent if path is not None else Path()) / suite.knobs


def repository(folder: Path) -> Path | None:
    """The git working tree that holds a folder; None if there is none, or no git."""
    try:
        return Path(git(folder, "rev-parse", "--show-toplevel"))
    except InputError:  # a script need not be in git
        return None


def pinned(knobs: Path, command: str | None, pairs: Sequence[str], name: str, output: Path) -> Suite:
    """The suite of one plan: a script as it stands, or with settings.

    Args:
        knobs: file of its knobs.
        command: instead of the one in it.
        pairs: settings as NAME=VALUE, of knobs that are not at their defaults.
        name: of the suite.
        output: the file that it will be written to.

    Raises:
        InputError: what is wrong with the file or a setting, in one sentence.
    """
    script = knobs_file.read(knobs, command)
    plan = _plan(script, parse_settings(pairs, script.free))
    return _suite(script, knobs, {REFERENCE: plan}, name, output)


def of_sweep(store: Store, hardware_id: str, sweep: str, name: str, output: Path, knobs: Path | None) -> Suite:
    """The suite of a sweep over a script: the plan that its others were compared with, its winner, and the best of each
    strategy, as far as its knobs mean one.

    Args:
        store: of the sweep.
        hardware_id: that it ran on.
        sweep: its name.
        name: of the suite.
        output: the file that it will be written to.
        knobs: where the knobs file lies now; None: where it lay.

    Raises:
        InputError: the knobs file cannot be read or has no such plan any more, or no trial of the sweep is ok.
    """
    info = store.sweep_info(hardware_id, sweep)
    about = info["script"]
    knobs = knobs or Path(about["knobs"])
    if not knobs.exists():
        raise InputError(f"the knobs file {knobs} of the sweep {sweep!r} is not here; say where it is, with --knobs")
    script = knobs_file.read(knobs, shlex.join(about["command"]))
    rows = [row for row in store.rows(sweep, hardware_id) if row["outcome"] == Outcome.OK or row["role"] == Role.FINAL]
    ours = info["workload"]["workload_id"]
    found = order(standings([row for row in rows if row["workload_id"] == ours]).plans, "throughput", None)
    if not found:
        raise InputError(f"no trial of the sweep {sweep!r} is ok, so there is nothing to watch")
    chosen = {REFERENCE: _plan(script, about["baseline"])}
    kinds: set[Any] = set()
    for each in found:
        kind = _kind(each.row)
        plan = _plan(script, Plan.from_json(each.row["knobs"]))
        if kind not in kinds and plan not in chosen.values():
            label = "winner" if not kinds else str(kind)
            chosen[f"winner-{kind}" if label == "winner" and kind else label] = plan
        kinds.add(kind)
    return _suite(script, knobs, chosen, name, output)


def _kind(row: Row) -> Any:
    """What a row means by its strategy; None if its knobs do not say it."""
    return row["data_parallel"]


def _plan(script: KnobsFile, given: Mapping[str, Setting]) -> dict[str, Setting]:
    """Every setting of a plan, so that new defaults of the knobs file do not change what is measured."""
    reason = script.why_not(script.plan(given))
    if reason is not None:
        raise InputError(f"this plan is not to be run: {reason}")
    return dict(plan_of(script, given))


def _suite(script: KnobsFile, knobs: Path, plans: Mapping[str, Any], name: str, output: Path) -> Suite:
    return Suite(
        name=name,
        schema_version=SCHEMA_VERSION,
        plans=plans,
        knobs=Path(os.path.relpath(knobs.absolute(), output.absolute().parent)).as_posix(),
        script=" ".join(word if _PLAIN.fullmatch(word) else shlex.quote(word) for word in script.command),
        reference=REFERENCE,
        metrics=METRICS,
    )
