"""This machine as the closed form sees it: what its ranks were measured to do at once (`harness.rank.calibration`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.predict.devices import Device, Efficiency
from harness.predict.probe_factors import with_probes

OPERATORS_A_LAYER = 120
"""Operators that the host launches for a layer's forward and backward pass."""
OPERATORS_A_STEP = 400
"""Operators of a step outside its layers: batch, loss, clipping, optimizer."""
ADAMW_BYTES = 28
"""Memory traffic of fused AdamW in fp32: it reads four numbers of a parameter and writes three."""
LOGIT_BYTES = 48
"""Memory traffic of a logit: product, cast, softmax and their gradients, a dozen fp32 reads and writes."""
HALF_DIMS = (0.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


def measured(calibration: Mapping[str, Any], world_size: int, memory_bytes: int) -> Device:
    """One rank's share of this machine as a device.

    Args:
        calibration: what `harness.rank.calibration` wrote.
        world_size: ranks that measured at once.
        memory_bytes: what a rank may hold.
    """
    products = calibration["matmul"]
    half_dim = _half_dim(products)
    formats = sorted({product["format"] for product in products})
    peaks = {name: _peak([p for p in products if p["format"] == name], half_dim) for name in formats}
    tables = calibration.get("collectives")
    latency, bandwidth = (0.0, math.inf) if tables is None else _line(tables["all_reduce"], world_size)
    if tables is not None and "send" in tables:  # gloo's own all-reduce begins late, and strategies send point to point
        latency = min(latency, tables["send"][0][1])
    rounds = max(1.0, math.log2(world_size))
    operator = float(calibration["operator_s"])
    device = Device(
        name="this machine",
        memory_bytes=memory_bytes,
        peak_flops=peaks | {"fp16": peaks["bf16"]},
        memory_bandwidth=float(calibration["elementwise_bytes_per_s"]),
        link_bandwidth=bandwidth,
        devices_per_node=max(1, world_size),
        network_bandwidth=bandwidth,
        context_bytes=float(calibration.get("context_bytes", 0.0)),
        source="measured by harness.rank.calibration",
        efficiency=Efficiency(
            matmul_share=1.0,
            half_dim=half_dim,
            attention_share=_attention_share(calibration, peaks),
            memory_share=1.0,
            host_layer_s=OPERATORS_A_LAYER * operator,
            host_collective_s=operator,
            link_share=1.0,
            link_latency_s=latency / rounds,
            network_share=1.0,
            network_latency_s=latency / rounds,
            optimizer_bytes=ADAMW_BYTES,
            logit_bytes=LOGIT_BYTES,
            fixed_s=OPERATORS_A_STEP * operator,
        ),
        fitted="this machine's own calibration",
    )
    return with_probes(device, calibration)


def _attention_share(calibration: Mapping[str, Any], peaks: Mapping[str, float]) -> float:
    """Share of the dense peak that causal attention reaches, half of its scores masked; 1 if none was measured."""
    found = calibration.get("attention", [])
    return float(np.median([a["flops"] / a["seconds"] / peaks[a["format"]] for a in found])) if found else 1.0


def _filling(product: Mapping[str, Any], half_dim: float) -> float:
    return float(math.prod(1 + half_dim / product[side] for side in ("m", "n", "k")))


def _peak(products: Sequence[Mapping[str, Any]], half_dim: float) -> float:
    """Rate that products of endless size would have: the median of what each of them says."""
    return float(np.median([p["flops_per_s"] * _filling(p, half_dim) for p in products]))


def _half_dim(products: Sequence[Mapping[str, Any]]) -> float:
    """The size at which a dimension halves the rate that explains the products best."""

    def spread(half_dim: float) -> float:
        total = 0.0
        for name in {product["format"] for product in products}:
            rates = [math.log(p["flops_per_s"] * _filling(p, half_dim)) for p in products if p["format"] == name]
            total += float(np.mean(np.abs(np.array(rates) - np.median(rates))))
        return total

    return min(HALF_DIMS, key=spread)


def _line(table: Sequence[tuple[int, float]], world_size: int) -> tuple[float, float]:
    """(latency in s, bandwidth in B/s) of a ring all-reduce by size."""
    (small, first), (large, last) = table[0], table[-1]
    volume = 2 * (world_size - 1) / world_size
    return min(first, last), volume * (large - small) / max(last - first, 1e-9)
