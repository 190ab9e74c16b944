"""A plan as formulas see it: degrees, schedule, number formats and what is recomputed.

Every field may be a numpy array, so that one evaluation of a formula answers for thousands of plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from harness.errors import InputError, UnknownNameError
from harness.predict.shape import Flag, Number, Shape


class Formats(NamedTuple):
    """Bytes that a precision takes for each parameter, and where it computes."""

    weight: float
    """Weights that the forward pass reads."""
    gradient: float
    optimizer: float
    """Master weights, where there are any, and both of Adam's moments."""
    reduce: float
    """An element of a gradient on its way between ranks."""
    gather: float
    """An element of a weight on its way between ranks."""
    activation: float
    """An element that a matrix product reads or writes."""
    stream: float
    """An element of the stream between layers."""
    compute: str
    """Number format of matrix products, a key of a device's peaks."""


PRECISIONS: dict[str, Formats] = {
    "fp32": Formats(4, 4, 8, 4, 4, 4, 4, "fp32"),
    "tf32": Formats(4, 4, 8, 4, 4, 4, 4, "tf32"),
    "bf16_autocast": Formats(4, 4, 8, 4, 4, 2, 4, "bf16"),
    "fp16": Formats(4, 4, 8, 4, 4, 2, 4, "fp16"),
    "bf16_params": Formats(2, 2, 12, 4, 2, 2, 2, "bf16"),
    "bf16": Formats(2, 2, 4, 2, 2, 2, 2, "bf16"),
    "megatron": Formats(2, 4, 12, 4, 2, 2, 2, "bf16"),
    "deepspeed": Formats(2, 2, 12, 2, 2, 2, 2, "bf16"),
    "fsdp_mixed": Formats(4, 4, 8, 4, 2, 2, 2, "bf16"),
}
"""The precisions of plans (strategies/precision.py), then those of published runs: Megatron-LM sums gradients in fp32
beside 16-bit weights (Narayanan et al. 2021, arXiv:2104.04473), DeepSpeed sums and sends them in 16 bits, FSDP2 shards
fp32 weights and gathers them in 16 bits (torch.distributed.fsdp.MixedPrecisionPolicy)."""

MOMENTS = {"adamw8bit": 2 * (1 + 4 / 256), "adamw4bit": 2 * (0.5 + 4 / 128), "adamwfp8": 2 * (1 + 4 / 256)}
"""Quantised optimizer -> bytes of both moments of a parameter: blocks of 256 or 128 share an fp32 scale (Dettmers et
al. 2022, arXiv:2110.02861)."""

