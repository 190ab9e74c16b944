"""What short trainings of a shallow model say about this machine: how the closed form is to be scaled here.

A probe (`harness.rank.probe`) is one micro-batch and one update of two blocks, with the strategies' own code, by all
ranks at once. Each part of the closed form is multiplied by what the probes took over what the closed form says of
them: a number format, quantised products and recomputation by the pass of a rank alone; an optimizer by its update;
tensor parallelism and each kind of data parallelism by what they take beyond that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from harness.predict.costs import (
    exchange_seconds,
    head_seconds,
    layer_seconds,
    update_seconds,
    update_seconds_each,
)
from harness.predict.devices import Device
from harness.predict.factors import Factors
from harness.predict.setup import MOMENTS, Setup
from harness.predict.shape import Number, Shape

T = TypeVar("T")
Way = tuple[str, str, str]
"""(precision, quantised products, what is recomputed)."""

SAME_LAYERS = {"fsdp_mixed": "bf16_params", "bf16": "bf16_params"}
"""Precision -> another one whose layers compute alike, if it was not measured itself."""
SAME_UPDATE = {"fsdp_mixed": "fp32", "bf16_autocast": "fp32", "fp16": "fp32"}
"""Precision -> another one whose weights are updated alike."""
UPDATED = ("precision", "quantization", "weight_bytes", "gradient_bytes", "optimizer_bytes")
"""Fields of a setup that tell what an update takes for each parameter."""
ENDS = 1
"""Of a probe: an all-reduce after the embedding, one before the output projection turns back, two for the loss;
a layer has four."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One short training that was measured."""

    setup: Setup
    pass_s: float
    """Seconds of one micro-batch, forward and backward, until its gradients are whole."""
    update_s: float
    """Seconds of clipping and updating."""


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Short trainings on one machine.

    Args:
        shape: the shallow model.
        device: the machine by its plain calibration.
        rows: what was measured.
        hidden: whether communication runs beside computation here; on a CPU it takes the cores' time.
    """

    shape: Shape
    device: Device
    rows: tuple[Probe, ...]
    hidden: bool

    @classmethod
    def of_json(cls, calibration: Mapping[str, Any], device: Device) -> Probes | None:
        """What a calibration holds; None if it has no probes."""
        if not calibration.get("probes"):
            return None
        rows = []
        for row in calibration["probes"]:
            plan = row["plan"]
            setup = Setup.of_plan(plan, int(plan["dp"]) * int(plan["micro_batch_size"]))
            rows.append(Probe(setup=setup, pass_s=row["pass_s"], update_s=row["update_s"]))
        shape = Shape(**calibration["probed_shape"])
        return cls(shape=shape, device=device, rows=tuple(rows), hidden=calibration["device_type"] != "cpu")

    def factors(self, setup: Setup) -> Factors:
        """For plans on this machine, numbers or arrays."""
        exchange = 1.0 if self.hidden else self._each(setup, self._exchange, "data_parallel", "variant")
        tensor = self._each(setup, self._tensor, "precision", "sequence_parallel", "micro_batch")
        return Factors(
            compute=self.compute(setup),
            tensor=np.where(np.greater(setup.tp, 1), tensor, 1.0),
            update=self._each(setup, self._update, *UPDATED),
            exchange=exchange,
            overlap=1.0 if self.hidden else 0.0,
            ends=ENDS,
        )

    def compute(self, setup: Setup) -> Number:
        """Of the layers and the output projection."""
        names = ("precision", "quantization", "activation_checkpoint", "checkpoint_every", "micro_batch", "tp")
        return self._each(setup, self._compute, *names)

    # -- passes

    def _compute(
        self, precision: str, quantization: str, checkpoint: str, every: float, micro_batch: float, tp: float
    ) -> float:
        products, rows = "none" if quantization in MOMENTS else quantization, micro_batch / tp
        if checkpoint == "nth":
            none, full = (self._way((precision, products, kind), rows) for kind in ("none", "full"))
            return none + (full - none) / every
        return self._way((precision, products, checkpoint), rows)

    def _way(self, way: Way, micro_batch: float) -> float:
        """Of one way to compute; one that was not measured differs from the usual one as its parts do."""
        precision, products, checkpoint = way
        usual = self._usual
        own = [p for p in dict.fromkeys((precision, SAME_LAYERS.get(precision, precision))) if p in self._precisions]

        def ratio(of: str, products: str = "none", checkpoint: str = "none") -> float | None:
            return self._ratio((of, products, checkpoint), micro_batch)

        def first(*found: float | None) -> float | None:
            return next((value for value in found if value is not None), None)

        exact = first(*(ratio(p, products, checkpoint) for p in own))
        if exact is not None:
            return exact
        low = first(*map(ratio, own), ratio(usual))
        plain = first(
            *(ratio(p, products) for p in own), _product(low, ratio(usual, products), over=ratio(usual)), low, 1.0
        )
        alike = [(usual, products), *((p, "none") for p in own), (usual, "none")]
        again = first(*(_product(plain, ratio(p, q, checkpoint), over=ratio(p, q)) for p, q in alike))
        return first(again, plain) or 1.0

    def _ratio(self, way: Way, micro_batch: float) -> float | None:
        return self._once(self._measured_ratio, (way, micro_batch))

    def _measured_ratio(self, way: Way, micro_batch: float) -> float | None:
        """Measured over closed form of a way that was measured, None if it was not."""
        points = self._passes.get(way)
        if points is None:
            return None
        if len(points) > 1:
            return float(_line(points)(micro_batch) / self._closed_pass(way, micro_batch))
        samples, seconds = points[0]
        fixed = min(self._fixed(way), seconds)
        return (fixed + (seconds - fixed) * micro_batch / samples) / self._closed_pass(way, micro_batch)

    def _fixed(self, way: Way) -> float:
        """Seconds of a pass whatever the samples: what each choice adds to those of the usual way."""
        usual, none = self._usual, "none"
        plain = self._intercept((usual, none, none)) or 0.0
        apart = ((way[0], none, none), (usual, way[1], none), (usual, none, way[2]))
        added = [self._intercept(one) for one in apart]
        return max(plain + sum(seconds - plain for seconds in added if seconds is not None), 0.0)

    def _intercept(self, way: Way) -> float | None:
        """Likewise of a way that was measured with two numbers of samples; None if it was not."""
        points = self._passes.get(way, [])
        return _line(points)(0.0) if len(points) > 1 else None

    def _closed_pass(self, way: Way, micro_batch: float) -> float:
        plan = {"precision": way[0], "quantization": way[1], "activation_checkpoint": way[2]}
        setup = replace(Setup.of_plan(plan, micro_batch), micro_batch=micro_batch)
        layer = layer_seconds(self.shape, setup, self.device).alone
        return float(self.shape.layers * layer + head_seconds(self.shape, setup, self.device))

    @cached_property
    def _alone(self) -> list[Probe]:
        return [row for row in self.rows if row.setup.world_size == 1]

    @cached_property
    def _passes(self) -> dict[Way, list[tuple[float, float]]]:
        """Way to compute -> (samples, seconds) of its probes."""
        found: dict[Way, list[tuple[float, float]]] = {}
        for row in self._alone:
            setup = row.setup
            if setup.quantization not in MOMENTS:
                way = setup.precision, setup.quantization, setup.activation_checkpoint
                found.setdefault(way, []).append((setup.micro_batch, row.pass_s))
        return found

    @cached_property
    def _precisions(self) -> set[str]:
        return {precision for precision, _, _ in self._passes}

    @cached_property
    def _usual(self) -> str:
        """The precision of the first probe."""
        return str(self.rows[0].setup.precision)

    # -- updates

    def _update(self, precision: str, quantization: str, weight: float, gradient: float, state: float) -> float:
        optimizer = quantization if quantization in MOMENTS else "none"
        if (precision, "none") not in self._updates:
            precision = SAME_UPDATE.get(precision, precision)
        usual, known = self._usual, self._updates
        each = known.get((precision, optimizer))
        if each is None:
            parts = [known.get(key) for key in ((precision, "none"), (usual, optimizer), (usual, "none"))]
            each = None if None in parts else max(parts[0] + parts[1] - parts[2], 0.0)  # type: ignore[operator]
        if each is None:
            return 1.0
        setup = Setup(
            micro_batch=1, global_batch=1, weight_bytes=weight, gradient_bytes=gradient, optimizer_bytes=state
        )
        return each / float(update_seconds_each(setup, self.device))

    @cached_property
    def _updates(self) -> dict[tuple[str, str], float]:
        """(precision, optimizer) -> seconds for each parameter."""
        found: dict[tuple[str, str], list[float]] = {}
        for row in self._alone:
            setup = row.setup
            key = setup.precision, setup.quantization if setup.quantization in MOMENTS else "none"
            found.setdefault(key, []).append(row.update_s / float(self.shape.parameters))
        return {key: float(np.median(values)) for key, values in found.items()}

    # -- what several ranks take beyond that

    def _exchange(self, kind: str, variant: str) -> float:
        return self._exchanges.get((kind, variant), self._exchanges.get((kind, ""), 1.0))

    @cached_property
    def _exchanges(self) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], list[float]] = {}
        for row in self.rows:
            setup = row.setup
            if setup.dp == 1 or setup.tp > 1 or setup.pp > 1:
                continue
            layer, rest = self._by_parts(setup)
            whole, _ = exchange_seconds(self.shape, setup, self.device, layer, self.shape.layers)
            share = (row.pass_s + row.update_s - rest) / float(whole)
            found.setdefault((setup.data_parallel, setup.variant), []).append(max(share, 0.0))
        first: dict[tuple[str, str], float] = {}
        for (kind, variant), values in found.items():
            first[kind, variant] = float(np.median(values))
            first.setdefault((kind, ""), first[kind, variant])
        return first

    def _by_parts(self, setup: Setup) -> tuple[Any, float]:
        """(a layer, seconds of a pass and an update but for what ranks exchange)."""
        scale = self.compute(setup)
        layer = layer_seconds(self.shape, setup, self.device).scaled(scale, 1.0)
        seconds = self.shape.layers * layer.alone + scale * head_seconds(self.shape, setup, self.device)
        update = self._each(setup, self._update, *UPDATED)
        return layer, float(seconds + update * update_seconds(self.shape, setup, self.device, self.shape.layers))

    def _tensor(self, precision: str, sequence_parallel: bool, micro_batch: float) -> float:
        ways = [(p, sequence_parallel) for p in (precision, SAME_LAYERS.get(precision), self._usual)]
        known = next((self._tensors[way] for way in (*ways, *self._tensors) if way in self._tensors), None)
        if known is None:
            return 1.0
        setup, curve = known
        setup = replace(setup, micro_batch=micro_batch, global_batch=micro_batch)
        return max(curve(micro_batch), 0.0) / float(layer_seconds(self.shape, setup, self.device).tensor)

    @cached_property
    def _tensors(self) -> dict[tuple[str | None, bool], tuple[Setup, Callable[[float], float]]]:
        """(precision, whether the sequence is divided) -> (a setup, micro-batch -> seconds a layer takes longer)."""
        points: dict[tuple[str | None, bool], list[tuple[float, float]]] = {}
        setups: dict[tuple[str | None, bool], Setup] = {}
        for row in self.rows:
            setup = row.setup
            if setup.tp == 1:
                continue
            way = setup.precision, bool(setup.sequence_parallel)
            scale = self.compute(setup)
            alone = self.shape.layers * layer_seconds(self.shape, setup, self.device).alone
            own = scale * (alone + head_seconds(self.shape, setup, self.device))
            points.setdefault(way, []).append((setup.micro_batch, float(row.pass_s - own) / (self.shape.layers + ENDS)))
            setups[way] = setup
        return {way: (setups[way], _line(found)) for way, found in points.items()}

    # -- arrays

    def _each(self, setup: Setup, one: Callable[..., float], *names: str) -> Number:
        """`one` of these fields of a setup, called once for each combination of their values."""
        columns = np.broadcast_arrays(*(np.asarray(getattr(setup, name)) for name in names))
        keys = list(zip(*(column.ravel().tolist() for column in columns), strict=True))
        values = {key: self._once(one, key) for key in dict.fromkeys(keys)}
        found = np.array([values[key] for key in keys]).reshape(columns[0].shape)
        return float(found) if found.ndim == 0 else found

    def _once(self, one: Callable[..., T], key: tuple[Any, ...]) -> T:
        """`one` of a key, remembered: thousands of plans share few of them."""
        known: dict[Any, T] = self._remembered
        at = (one.__name__, key)
        if at not in known:
            known[at] = one(*key)
        return known[at]

    @cached_property
    def _remembered(self) -> dict[Any, Any]:
        return {}


@dataclass(frozen=True, kw_only=True)
class ProbedDevice(Device):
    """A device on which short trainings were measured."""

    probes: Probes

    @property
    def probed(self) -> bool:
        return True

    def factors(self, setup: Setup) -> Factors:
        return self.probes.factors(setup)


def with_probes(device: Device, calibration: Mapping[str, Any]) -> Device:
    """The device with the short trainings of its calibration, if it has any."""
    probes = Probes.of_json(calibration, device)
    if probes is None:
        return device
    return ProbedDevice(**{f.name: getattr(device, f.name) for f in fields(Device)}, probes=probes)


def _line(points: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """The line through the points of least and most samples; one that falls is level."""
    (low, first), (high, last) = min(points), max(points)
    if high == low:
        return lambda at: first * at / low
    slope = max(last - first, 0.0) / (high - low)
    start = max(last - slope * high, 0.0)
    steep = (last - start) / high
    return lambda at: start + steep * at


def _product(*parts: float | None, over: float | None = 1.0) -> float | None:
    """The parts multiplied, over another; None if one is unknown."""
    if over is None or any(part is None for part in parts):
        return None
    return float(np.prod([part for part in parts if part is not None])) / over
