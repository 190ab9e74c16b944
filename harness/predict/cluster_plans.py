"""Plans of a described cluster, ranked by the closed form: which trains a model fastest within its memory."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import strategies
from harness.errors import InputError
from harness.plan import Plan, complete
from harness.predict.devices import Cluster
from harness.predict.memory import MemoryUse, peak_memory
from harness.predict.setup import Setup
from harness.predict.shape import Shape
from harness.predict.time import step_time
from harness.search.space import Space
from strategies.facts import Facts, ModelFacts
from strategies.knob import Setting

SEARCHED = (
    "data_parallel",
    "dp",
    "tp",
    "pp",
    "micro_batch_size",
    "pp_schedule",
    "activation_checkpoint",
    "sequence_parallel",
    "reshard_after_forward",
)
"""Knobs that a prediction tells apart well enough to rank by; the others keep their defaults unless they are given."""
PRECISION = "bf16_params"
"""Number format of plans for which none is given: 16-bit weights with fp32 masters, as large models are trained."""
SAMPLES_A_DEVICE = 4
"""Samples of a global batch for each device, where none is given and the workload's own is smaller."""
LARGER = (2, 4, 8, 16, 32, 64)
"""How many times the nodes are looked at when a model is too large."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be trained, on what."""

    name: str
    """Of the workload."""
    model: ModelFacts
    seq_len: int
    """Tokens of one sequence."""
    global_batch: int
    """Samples of one optimizer step."""
    cluster: Cluster
    fixed: Mapping[str, Setting]
    """Knobs that are given."""
    sequences: int = 1
    """Of each sample: two of an encoder-decoder."""

    @property
    def shape(self) -> Shape:
        """The model as formulas see it."""
        return Shape.of_facts(self.model, self.seq_len)

    @property
    def facts(self) -> Facts:
        """What strategies may know."""
        return Facts(
            device_type="cuda",
            world_size=self.cluster.devices,
            global_batch_size=self.global_batch,
            seq_len=self.seq_len,
            workload=self.name,
            model=self.model,
            extras=frozenset(name for name in ("torchao",) if importlib.util.find_spec(name)),
            compiler=True,
        )


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One plan with what is predicted of it."""

    plan: Plan
    step_time_s: float
    tokens_per_s: float
    mfu: float
    shares: Mapping[str, float]
    """Part of a step -> its share of the step time: compute, communication, bubble, optimizer, fixed."""
    memory: Mapping[str, float]
    """Category -> bytes of the worst rank."""
    needed_bytes: float
    """What a device must have."""
    fits: bool


def default_batch(own: int, devices: int) -> int:
    """Global batch, in samples, where none is given."""
    return max(own, SAMPLES_A_DEVICE * devices)


def plans(question: Question) -> list[Plan]:
    """Every plan of the cluster over the searched knobs that its strategies can do.

    Tensor parallel groups stay inside a node: between nodes they are slower by an order of magnitude.

    Raises:
        InputError: there is none.
    """
    inside = question.cluster.device.devices_per_node
    found = [plan for plan in possible(question) if int(plan["tp"]) <= inside or "tp" in question.fixed]
    if not found:
        raise InputError(
            f"no plan of {question.name} can use {question.cluster.devices} devices with a global batch of "
            f"{question.global_batch} samples and tensor-parallel groups inside a node of {inside}; choose another "
            "--global-batch, or ask for one with --set tp=N"
        )
    return found


def possible(question: Question) -> list[Plan]:
    """Every plan of as many devices over the searched knobs that its strategies can do, wherever nodes end."""
    registry = [s for name, s in strategies.registry().items() if name not in strategies.OPT_IN]
    knobs = strategies.knobs(strategies.registry().values())
    usual = {knob.name: knob.default for knob in knobs if knob.name not in SEARCHED}
    fixed = {**usual, "precision": PRECISION, **question.fixed}
    space = Space(registry, knobs, question.facts, fixed=fixed, registered=tuple(strategies.registry().values()))
    return list(space.grid())


def rank(question: Question, found: Sequence[Plan], top: int | None = None) -> list[Ranked]:
    """Plans that fit, the fastest first and of equals the leanest, then those that do not fit, the leanest first.

    Args:
        question: what is asked.
        found: plans.
        top: how many of the first are returned; None for all.
    """
    device, shape = question.cluster.device, question.shape
    setup = Setup.stack([Setup.of_plan(plan, question.global_batch) for plan in found])
    times, memory = step_time(shape, setup, device), peak_memory(shape, setup, device)
    seconds, needed = _column(times.total, found), _column(memory.total, found)
    fits = needed <= device.memory_bytes
    order = np.lexsort((needed, np.where(fits, seconds, needed), ~fits))[:top]
    parts = {
        "compute": times.compute,
        "communication": times.exposed_communication,
        "bubble": times.bubble,
        "optimizer": times.optimizer,
        "fixed": times.fixed,
    }
    shares = {name: _column(value, found) / seconds for name, value in parts.items()}
    held = {name: _column(value, found) for name, value in memory_parts(memory).items()}
    rates, mfu = question.global_batch * question.sequences * question.seq_len / seconds, _column(times.mfu, found)
    return [
        Ranked(
            plan=found[at],
            step_time_s=float(seconds[at]),
            tokens_per_s=float(rates[at]),
            mfu=float(mfu[at]),
            shares={name: float(values[at]) for name, values in shares.items()},
            memory={name: float(values[at]) for name, values in held.items()},
            needed_bytes=float(needed[at]),
            fits=bool(fits[at]),
        )
        for at in order
    ]


def memory_parts(memory: MemoryUse) -> dict[str, Any]:
    """Categories of a device's memory, which add up to what it must have."""
    return {
        "parameters": memory.params,
        "gradients": memory.grads,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "logits": memory.logits,
        "buffers": memory.buffers,
        "allocator": memory.reserved - memory.allocated,
        "context": memory.context,
    }


def _column(value: Any, found: Sequence[Plan]) -> NDArray[np.float64]:
    return np.broadcast_to(np.asarray(value, dtype=np.float64), len(found))


def ask(question: Question, top: int | None = None) -> list[Ranked]:
    """The plans of a question, ranked, the first `top` of them.

    Raises:
        InputError: no plan fits; the sentence says how many devices would do.
    """
    ranked = rank(question, plans(question), top)
    if not ranked or not ranked[0].fits:
        raise InputError(_too_large(question, ranked))
    return ranked


def _too_large(question: Question, ranked: Sequence[Ranked]) -> str:
    device = question.cluster.device
    least = ranked[0].needed_bytes if ranked else math.inf
    said = (
        f"no plan of {question.name} fits {question.cluster.devices} x {device.name}: the leanest needs "
        f"{least / 2**30:,.1f} GiB on a device of {device.memory_bytes / 2**30:,.0f} GiB"
    )
    for factor in LARGER:
        larger = replace(question.cluster, nodes=question.cluster.nodes * factor)
        wider = replace(question, cluster=larger, global_batch=max(question.global_batch, larger.devices))
        try:
            found = rank(wider, plans(wider), 1)
        except InputError:
            continue
        if found and found[0].fits:
            return f"{said}; {larger.devices} devices would do"
    return f"{said}; not even {LARGER[-1]} times as many devices would do"


def settings(plan: Plan) -> dict[str, Setting]:
    """What has to be written down to have this plan."""
    return plan.differing(complete({}, strategies.knobs(strategies.registry().values())))