CHECKPOINTS = ("none", "full", "nth", "selective", "attention", "half")
"""What is recomputed: of plans nothing, every layer, every n-th layer, or all but matrix products and attention; of
published runs also attention's core alone (Korthikanti et al. 2022) and every second matrix product (torchtitan)."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a model is trained. Defaults are those of a plan on one device."""

    micro_batch: Number
    """Samples of one forward pass of one data-parallel rank."""
    global_batch: Number
    """Samples of one optimizer step over all ranks."""
    dp: Number = 1
    """Data-parallel degree."""
    tp: Number = 1
    """Tensor-parallel degree."""
    pp: Number = 1
    """Pipeline-parallel degree."""
    data_parallel: Any = "none"
    """none, ddp, zero1, zero2 or zero3."""
    schedule: Any = "1f1b"
    """gpipe, 1f1b or interleaved."""
    stages_per_rank: Number = 1
    """Stages that each rank of an interleaved schedule holds; 1 for the others."""
    variant: Any = ""
    """Which of several ways of the same data parallelism: flat, torch or fsdp2."""
    precision: Any = "fp32"
    """One of PRECISIONS."""
    weight_bytes: Number = 4.0
    gradient_bytes: Number = 4.0
    optimizer_bytes: Number = 8.0
    reduce_bytes: Number = 4.0
    gather_bytes: Number = 4.0
    activation_bytes: Number = 4.0
    stream_bytes: Number = 4.0
    compute: Any = "fp32"
    """Number format of matrix products; the other formats in bytes for each element, as in `Formats`."""
    activation_checkpoint: Any = "none"
    """One of CHECKPOINTS."""
    checkpoint_every: Number = 1
    """n of nth."""
    sequence_parallel: Flag = False
    """Whether the stream between matrices is divided over tensor-parallel ranks (Korthikanti et al. 2022)."""
    overlap: Flag = True
    """Whether data-parallel communication runs while layers compute."""
    bucket_mb: Number = 25.0
    """Size of a gradient bucket in 10^6 bytes; 0 where there is none."""
    reshard_after_forward: Flag = True
    """Whether ZeRO-3 gathers a layer's weights once more for its backward pass."""
    layers_per_unit: Number = 1
    """Layers that ZeRO-3 gathers together."""
    prefetch: Number = 1
    """Units that ZeRO-3 gathers ahead."""
    quantization: Any = "none"
    """float8, int8 (products), adamw8bit, adamw4bit, adamwfp8 (moments), or none."""
    compile: Flag = False
    """Whether element-wise operators are fused by a compiler."""
    fused_attention: Flag = True
    """Whether attention keeps no scores (Dao et al. 2022, arXiv:2205.14135)."""
    fused_elementwise: Flag = False
    """Whether hand-written kernels fuse bias, activation, dropout and residual (Megatron-LM)."""
    dropout: Flag = False
    """Whether dropout is applied after attention and the feed-forward part."""
    balanced: Flag = True
    """Whether the last pipeline stage gets fewer layers because it also has the output projection."""
    scatter_gather: Flag = False
    """Whether tensor-parallel ranks each send a share of the stream to the next stage, where it is gathered again
    (Narayanan et al. 2021, section 4.1)."""
    keeps_gathered: Flag = True
    """Whether sequence parallelism keeps the whole sequence that a matrix saw; Megatron-LM gathers it once more instead
    (Korthikanti et al. 2022, section 4.2.2)."""
    gradients_apart: Any = "never"
    """When there are gradients beside the buckets in which all are summed: never; accumulating (those of earlier
    micro-batches); always."""
    receives_apart: Flag = True
    """Whether a stage has a buffer for each micro-batch that it receives (torch.distributed.pipelining), not two."""

    @classmethod
    def of_plan(cls, plan: Mapping[str, Any], global_batch: Number) -> Setup:
        """The setup of a plan, by the names of knobs.

        Args:
            plan: knob name -> value, as of `harness.plan.Plan`; what is missing has the knob's default.
            global_batch: samples of one optimizer step.

        Raises:
            UnknownNameError: a precision that has no formats here.
        """
        kind, pp = str(plan.get("data_parallel", "none")), int(plan.get("pp", 1))
        schedule = str(plan.get("pp_schedule", "1f1b"))
        overlap = plan.get(f"{kind}_overlap", kind in ("ddp", "zero3"))
        given = {
            "dp": int(plan.get("dp", 1)),
            "tp": int(plan.get("tp", 1)),
            "pp": pp,
            "data_parallel": kind,
            "variant": str(plan.get(f"{kind}_impl", "")),
            "schedule": schedule,
            "stages_per_rank": 2 if pp > 1 and schedule == "interleaved" else 1,
            "micro_batch": int(plan.get("micro_batch_size", 1)),
            "activation_checkpoint": str(plan.get("activation_checkpoint", "none")),
            "checkpoint_every": int(plan.get("checkpoint_every", 1)),
            "sequence_parallel": bool(plan.get("sequence_parallel", False)),
            "overlap": bool(overlap),
            "bucket_mb": float(plan.get("bucket_mb", 0.0)),
            "reshard_after_forward": bool(plan.get("reshard_after_forward", True)),
            "layers_per_unit": int(plan.get("blocks_per_unit", 1)),
            "prefetch": int(plan.get("prefetch", 1)),
            "compile": bool(plan.get("compile", False)),
            "gradients_apart": _apart(plan, kind),
        }
        return cls(global_batch=global_batch, **given, **_formats(plan, kind))

    @property
    def world_size(self) -> Number:
        """Ranks."""
        return self.dp * self.tp * self.pp

    @property
    def micro_batches(self) -> Number:
        """Forward passes of a step on each data-parallel rank, at least 1."""
        return np.maximum(np.ceil(self.global_batch / (self.dp * self.micro_batch)), 1)

    @property
    def stages(self) -> Number:
        """Pipeline stages over all ranks."""
        return self.pp * self.stages_per_rank

    def among(self, name: str, *values: str) -> Flag:
        """Whether the field `name` has one of these values."""
        value = getattr(self, name)
        if isinstance(value, str):
            return value in values
        return np.isin(value, values)

    @classmethod
    def stack(cls, setups: Sequence[Setup]) -> Setup:
        """One setup whose fields are arrays, one element for each of `setups`."""
        names = [f.name for f in fields(cls)]
        return cls(**{name: np.array([getattr(s, name) for s in setups]) for name in names})


