"""What a machine was measured to do: its peak, and what its ranks do at once; measured once, then kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from harness.machine import load
from harness.plan import Plan
from harness.trial.runner import Runner
from harness.workloads.workload import Workload
from strategies.facts import Facts


def peaks(runner: Runner, plan: Plan, workload: Workload, facts: Facts, *, anew: bool = False) -> dict[str, Any] | None:
    """What the machine multiplies and copies at most: from the store, or measured by one process now.

    Args:
        runner: what launches.
        plan: one rank.
        workload: any.
        facts: those of a world of one rank.
        anew: whether it is measured although it is known.

    Returns:
        What `harness.rank.peak` writes, with the number of usable cores; None if it could not be measured.
    """
    known = runner.store.peaks(runner.hardware_id) or {}
    if "flops_per_s" in known and not anew and not disturbed(known):
        return known
    from harness.rank import peak  # imports torch

    found = runner.apart(plan, workload, facts, peak.main, peak.FILE)
    if found is None:
        return None
    runner.store.write_peaks(runner.hardware_id, {**known, **found, "usable_cores": runner.cores})
    return found


def disturbed(found: Mapping[str, Any]) -> bool:
    """Whether others took so much of the machine while it was measured that the next run must measure it again."""
    return float(found.get("foreign_cpu_share") or 0.0) > load.FOREIGN_SHARE


def ranks(
    runner: Runner, plan: Plan, workload: Workload, facts: Facts, *, probes: Sequence[Plan] = (), anew: bool = False
) -> dict[str, Any] | None:
    """What the ranks of a plan do at once: from the store, or measured now, in about 5 s and those of the probes.

    Args:
        runner: what launches.
        plan: any, of as many ranks as are asked about.
        workload: its shapes are measured.
        facts: those of that world.
        probes: plans of which short trainings are measured (`harness.rank.probe`).
        anew: whether it is measured although it is known.

    Returns:
        What `harness.rank.calibration` writes; None if it could not be measured.
    """
    known = runner.store.peaks(runner.hardware_id) or {}
    by_size: dict[str, Any] = dict(known.get("interconnect", {}))
    size, shapes = str(plan.world_size), [facts.model.width, facts.model.hidden, facts.seq_len]
    here, asked = by_size.get(size, {}), {plan.plan_id for plan in probes}
    same = here.get("shapes") == shapes
    if anew or not same or disturbed(here) or not asked <= set(here.get("asked", [])):
        from harness.rank import calibration as measured  # imports torch

        target = partial(measured.main, plans=tuple(probes))
        found = runner.apart(plan, workload, facts, target, measured.FILE)
        if found is None:
            return None
        if same and not anew and not disturbed(here):  # other sweeps asked for other plans
            rows = [*found.get("probes", []), *here.get("probes", [])]
            latest = {json.dumps(row["plan"], sort_keys=True): row for row in reversed(rows)}
            found |= {"probes": list(latest.values())[::-1]}
            asked |= set(here.get("asked", []))
        by_size[size] = {**found, "shapes": shapes, "asked": sorted(asked)}
        runner.store.write_peaks(runner.hardware_id, {**known, "interconnect": by_size})
    return dict(by_size[size])
