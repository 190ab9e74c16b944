"""What was derived of a workload, whether it keeps its contract, and which ways of training it are refused, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from harness.errors import InputError
from harness.rank.main import build
from harness.sweeps.experiment import Experiment
from harness.workloads import hollow, initial
from harness.workloads.hf import Hf
from harness.workloads.own import Own
from harness.workloads.surveying import pure
from harness.workloads.workload import Workload
from strategies import dropout as dropping

CLOSE = 1e-4
"""Relative difference between the loss of two samples and the sum of their own: fp32, other shapes of products."""


@dataclass(frozen=True)
class Line:
    """One thing that was found."""

    state: str
    """ "derived", "ok" or "refused"."""
    name: str
    """Of the fact, the check, or the plan."""
    found: str
    """In words."""


def examine(experiment: Experiment) -> Iterator[Line]:
    """Facts, checks, then the plan that shows each way of using each strategy.

    Raises:
        InputError: the data cannot be used, a batch is not a function of (step, index), or losses do not add up.
        StoreError: prepared data cannot be written.
    """
    workload = next(iter(experiment.workloads.values()))
    if isinstance(workload, Hf):
        workload.examples.prepare()  # its batches are read from what a sweep would prepare
    yield from _facts(workload)
    for step in (0, 1):
        pure(workload.samples, step, min(2, workload.global_batch_size))
    yield Line("ok", "batches", "the same for the same (step, index), alone or with others")
    _additive(experiment, workload)
    yield Line("ok", "loss", "of two samples is the sum of their losses, and so is their number")
    (space,) = list(experiment.spaces().values())[:1]
    default = {knob.name: knob.default for knob in space.knobs}
    for plan in space.showcases():
        reason = space.why_not(plan)
        settings = ", ".join(f"{name}={value}" for name, value in _shown(plan.differing(default)).items())
        yield Line("refused" if reason else "ok", settings or "one process", reason or "may run")


def _shown(settings: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name not in ("micro_batch_size", "bucket_mb")}


def _facts(workload: Workload) -> Iterator[Line]:
    facts = workload.facts()
    with hollow.parameters():
        model = workload.build()
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    yield Line("derived", "parameters", f"{facts.parameters:,}, {frozen:,} of them frozen")
    yield Line("derived", "inputs", ", ".join(workload.inputs))
    yield Line("derived", "blocks", ", ".join(facts.blocks) or "none")
    yield Line("derived", "shared weights", "yes" if facts.tied else "none")
    counted = "counted in every step" if workload.predictions is None else f"{workload.predictions:g}"
    yield Line("derived", "predictions", f"{counted} of a sample" if workload.predictions else counted)
    real = workload.real_tokens(0)
    if real is not None:
        share = f"{real:,} of {workload.tokens_per_step:,} tokens of the first step"
        yield Line("derived", "without padding", share)
    for note in workload.notes:
        yield Line("derived", "data", note)
    dropout = f"set to 0 in {', '.join(workload.dropped)}" if workload.dropped else "none"
    yield Line("derived", "dropout", "kept, with the same masks in every plan" if facts.keeps_dropout else dropout)
    yield Line(
        "derived", "stages", f"after {', '.join(facts.stem)}" if facts.stream else f"none: {facts.whole_because}"
    )
    if isinstance(workload, Own | Hf):
        unused = workload.survey.unused
        yield Line("derived", "without use", f"{', '.join(unused)}: frozen" if unused else "none")
    yield Line("derived", "FLOPs", f"{workload.flops_per_step():.3g} a step of {workload.global_batch_size} samples")


def _additive(experiment: Experiment, workload: Workload) -> None:
    count = min(2, workload.global_batch_size)

    def values(name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        return initial.normal(workload.seed, name, shape, 0.02, device)

    plan = experiment.reference_plan(workload)
    training = build(workload, plan, experiment.facts(workload, 1), torch.device("cpu"), values)
    model: nn.Module = training.parts[0]

    @torch.no_grad()
    def loss(indices: np.ndarray) -> tuple[float, float]:
        batch = workload.samples(0, indices)
        with dropping.at(dropping.Place(step=0, first=int(indices[0]), samples=len(indices))):
            outputs = model(*training.given(batch).values())
        total, number = workload.loss(outputs, batch)
        return float(total), float(number)

    each = [loss(np.array([index])) for index in range(count)]
    whole, sums = loss(np.arange(count)), [sum(values) for values in zip(*each, strict=True)]
    names = ("loss", "number of predictions")
    for at, (what, found, expected) in enumerate(zip(names, whole, sums, strict=True)):
        parts = [f"{one[at]:g}" for one in each]
        if abs(found - expected) > CLOSE * max(abs(expected), 1e-6):
            raise InputError(
                f"the {what} of {count} samples must be the sum of theirs, but is {found:g} where they have "
                f"{' and '.join(parts)}; return sums, no means"
            )