def stage_layers(shape: Shape, setup: Setup) -> tuple[Number, Number]:
    """Layers of the fullest rank of a pipeline, and of the rank with the output projection.

    A balanced split makes the slower of both as fast as can be, counting the projection like the layers it costs as
    much as; the other one divides layers evenly and earlier ranks hold what remains.
    """
    layers, ranks = shape.layers, setup.pp
    others = np.maximum(ranks - 1, 1)
    head = shape.columns * shape.width / (shape.work * shape.layer_weights + 2 * shape.seq_len * shape.width)
    low = np.clip(np.floor((layers + head) / ranks - head), 1, layers)
    slow = [np.maximum(np.ceil((layers - n) / others), n + head) for n in (low, low + 1)]
    last = np.where(setup.balanced, np.where(slow[0] <= slow[1], low, low + 1), np.floor(layers / ranks))
    first = np.where(setup.balanced, np.ceil((layers - last) / others), np.ceil(layers / ranks))
    return np.where(ranks > 1, first, layers), np.where(ranks > 1, last, layers)


def _apart(plan: Mapping[str, Any], kind: str) -> str:
    """DistributedDataParallel looks away until the last micro-batch, with a static graph until its end."""
    if plan.get("static_graph"):
        return "always"
    return "accumulating" if kind == "ddp" or plan.get("zero1_impl") == "torch" else "never"


def _formats(plan: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Number formats of a plan; FSDP2 under bf16_params divides fp32 weights and gathers them in bf16."""
    precision, quantization = str(plan.get("precision", "fp32")), str(plan.get("quantization", "none"))
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    fsdp = kind == "zero3" or plan.get("zero2_impl") == "fsdp2"
    flat = (kind == "zero1" and plan.get("zero1_impl", "flat") == "flat") or (kind == "zero2" and not fsdp)
    precision = "fsdp_mixed" if fsdp and precision == "bf16_params" else precision
    formats = PRECISIONS[precision]
    moments = MOMENTS.get(quantization)
    optimizer = formats.optimizer if moments is None else formats.optimizer - 8 + moments
    reduce = 2.0 if plan.get("reduce_dtype") == "bf16" else formats.reduce
    return {
        **format_fields(formats),
        "precision": precision,
        "optimizer_bytes": optimizer,
        "reduce_bytes": reduce,
        # Flat buckets sum gradients in the format in which they send them.
        "gradient_bytes": max(formats.gradient, reduce) if flat else formats.gradient,
        "quantization": quantization,
    }


def format_fields(formats: Formats) -> dict[str, Any]:
    """The fields of a setup that a precision decides."""
    bytes_of = {f"{name}_bytes": getattr(formats, name) for name in Formats._fields if name != "compute"}
    return {**bytes_of, "compute": formats.compute}


def check_product(what: str, gpus: int, *, tp: int, dp: int, pp: int) -> None:
    """Refuse degrees that do not multiply to the devices there are.

    Raises:
        InputError: they do not.
    """
    if tp * dp * pp != gpus:
        raise InputError(f"{what}: tp x dp x pp must be {gpus} devices, but {tp} x {dp} x {pp} is {tp * dp * pp}")
