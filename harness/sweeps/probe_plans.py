"""Which short trainings tell most about a space: one for each way of computing, of updating and of dividing it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product

import strategies
from harness.errors import InputError
from harness.plan import COMPUTES, Plan, complete
from harness.predict.setup import MOMENTS
from harness.search import feasible
from harness.sweeps.experiment import Experiment
from strategies.facts import Facts
from strategies.knob import Setting

MOST_SAMPLES = 8
"""Largest micro-batch of a short training."""
Settings = Mapping[str, Setting]


def probes(experiment: Experiment) -> tuple[Plan, ...]:
    """Plans for `harness.rank.probe`, what matters most first.

    By the plans that show each strategy: every precision, quantisation and recomputation, with as many samples as a
    rank can have at once and with one, on one rank; then every kind of data parallelism and tensor parallelism, on all
    ranks, the latter in every precision, as what it sends is; then two choices together.
    """
    workload = next(iter(experiment.workloads.values()))
    facts, world = experiment.facts(workload), experiment.world_size
    space = experiment.spaces()[workload.global_batch_size]
    shown = [plan for plan in space.showcases() if space.why_not(plan) is None]
    if not shown:
        return ()
    usual = {name: shown[0][name] for name in COMPUTES}
    one, two = _ways(shown, usual)
    divided = [usual | settings for plan in shown if (settings := _divided(plan, world))]
    alike = _alike(shown)
    formats = dict.fromkeys(plan["precision"] for plan in shown if plan["precision"] not in alike)
    divided += [settings | {"precision": of} for settings in divided if "tp" in settings for of in formats]
    samples = _most(workload.global_batch_size, world)
    wanted = [
        {**settings, "micro_batch_size": size}
        for settings in (*one, *divided)
        for size in _sizes(settings, samples if "tp" not in settings else _most(workload.global_batch_size, 1))
    ]
    wanted += [{**settings, "micro_batch_size": samples} for settings in two]
    if experiment.hardware.devices:  # where what compiles its kernels may take all the time there is
        wanted.sort(key=lambda settings: settings["quantization"] != "none")
    found = [_plan(settings, experiment, facts) for settings in wanted]
    return tuple(dict.fromkeys(plan for plan in found if plan is not None))


def _ways(shown: Sequence[Plan], usual: Settings) -> tuple[list[Settings], list[Settings]]:
    """The ways to compute that differ from the usual one in at most one choice, and in two.

    Of two choices, moments have nothing to do with the others, and recomputing everything is a forward pass; layers in
    bf16 compute alike whatever the optimizer does.
    """
    values = {name: list(dict.fromkeys(plan[name] for plan in shown)) for name in COMPUTES}
    kinds = values["activation_checkpoint"]
    if "nth" in kinds:  # computed from the two it lies between
        kinds[:] = dict.fromkeys("full" if kind == "nth" else kind for kind in kinds)
    alike = _alike(shown)
    one: list[Settings] = [usual]
    two: list[Settings] = []
    for name in COMPUTES:
        one += [{**usual, name: value} for value in values[name] if value != usual[name]]
    for first, second in combinations(COMPUTES, 2):
        for left, right in product(values[first], values[second]):
            if left == usual[first] or right == usual[second] or {left, right} & {*MOMENTS, *alike, "full"}:
                continue
            two.append({**usual, first: left, second: right})
    return one, two


def _alike(shown: Sequence[Plan]) -> set[Setting]:
    """Precisions whose layers compute as those of another one."""
    return {"bf16"} if any(plan["precision"] == "bf16_params" for plan in shown) else set()


def _most(global_batch: int, dp: int) -> int:
    """The largest micro-batch that divides the share of each of `dp` ranks and is measured."""
    return max((n for n in range(1, MOST_SAMPLES + 1) if global_batch % (n * dp) == 0), default=1)


def _sizes(settings: Settings, most: int) -> tuple[int, ...]:
    """Micro-batches: one where only the update is asked about, most where only the exchange of gradients is."""
    if settings["quantization"] in MOMENTS:
        return (1,)
    return (most,) if int(settings.get("dp", 1)) > 1 else tuple(dict.fromkeys((most, 1)))


def _divided(plan: Plan, world: int) -> dict[str, Setting]:
    """How a plan divides the work, if it does so in one way over all ranks; {} if not."""
    if world == 1:
        return {}
    if plan["tp"] == world:
        return {"tp": world, "sequence_parallel": plan.get("sequence_parallel", False)}
    return {"dp": world, **_of_kind(plan)} if plan["dp"] == world else {}


def _of_kind(plan: Plan) -> dict[str, Setting]:
    """The data parallelism of a plan with the choices that belong to it."""
    kind = plan["data_parallel"]
    knobs = strategies.knobs(strategies.registry().values())
    own = {knob.name for knob in knobs if "data_parallel" in knob.when and knob.name in plan}
    return {"data_parallel": kind, **{name: value for name, value in plan.items() if name in own}}


def _plan(settings: Settings, experiment: Experiment, facts: Facts) -> Plan | None:
    """The plan with these settings, if it can run."""
    try:
        plan = complete(settings, experiment.knobs)
    except InputError:  # a choice that does not exist beside the others
        return None
    samples = int(plan["dp"]) * int(plan["micro_batch_size"])
    its = replace(facts, world_size=plan.world_size, global_batch_size=samples)
    return plan if feasible.why_not(plan, its, strategies.registry().values()) is None else None
