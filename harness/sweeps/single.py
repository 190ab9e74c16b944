"""One plan, run once: given as settings, as a TOML file, or as the id of a plan in the results folder."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

import strategies
from harness import launchers
from harness.errors import InputError, UnknownNameError
from harness.plan import Plan, parse_settings
from harness.rank import preload_for
from harness.search.feasible import why_not
from harness.store.records import Role, Source
from harness.store.store import Store
from harness.sweeps.config import load_config
from harness.sweeps.display import waited
from harness.sweeps.experiment import prepare
from harness.sweeps.references import references_of
from harness.sweeps.runners import calibrated, make_runner
from harness.trial.recorder import Launched, Result
from strategies.knob import Setting


def run_once(
    plan_id: str | None, path: Path | None, pairs: list[str], options: Mapping[str, Any], console: Console
) -> Result:
    """Check, launch and record one plan.

    Args:
        plan_id: of a plan in the store, or None.
        path: a TOML file with knobs, or None.
        pairs: NAME=VALUE; these win over the file.
        options: fields of SweepConfig.
        console: where it is said how far data are prepared, and what losses are compared with.

    Raises:
        InputError: a plan that cannot run, with the reason, or options that cannot be used.
    """
    config = load_config(None, options)
    experiment = prepare(config)
    store = Store(config.results)
    if plan_id is not None:
        if path is not None or pairs:
            raise InputError("give a plan id, or --plan and --set, but not both")
        plan = _recorded(store, plan_id)
    else:
        knobs = strategies.knobs(strategies.registry().values())
        plan = experiment.plan({**_from_file(path), **parse_settings(pairs, knobs)})
    if config.world_size is None:
        experiment = replace(experiment, world_size=plan.world_size)
    workload = next(iter(experiment.workloads.values()))
    reason = why_not(plan, experiment.facts(workload), strategies.registry().values())
    if reason is not None:
        raise InputError(f"this plan cannot run: {reason}")
    with waited(console):
        workload.prepare()
    with launchers.create("local", preload_for(config.workload)) as launcher:
        launcher.warm_up()
        say = partial(console.print, highlight=False, markup=False)
        runner = make_runner(experiment, launcher, store, config.name or "runs")
        references, facts = references_of(experiment, runner, say), experiment.facts(workload)
        twin = references.twin(plan, workload)
        known = references.columns(workload, twin)
        if twin is not None and not twin.passed:
            return runner.refuse(plan, workload, str(twin.reason), None, known, twin.outcome, Role.RUN)
        calibrated(experiment, runner, probed=False)
        profile = runner.profile(plan, workload, facts)[0]
        return runner.run(plan, workload, facts, Launched(beside={**profile, **known}))


def _from_file(path: Path | None) -> dict[str, Setting]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the plan {path} cannot be read: {error}") from None


def _recorded(store: Store, plan_id: str) -> Plan:
    # An earlier version called a plan that it recorded in other words by another id.
    for as_recorded in (False, True):
        trials = store.trials(as_recorded=as_recorded)
        found = trials[trials["plan_id"] == plan_id]
        if not found.empty:
            last = found.iloc[-1]
            if last["source"] == Source.SCRIPT:
                raise InputError(
                    f"{plan_id} is a plan of the script {last['workload']}; the sweep's page has the command that "
                    "repeats it: watch --knobs FILE --set NAME=VALUE"
                )
            return Plan.from_json(last["knobs"], int(last["schema_version"]) if as_recorded else None)
    raise UnknownNameError("plan", plan_id, set(trials["plan_id"]))
