"""A suite from what a sweep found: its winner, and the best of each strategy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import strategies
from harness.errors import InputError
from harness.nightly.suite import Suite
from harness.plan import Plan
from harness.store.records import SCHEMA_VERSION, Outcome, Role
from harness.store.standings import Row, order, standings
from harness.store.store import Store
from strategies.knob import Setting


def from_sweep(store: Store, hardware_id: str, sweep: str, name: str) -> Suite:
    """The suite of a sweep's first workload.

    Raises:
        InputError: no trial of the sweep is ok, or no file can name what it trained.
    """
    request = store.sweep_info(hardware_id, sweep).get("request", {})
    if request is None:
        raise InputError(f"what the sweep {sweep!r} trained was passed to it from Python, and no suite can name that")
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
    schema = SCHEMA_VERSION
    return Suite(
        name=name,
        schema_version=schema,
        plans={**winner, **chosen},
        world_size=row["world_size"],
        **({"workload": row["workload"]} | dict(request)),
    )


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
