"""Descriptions of devices and clusters: what data sheets say, and which share of it training has been seen to reach.

A description is a TOML file; those of this package lie in `devices/`. Bandwidths are in one direction.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import InputError, UnknownNameError
from harness.predict.factors import Factors
from harness.predict.setup import Setup
from harness.predict.shape import Number

FOLDER = Path(__file__).with_name("devices")

ALIASES = {"a100": "a100-80", "rtx4090": "rtx 4090", "4090": "rtx 4090"}
"""Other names that people use."""


TF32_OF_BF16 = 0.5
"""The dense peak in TF32 as a share of that in bf16 (data sheets of A100, H100, L40S, B200)."""


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """What a fit to measured steps says of a device: shares of its data sheet, and fixed costs."""

    matmul_share: Number
    """Share of the dense peak that a large matrix product reaches."""
    half_dim: Number
    """A product's rate is divided by 1 + half_dim / d for each of its three dimensions d."""
    attention_share: Number
    """Share of the dense peak that fused attention reaches."""
    memory_share: Number
    """Share of the memory bandwidth that element-wise operators reach."""
    host_layer_s: Number
    """Seconds in which the host launches the forward pass, recomputation and backward pass of a layer."""
    host_collective_s: Number
    """Seconds in which the host launches one collective."""
    link_share: Number
    """Share of the bandwidth inside a node that a ring reaches."""
    link_latency_s: Number
    """Latency of a collective inside a node, times the logarithm of its ranks (base 2)."""
    network_share: Number
    """Share of a node's network bandwidth that a ring reaches."""
    network_latency_s: Number
    """Latency of a collective between nodes, times the logarithm of its nodes (base 2)."""
    optimizer_bytes: Number
    """Bytes of memory traffic for each parameter that a rank updates."""
    logit_bytes: Number
    """Bytes of memory traffic for each logit, forward and backward."""
    fixed_s: Number
    """Seconds of a step that depend on nothing."""


