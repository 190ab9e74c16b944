"""Is there any plan that a memory limit leaves room for? The least that training state can take."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import InputError
from harness.machine.hardware import Hardware
from harness.predict.setup import PRECISIONS
from harness.sweeps.config import SweepConfig, parse_share
from strategies.base import Strategy
from strategies.facts import Facts

STATE_BYTES = {
    name: (PRECISIONS[name].weight, PRECISIONS[name].gradient, PRECISIONS[name].optimizer)
    for name in ("fp32", "tf32", "bf16_autocast", "fp16", "bf16_params", "bf16")
}
"""Precision -> bytes per parameter of weights, gradients, and optimizer state with master weights
(Rajbhandari et al. 2020, arXiv:1910.02054, section 3.1)."""

QUANTIZED_MOMENTS = 2
"""Bytes per parameter of two 4-bit moments and their scales, rounded up: the least a quantised optimizer holds."""


def smallest_state_bytes(strategies: Sequence[Strategy], precisions: Sequence[str], facts: Facts) -> int:
    """Bytes of parameters, gradients and optimizer state on each rank under the leanest plan in play."""
    names, world = {strategy.name for strategy in strategies}, facts.world_size
    least = min(_per_parameter(STATE_BYTES[p], names, world) for p in precisions)
    return int(least * facts.model.parameters)


def _per_parameter(state: tuple[float, float, float], names: set[str], world: int) -> float:
    weights, gradients, optimizer = state
    if "quantization" in names:
        optimizer = min(optimizer, optimizer - 8 + QUANTIZED_MOMENTS if optimizer >= 8 else optimizer)
    if names & {"zero3", "tensor_parallel", "pipeline_parallel"}:
        return (weights + gradients + optimizer) / world
    if "zero2" in names:
        return weights + (gradients + optimizer) / world
    if "zero1" in names:
        return weights + gradients + optimizer / world
    return weights + gradients + optimizer


def rank_memory_bytes(config: SweepConfig, machine: Hardware, world_size: int) -> int | None:
    """What one rank may hold, in B: the limit asked for, or its device's memory, or its share of the machine's."""
    if config.memory_limit_bytes is not None:
        return config.memory_limit_bytes
    if machine.device_type == "cpu":
        return machine.memory_bytes // world_size
    return machine.devices[0].memory_bytes


def memory_ceiling_bytes(config: SweepConfig, machine: Hardware, world_size: int) -> int | None:
    """What the winner's worst rank may have held, in B: the limit less the headroom; None if neither was asked for."""
    if config.headroom is None:
        return config.memory_limit_bytes
    whole = rank_memory_bytes(config, machine, world_size)
    if whole is None:
        raise InputError(
            f"--headroom is a share of a device's memory, which {machine.devices[0].name} does not say; "
            "give the memory of a rank with --memory-limit"
        )
    return int(whole * (1 - parse_share(config.headroom, "headroom")))


def check_memory_limit(config: SweepConfig, strategies: Sequence[Strategy], facts: Facts) -> None:
    """Raises InputError if the training state alone exceeds the limit whatever the plan."""
    limit = config.memory_limit_bytes
    if limit is None:
        return
    in_play = any(strategy.name == "precision" for strategy in strategies)
    precisions = config.precision or (tuple(STATE_BYTES) if in_play else ("fp32",))
    least = smallest_state_bytes(strategies, [p for p in precisions if p in STATE_BYTES], facts)
    if least > limit:
        raise InputError(
            f"a memory limit of {config.memory_limit} a rank is below the {least / 2**20:.1f} MiB that parameters, "
            f"gradients and optimizer state of {facts.workload} take on each of {facts.world_size} ranks at the least; "
            "raise the limit, use more ranks or a smaller model"
        )
