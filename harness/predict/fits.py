"""The smallest number of each described device that trains a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.errors import InputError
from harness.plan import Plan
from harness.predict import devices
from harness.predict.cluster_plans import Question, Ranked, default_batch, possible, rank
from harness.predict.devices import Cluster, Device

MOST = 1024
"""Devices that are looked at, in powers of two."""
NOTHING = "no plan keeps its tensor-parallel groups inside a node"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What is predicted of one kind of device."""

    device: Device
    number: int | None
    """The smallest power of two that trains the model; None if no number up to `MOST` does."""
    nodes: int
    """Nodes that so many take."""
    best: Ranked | None
    """The fastest plan of so many; of `MOST`, if none fits, the leanest one; None if there is no plan at all."""
    reason: str
    """Why there is no number; "" if there is one."""


def fits(question: Question, global_batch: int | None, names: Sequence[str]) -> list[Fit]:
    """For each device the smallest number that trains a model.

    Args:
        question: what is asked; its cluster and its batch are replaced.
        global_batch: samples of a step; None for what a cluster of each size gets by default.
        names: of the devices.

    Raises:
        InputError: there is no plan for any of them, whatever the number.
    """
    waiting = {name: devices.device(name) for name in names}
    known: dict[int, list[Plan]] = {}
    found: dict[str, Fit] = {}
    for name, device in waiting.items():
        best: Ranked | None = None
        reason = ""
        for number in (2**power for power in range(int(math.log2(MOST)) + 1)):
            its = replace(
                question,
                cluster=_cluster(device, number),
                global_batch=global_batch or default_batch(question.global_batch, number),
            )
            try:
                if number not in known:
                    known[number] = possible(its)
                inside = its.cluster.device.devices_per_node
                plans = [plan for plan in known[number] if int(plan["tp"]) <= inside or "tp" in its.fixed]
                if not plans:
                    continue
                best = rank(its, plans, 1)[0]
            except InputError as error:  # no plan has so many ranks, or the device lacks a number format
                reason = str(error)
                continue
            if best is not None and best.fits:
                found[name] = Fit(device=device, number=number, nodes=its.cluster.nodes, best=best, reason="")
                break
        if name not in found:
            why = (reason or NOTHING) if best is None else _too_small(device, best)
            found[name] = Fit(device=device, number=None, nodes=0, best=best, reason=why)
    if all(fit.best is None for fit in found.values()):
        raise InputError(f"nothing up to {MOST:,} devices can run such a plan: {next(iter(found.values())).reason}")
    return list(found.values())


def _cluster(device: Device, number: int) -> Cluster:
    """So many devices, in one node as long as it has so many; adapters to the network come with devices."""
    inside = min(number, device.devices_per_node)
    network = device.network_bandwidth * inside / device.devices_per_node
    return Cluster(
        device=replace(device, devices_per_node=inside, network_bandwidth=network), nodes=math.ceil(number / inside)
    )


def _too_small(device: Device, best: Ranked) -> str:
    needed, has = best.needed_bytes / 2**30, device.memory_bytes / 2**30
    return f"none up to {MOST:,}: the leanest plan needs {needed:,.1f} GiB on a device of {has:,.0f} GiB"
