"""A suite from what a sweep found: its winner, and the best of each strategy."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import strategies
from harness.errors import InputError
from harness.nightly.suite import OF_WORKLOAD, Suite
from harness.plan import Plan
from harness.store.records import SCHEMA_VERSION, Outcome, Role
from harness.store.standings import Row, order, standings
from harness.store.store import Store
from harness.sweeps.command_lines import asked_by
from harness.workloads import with_path
from strategies.knob import Setting


def from_sweep(store: Store, hardware_id: str, sweep: str, name: str, folder: Path) -> tuple[Suite, str]:
    """(the suite of a sweep's first workload, the workload_id that its trials have).

    Args:
        store: that has the sweep.
        hardware_id: where it ran.
        sweep: its name.
        name: of the suite.
        folder: where the suite will be kept; relative paths, which the sweep was given in this process's folder, are
            written as seen from there.

    Raises:
        InputError: no trial of the sweep is ok, or it is not recorded what it trained.
    """
    rows = [row for row in store.rows(sweep, hardware_id) if row["outcome"] == Outcome.OK or row["role"] == Role.FINAL]
    first = rows[0]["workload_id"] if rows else None
    plans = order(standings([row for row in rows if row["workload_id"] == first]).plans, "throughput", None)
    if not plans:
        raise InputError(f"no trial of the sweep {sweep!r} is ok, so there is nothing to watch")
    defaults = {knob.name: knob.default for knob in strategies.knobs(strategies.registry().values())}
    chosen: dict[str, Mapping[str, Setting]] = {}
    for plan in plans:
        kind = _kind(plan.row)
        if kind not in chosen:
            chosen[kind] = Plan.from_json(plan.row["knobs"]).differing(defaults)
    best = next(iter(chosen))
    winner = {f"winner-{best}": chosen.pop(best)}
    row = plans[0].row
    suite = Suite(
        name=name,
        schema_version=SCHEMA_VERSION,
        plans={**winner, **chosen},
        world_size=row["world_size"],
        global_batch=row["global_batch_size"],
        **_asked(store.sweep_info(hardware_id, sweep), {str(plan.row["trial_id"]) for plan in plans}, sweep, folder),
    )
    return suite, row["workload_id"]


def _asked(info: Mapping[str, Any], trials: Collection[str], sweep: str, folder: Path) -> dict[str, Any]:
    """What the commands that repeat these trials say of what is trained."""
    commands = [str(command) for trial, command in (info.get("repeat") or {}).items() if trial in trials]
    asked = asked_by(commands[0]) if commands else None
    if asked is None or "workload" not in asked:
        raise InputError(
            f"the sweep {sweep!r} has no record of a command that says what it trained (a sweep of objects passed from "
            "Python has none); sweep with --workload, such as my_model.py:workload"
        )

    def seen(path: str, maybe_a_name: bool = False) -> str:
        left = os.path.isabs(path) or (maybe_a_name and not os.path.exists(path))
        return path if left else os.path.relpath(path, folder)

    paths: dict[str, Any] = {name: seen(asked[name]) for name in ("data", "tokenizer") if name in asked}
    given: dict[str, Any] = {name: asked[name] for name in OF_WORKLOAD if name in asked and name != "global_batch"}
    return {**given, **paths, "workload": with_path(asked["workload"], seen)}


def _kind(row: Row) -> str:
    if row["data_parallel"] != "none":
        return str(row["data_parallel"])
    return "tensor_parallel" if row["tp"] > 1 else "pipeline_parallel" if row["pp"] > 1 else "one-process"


def write(suite: Suite, path: Path) -> None:
    """Write the file of a suite.

    Raises:
        InputError: it exists already, or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(
                "# Watched every night by: python -m harness nightly run "
                + json.dumps(str(path))
                + "\n"
                + suite.to_toml()
            )
    except FileExistsError:
        raise InputError(f"{path} exists already; raise its version by hand, or choose another --output") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
