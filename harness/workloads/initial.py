"""Initial values from (seed, name, index) alone: the same bits on every device and for every number of ranks.

Random generators differ between devices, and on one kind of device between models of it. Here every element hashes its
own index, in 32-bit integers, and looks the result up in a table of the normal distribution, so nothing is computed in
floating point but one multiplication, which IEEE 754 rounds the same everywhere.
"""

from __future__ import annotations

import hashlib
import statistics
from functools import cache

import torch

METHOD = "hash of (seed, name, index), version 1"
"""Recorded beside curves: those of other initial values are another training's."""
QUANTILES = 1 << 16
"""Entries of the table; the largest is 4.17 standard deviations, and their variance is 0.9999."""
CHUNK = 1 << 18
"""Elements that are hashed at once, each chunk with keys of its own, so that what is computed stays in a cache."""


@cache
def quantiles() -> torch.Tensor:
    """`[QUANTILES]`, fp32, on the CPU: the middle of each of so many equal shares of a standard normal distribution."""
    normal = statistics.NormalDist()
    upper = [normal.inv_cdf((QUANTILES / 2 + i + 0.5) / QUANTILES) for i in range(QUANTILES // 2)]
    # Rounded far above the last digit of a double, in which mathematical libraries may differ.
    upper = [round(value * 2**24) / 2**24 for value in upper]
    return torch.tensor([-value for value in reversed(upper)] + upper, dtype=torch.float32)


def normal(seed: int, name: str, shape: tuple[int, ...], std: float, device: torch.device) -> torch.Tensor:
    """Normally distributed values of one parameter, fp32.

    The hash is a multiplicative one of two rounds (Ettinger 2018, github.com/skeeto/hash-prospector) with a key before
    each of them.

    Args:
        seed: of the workload.
        name: of the parameter; each has values of its own.
        shape: of the whole, undivided parameter.
        std: standard deviation.
        device: where the values are computed.
    """
    values = torch.empty(shape, device=device)
    flat, table = values.view(-1), quantiles().to(device)
    index = torch.arange(min(CHUNK, flat.numel()), dtype=torch.int32, device=device)
    hashed, beside = torch.empty_like(index), torch.empty_like(index)
    for number, part in enumerate(flat.split(CHUNK)):
        digest = hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()
        first, second = (int.from_bytes(digest[at : at + 4], signed=True) for at in (0, 4))
        x, scratch = hashed[: part.numel()], beside[: part.numel()]
        torch.bitwise_xor(index[: part.numel()], first, out=x)
        _mix(x, 16, scratch).mul_(0x7FEB352D).bitwise_xor_(second)
        _mix(x, 15, scratch).mul_(_signed(0x846CA68B))
        torch.index_select(table, 0, x.bitwise_right_shift_(16).bitwise_and_(QUANTILES - 1), out=part)
    return values.mul_(std)


def _mix(x: torch.Tensor, bits: int, scratch: torch.Tensor) -> torch.Tensor:
    """x ^= x >> bits, zeros coming in from the left: torch's shift brings in the sign."""
    torch.bitwise_right_shift(x, bits, out=scratch)
    return x.bitwise_xor_(scratch.bitwise_and_((1 << (32 - bits)) - 1))


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number
