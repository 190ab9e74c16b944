"""What `replay` does: searches recorded exhaustive grids as if they were live.

A grid is a group of a table of published runs, or a sweep of the results folder that tried every plan of its space.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import InputError, UnknownNameError
from harness.plan import Plan
from harness.predict import devices, table, this_machine
from harness.predict.devices import Device
from harness.predict.fit import Observed, fit
from harness.predict.setup import Setup
from harness.predict.shape import Shape
from harness.predict.time import step_time
from harness.search import samplers
from harness.search.replay import Case, Grid, Summary, Table, compare
from harness.store import standings
from harness.store.records import Outcome, Role
from harness.store.standings import USABLE
from harness.store.store import Store

ENOUGH = 20
"""Runs of other models that constants can be fitted to."""
FIELDS = ("data_parallel", "tp", "pp", "dp", "micro_batch", "activation_checkpoint", "stages_per_rank", "compile")
"""In which runs of one group of a table can differ."""


def of_table(
    path: Path,
    hardware: str,
    *,
    others: Sequence[Path] = (),
    names: Sequence[str],
    budget: int,
    repeats: int,
    as_json: bool,
) -> int:
    """Search each group of a table: runs of the same devices, model, sequence length and global batch.

    Args:
        path: the table.
        hardware: what it was measured on.
        others: tables of the same hardware that constants may be fitted to as well.
        names: samplers.
        budget: launches of a search.
        repeats: of each search.
        as_json: whether to print JSON.

    Raises:
        InputError: a row without a measured time, or no two rows of one group.
    """
    _check(names)
    device, runs = devices.device(hardware), table.read_table(path)
    if any(run.seconds is None for run in runs):
        raise InputError(f"{path} has rows without a measured time, so it cannot be searched")
    groups: dict[Any, list[table.Run]] = defaultdict(list)
    for run in runs:
        groups[run.gpus, run.shape, run.setup.global_batch].append(run)
    members = {f"group {n}": found for n, found in enumerate(groups.values(), 1) if len(found) > 1}
    if not members:
        raise InputError(f"{path} has no two rows of one group, so there is nothing to search")
    grids = [_grid(name, found) for name, found in members.items()]
    more = [run for other in others for run in table.read_table(other) if run.seconds is not None]
    guides = _without_own(device, runs, members, more)
    found = compare(grids, names, budget=budget, repeats=repeats, guide_of=lambda grid: Table(guides[grid.name]))
    return _say(grids, found, budget, as_json)


def of_sweep(root: Path, sweep: str, *, names: Sequence[str], budget: int, repeats: int, as_json: bool) -> int:
    """Search the plans of a recorded sweep.

    The guided sampler is told what the closed form makes of the machine's calibration, and nothing of the trials.

    Raises:
        UnknownNameError: no such sweep.
        InputError: it has fewer than two plans that ran, or its machine was not calibrated.
    """
    _check(names)
    grid, guide = recorded(Store(root), sweep)
    found = compare([grid], names, budget=budget, repeats=repeats, guide_of=lambda grid: guide)
    return _say([grid], found, budget, as_json)


def recorded(store: Store, sweep: str) -> tuple[Grid, Table]:
    """A sweep as a grid, and what the closed form predicts of it. Of several launches of a plan the first counts."""
    rows = [row for row in store.rows(sweep) if row["role"] in (Role.SEARCH, Role.AGAIN)]
    if not rows:
        raise UnknownNameError("sweep", sweep, {name for _, name in store.sweeps()})
    cases: dict[Plan, Case] = {}
    for row in rows:
        if row["outcome"] == Outcome.INFEASIBLE or row["study_trial"] is None:
            continue
        plan, usable = Plan.from_json(row["knobs"]), row["outcome"] in USABLE
        wall = standings.wall(row)
        cases.setdefault(plan, Case(plan=plan, step_time_s=row["step_time_s"] if usable else None, wall_s=wall))
    if sum(case.step_time_s is not None for case in cases.values()) < 2:
        raise InputError(f"the sweep {sweep!r} has fewer than two plans that ran, so there is nothing to search")
    first = rows[0]
    grid = Grid(name=sweep, global_batch_size=int(first["global_batch_size"]), cases=list(cases.values()))
    return grid, Table(_predicted(store, first, list(cases)))


def _predicted(store: Store, row: Mapping[str, Any], plans: Sequence[Plan]) -> dict[Plan, float]:
    """Step times by the closed form from the calibration of the machine that a row was recorded on."""
    world = int(row["world_size"])
    calibration = (store.peaks(row["hardware_id"]) or {}).get("interconnect", {}).get(str(world), {})
    shape = store.sweep_info(row["hardware_id"], row["sweep"]).get("workload", {}).get("shape")
    if "matmul" not in calibration or shape is None:
        raise InputError(
            f"the sweep {row['sweep']!r} was recorded without a calibration of {row['hardware_id']} with {world} "
            "ranks; run it again with this version"
        )
    device = this_machine.measured(calibration, world, 1 << 40)
    model, batch = Shape(**shape), int(row["global_batch_size"])
    return {plan: float(step_time(model, Setup.of_plan(plan, batch), device).total) for plan in plans}


def _check(names: Sequence[str]) -> None:
    if not names:
        raise InputError(f"--samplers names at least one of {', '.join(samplers.names())}")
    for name in names:
        samplers.check(name, 1)


def _grid(name: str, found: Sequence[table.Run]) -> Grid:
    cases = {_plan(run): Case(plan=_plan(run), step_time_s=run.seconds) for run in found}
    return Grid(name=name, global_batch_size=int(found[0].setup.global_batch), cases=list(cases.values()))


def _plan(run: table.Run) -> Plan:
    found = []
    for name in FIELDS:
        value = getattr(run.setup, name)
        found.append((name, value.item() if hasattr(value, "item") else value))
    return Plan(tuple(found))


def _without_own(
    device: Device, runs: Sequence[table.Run], members: Mapping[str, Sequence[table.Run]], more: Sequence[table.Run]
) -> dict[str, dict[Plan, float]]:
    """Group -> plan -> predicted seconds, by constants that were fitted to no run of a model of the group's width.

    The constants that a description ships may have been fitted to the very table. So they are fitted again, from the
    same priors, to the runs of all other widths; where there are too few of them the priors alone count.
    """
    fitted: dict[Any, Device] = {}
    guides = {}
    for name, found in members.items():
        width = int(found[0].shape.width)
        if width not in fitted:
            fitted[width] = _fitted(device, [run for run in (*runs, *more) if run.shape.width != width])
        guides[name] = {_plan(run): float(step_time(run.shape, run.setup, fitted[width]).total) for run in found}
    return guides


def _fitted(device: Device, runs: Sequence[table.Run]) -> Device:
    if len(runs) < ENOUGH:
        return fit(device, [])
    shape, setup = table.stacked(runs)
    return fit(device, [Observed(shape=shape, setup=setup, seconds=np.array([run.seconds for run in runs]))])


def _say(grids: Sequence[Grid], found: Sequence[Summary], budget: int, as_json: bool) -> int:
    rows = [summary.to_json() for summary in found]
    if as_json:
        sizes = [len(grid.cases) for grid in grids]
        print(json.dumps({"groups": len(grids), "plans": sizes, "budget": budget, "samplers": rows}))
        return 0
    plans = sum(len(grid.cases) for grid in grids)
    print(f"{len(grids)} groups with {plans} plans, {budget} launches each; until a plan within 2 % of the best:")
    print(
        f"{'sampler':8} {'mean':>6} {'median':>6} {'p90':>4} {'not found':>9} {'regret after 1':>14} {'saved':>6} "
        f"{'wall s':>7}"
    )
    for row in rows:
        print(
            f"{row['sampler']:8} {row['launches_to_2_percent_mean']:6.2f} {row['launches_to_2_percent_median']:6.1f} "
            f"{row['launches_to_2_percent_p90']:4} {row['not_found']:9} {row['regret_after'][0]:14.1%} "
            f"{row['launches_saved']:6.0%} {row['wall_to_2_percent_s']:7.1f}"
        )
    return 0