@dataclass(frozen=True, kw_only=True)
class Validated:
    """How far predictions of steps that no constant was fitted to have been off."""

    median: float
    """Relative error of the step time."""
    p95: float
    """Relative error that 95 % of the runs stay below."""
    runs: int
    what: str
    """Which runs."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator in a node of its usual kind."""

    name: str
    memory_bytes: float
    """Memory of one device, as its driver reports it."""
    peak_flops: Mapping[str, float]
    """Number format -> dense peak of matrix products in FLOP/s."""
    memory_bandwidth: float
    """Bytes per second to and from the device's own memory."""
    link_bandwidth: float
    """Bytes per second from one device to the others of its node."""
    devices_per_node: int
    network_bandwidth: float
    """Bytes per second from one node to others, all its adapters together."""
    context_bytes: float
    """Memory that the driver's context and communicators take before anything is allocated."""
    source: str
    """Where the figures are from."""
    efficiency: Efficiency
    fitted: str
    """Where the efficiency is from."""
    validated: Validated | None = None
    """None if no run of this device was compared with its prediction."""

    def peak(self, compute: Any) -> Number:
        """Dense peak in FLOP/s for a number format, or for an array of them.

        Raises:
            InputError: the device has no products in this format.
        """
        if isinstance(compute, str):
            if compute == "tf32" and "tf32" not in self.peak_flops and "bf16" in self.peak_flops:
                return self.peak_flops["bf16"] * TF32_OF_BF16
            if compute not in self.peak_flops:
                raise InputError(f"{self.name} has no peak for {compute}, only for {', '.join(self.peak_flops)}")
            return self.peak_flops[compute]
        kinds, index = np.unique(compute, return_inverse=True)
        return np.array([self.peak(str(kind)) for kind in kinds])[index]

    @property
    def probed(self) -> bool:
        """Whether short trainings were measured on it."""
        return False

    def factors(self, setup: Setup) -> Factors:
        """How the closed form is scaled on it, for one setup or for arrays: not at all."""
        return Factors()

    def gain(self, kind: str) -> float:
        """How much faster products in float8 or int8 are than in bf16; 1 where the device has none."""
        return self.peak_flops.get(kind, self.peak_flops["bf16"]) / self.peak_flops["bf16"]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal nodes of equal devices; `device` is described for nodes of this size."""

    device: Device
    nodes: int

    @property
    def devices(self) -> int:
        """Devices of all nodes."""
        return self.nodes * self.device.devices_per_node


def names() -> tuple[str, ...]:
    """The devices that this package describes."""
    return tuple(sorted(_descriptions()))


def device(name: str) -> Device:
    """The description of a device, by its name (in any case) or by the path of a TOML file.

    Raises:
        UnknownNameError: nothing of this name is described.
        InputError: the file cannot be read, or lacks a figure.
    """
    if name.lower().endswith(".toml"):
        return _read(Path(name))
    by_name = {known.lower(): path for known, path in _descriptions().items()}
    wanted = re.sub(r"(-\d+)gb?$", r"\1", name.strip().lower())
    path = by_name.get(ALIASES.get(wanted, wanted))
    if path is None:
        raise UnknownNameError("device", name, names())
    return _read(path)


def parse_cluster(text: str) -> Cluster:
    """`64x8xH100` (nodes x devices of a node x device), `8xH100` (one node), `H100` (one node of the usual size).

    A node with fewer devices than usual has so much less of the network: adapters come with devices.

    Raises:
        UnknownNameError: no such device.
        InputError: a number is 0, or a node would have more devices than one of its kind has.
    """
    counts, name = re.fullmatch(r"((?:\d+\s*x\s*){0,2})(.*)", text.strip(), re.DOTALL | re.IGNORECASE).groups()  # type: ignore[union-attr]
    found, given = device(name), [int(n) for n in re.findall(r"\d+", counts)]
    usual = found.devices_per_node
    nodes, per_node = (1, usual) if not given else (1, given[0]) if len(given) == 1 else (given[0], given[1])
    if nodes < 1 or per_node < 1:
        raise InputError(f"a cluster needs at least one node of one device, but got {text!r}")
    if per_node > usual:
        across = f", so write {per_node // usual}x{usual}x{name}" if per_node % usual == 0 and nodes == 1 else ""
        raise InputError(f"a node of {found.name} has {usual} devices, but {text!r} asks for {per_node} in one{across}")
    network = found.network_bandwidth * per_node / usual
    return Cluster(device=replace(found, devices_per_node=per_node, network_bandwidth=network), nodes=nodes)


@cache
def _descriptions() -> dict[str, Path]:
    return {tomllib.loads(path.read_text("utf-8"))["name"]: path for path in FOLDER.glob("*.toml")}


@cache
def _read(path: Path) -> Device:
    """One description; its efficiency may be that of another device, named by `as`, with some values of its own.

    Raises:
        InputError: the file cannot be read, is no TOML, or lacks a figure.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from None
    try:
        return _device(content)
    except KeyError as error:
        raise InputError(f"{path} lacks {error.args[0]}, as {FOLDER.name}/h100.toml of this package has it") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} has a figure that is no positive number: {error}") from None


def _device(content: Mapping[str, Any]) -> Device:
    fitted = dict(content["fitted"])
    own = {f.name: _positive(f.name, fitted[f.name]) for f in fields(Efficiency) if f.name in fitted}
    if "as" in fitted:
        efficiency = replace(device(str(fitted["as"])).efficiency, **own)
    else:
        efficiency = Efficiency(**{f.name: own[f.name] for f in fields(Efficiency)})
    return Device(
        name=str(content["name"]),
        memory_bytes=_positive("memory_gib", content["memory_gib"]) * 2**30,
        peak_flops={kind: _positive(kind, value) * 1e12 for kind, value in content["peak_tflops"].items()},
        memory_bandwidth=_positive("memory_gb_per_s", content["memory_gb_per_s"]) * 1e9,
        link_bandwidth=_positive("link_gb_per_s", content["link_gb_per_s"]) * 1e9,
        devices_per_node=int(_positive("devices_per_node", content["devices_per_node"])),
        network_bandwidth=_positive("network_gb_per_s", content["network_gb_per_s"]) * 1e9,
        context_bytes=_positive("context_gib", content["context_gib"]) * 2**30,
        source=str(content["source"]),
        efficiency=efficiency,
        fitted=str(fitted["source"]),
        validated=_validated(content.get("validated")),
    )


def _validated(content: Mapping[str, Any] | None) -> Validated | None:
    if content is None:
        return None
    numbers = {name: _positive(name, content[name]) for name in ("median", "p95")}
    return Validated(**numbers, runs=int(_positive("runs", content["runs"])), what=str(content["what"]))


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value!r}")
    return float(value)
