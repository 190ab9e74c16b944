"""Closed form of the memory of a rank, by category, for every pipeline stage.

State of the training follows Rajbhandari et al. 2020 (arXiv:1910.02054), activations Korthikanti et al. 2022
(arXiv:2205.05198), generalised to shared keys and gates. Every formula takes numpy arrays element by element.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from harness.predict.devices import Device
from harness.predict.setup import Setup, stage_layers
from harness.predict.shape import Flag, Number, Shape

LOGIT_BYTES = 12.0
"""Of each logit while the loss turns back: log-probabilities and two gradients of them, all fp32."""
RESERVED = 1.08
"""What PyTorch's caching allocator holds over what is allocated: by how much published peaks of reserved memory shrink
as state is divided further (Llama-3.1-8B, ZeRO-3, from 8 to 128 H100), over how much the state does."""


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Bytes of one rank at its peak."""

    params: Number
    """Weights, or this rank's shard of them."""
    grads: Number
    """Gradients, or this rank's shard of them."""
    optimizer: Number
    """Moments and master weights, or this rank's shard of them."""
    activations: Number
    """What forward passes keep for their backward passes, and one layer's working set."""
    buffers: Number
    """Gathered weights, gradients on their way, low-precision copies of weights, buckets."""
    logits: Number
    """Logits and what the loss makes of them, beyond the working set of a layer, which is free at that time."""
    context: Number
    """The driver's context and communicators, outside PyTorch's allocator."""

    @property
    def state(self) -> Number:
        """Weights, gradients and optimizer."""
        return self.params + self.grads + self.optimizer

    @property
    def allocated(self) -> Number:
        """Tensors at the peak."""
        return self.state + self.activations + self.buffers + self.logits

    @property
    def reserved(self) -> Number:
        """What the caching allocator holds at the peak, and what must fit beside the context."""
        return RESERVED * self.allocated

    @property
    def total(self) -> Number:
        """What the device must have."""
        return self.reserved + self.context


def peak_memory(shape: Shape, setup: Setup, device: Device | None = None) -> MemoryUse:
    """The rank that needs the most: of the first stage, with the most micro-batches in flight, or of the last, with
    the logits.

    Args:
        shape: the model.
        setup: the plan.
        device: for the context; without it there is none.
    """
    first = stage_memory(shape, setup, 0, device)
    if np.all(np.equal(setup.pp, 1)):
        return first
    last = stage_memory(shape, setup, setup.pp - 1, device)
    worse = last.total > first.total
    both = {f.name: (getattr(first, f.name), getattr(last, f.name)) for f in fields(MemoryUse)}
    return MemoryUse(**{name: np.where(worse, b, a) for name, (a, b) in both.items()})


def stage_memory(shape: Shape, setup: Setup, stage: Number, device: Device | None = None) -> MemoryUse:
    """A rank of one pipeline stage, counted from 0. An interleaved schedule counts ranks, with all their stages.

    With P parameters of the stage over tensor-parallel ranks, d data-parallel ranks and w, g, k bytes of weights,
    gradients and optimizer: DDP (w+g+k)P, ZeRO-1 (w+g)P + kP/d, ZeRO-2 wP + (g+k)P/d, ZeRO-3 (w+g+k)P/d.
    Frozen parameters have weights alone.
    """
    most, final = stage_layers(shape, setup)
    is_last, is_first = np.equal(stage, setup.pp - 1), np.equal(stage, 0)
    layers = np.where(is_last, final, most)
    ends = is_first * shape.embedding_parameters + is_last * shape.head_parameters
    ends = ends + (is_last & ~is_first) * np.where(shape.tied, shape.vocab * shape.width, 0)
    sharded, d = _sharded(setup), setup.dp
    layer = shape.layer_parameters * np.where(sharded, shape.padded(d), 1)
    ends = ends / shape.divides_ends(setup.tp)
    held = layers * layer / setup.tp + ends
    trained = layers * trained_of_layer(shape, layer) / setup.tp + ends * shape.trained_ends
    tokens = setup.micro_batch * shape.seq_len
    kept, working = _kept_and_working(shape, setup)
    logits = is_last * tokens * shape.columns / shape.divides_ends(setup.tp) * LOGIT_BYTES
    return MemoryUse(
        params=held * setup.weight_bytes / np.where(sharded, d, 1),
        grads=trained * setup.gradient_bytes / np.where(setup.among("data_parallel", "zero2", "zero3"), d, 1),
        optimizer=trained
        * setup.optimizer_bytes
        / np.where(setup.among("data_parallel", "zero1", "zero2", "zero3"), d, 1),
        activations=tokens * (kept * layers * in_flight(setup, stage) + working),
        buffers=_buffers(shape, setup, layers, ends, is_first | is_last, tokens * kept),
        logits=np.maximum(logits - tokens * working, 0),
        context=0.0 if device is None else device.context_bytes,
    )


def trained_of_layer(shape: Shape, layer: Number) -> Number:
    """Trained ones of a layer's parameters, of which there are more where stacked experts are padded; adapters are
    not."""
    return np.where(np.less(shape.trained, 0.5), shape.layer_parameters, layer) * shape.trained


def _sharded(setup: Setup) -> Flag:
    """Whether weights are divided too: under ZeRO-3, and where FSDP2 keeps what it gathered to do as ZeRO-2 does."""
    return np.logical_or(setup.among("data_parallel", "zero3"), setup.among("variant", "fsdp2"))


def in_flight(setup: Setup, stage: Number) -> Number:
    """Micro-batches whose activations a rank holds at once, in units of all its layers.

    GPipe all m; 1F1B min(m, p - i) on stage i; interleaved, with v stages on each rank, p + (p-1)/v on the first rank
    (Narayanan et al. 2021, arXiv:2104.04473; Korthikanti et al. 2022, section 4.2.3).
    """
    m, p, v = setup.micro_batches, setup.pp, setup.stages_per_rank
    chunks = 2 * (p - stage - 1) + (v - 1) * p + 1
    pipelined = np.where(setup.among("schedule", "interleaved"), chunks / v, p - stage)
    return np.where(setup.among("schedule", "gpipe") & (p > 1), m, np.minimum(m, pipelined))


def layer_bytes(shape: Shape, setup: Setup) -> Number:
    """Bytes of activations that one layer keeps for each token, without recomputation.

    In 16 bits, with h = width and hidden = 4 h: 32 h (34 with dropout), and 5 bytes for each of heads x seq_len scores
    where attention is not fused; tensor parallelism divides all but the 8 h (10 h) of the stream, and sequence
    parallelism those too, but for what it gathered and keeps (Korthikanti et al. 2022, section 4). Of a model that was
    counted, both parts are multiplied by what its layers were seen to keep.
    """
    a, s, width = setup.activation_bytes, setup.stream_bytes, shape.width
    share = np.where(setup.sequence_parallel, setup.tp, 1)
    entering = 2 * a * width / np.where(setup.keeps_gathered, 1, share)
    stream = entering + width * (2 * s + 2 * np.asarray(setup.dropout)) / share
    scores = np.where(setup.fused_attention, 4 * shape.heads, shape.heads * shape.seq_len * _score_bytes(setup))
    inside = a * (shape.projected + shape.fed) + scores
    wide = np.where(np.less(s, 4), shape.keeps_stream_16, shape.keeps_stream)
    deep = np.where(np.less(a, 4), shape.keeps_inside_16, shape.keeps_inside)
    return wide * stream + deep * inside / setup.tp


def _score_bytes(setup: Setup) -> Number:
    """Softmax, and with dropout its mask and output."""
    return setup.activation_bytes + np.where(setup.dropout, 1 + setup.activation_bytes, 0)


def _kept_and_working(shape: Shape, setup: Setup) -> tuple[Number, Number]:
    """Bytes for each token: kept by a layer until its backward pass, and in use while one layer turns back."""
    whole = layer_bytes(shape, setup)
    a, share = setup.activation_bytes, np.where(setup.sequence_parallel, setup.tp, 1)
    entry = setup.stream_bytes * shape.width / share
    core = a * shape.inside / setup.tp
    hidden = shape.active * shape.hidden
    products = a * ((1 + 2 * shape.kv_share) * shape.inside + (1 + 1 * shape.gated) * hidden) / setup.tp
    outputs = 2 * a * shape.width / share
    every_second = a * (shape.inside * (1 + shape.kv_share) + hidden) / setup.tp + a * shape.width / share
    scores = shape.heads * shape.seq_len * _score_bytes(setup) / setup.tp
    nth = setup.among("activation_checkpoint", "nth") / setup.checkpoint_every
    kept = np.select(
        [
            setup.among("activation_checkpoint", "full"),
            setup.among("activation_checkpoint", "nth"),
            setup.among("activation_checkpoint", "selective"),
            setup.among("activation_checkpoint", "half"),
            setup.among("activation_checkpoint", "attention"),
        ],
        [
            entry,
            nth * entry + (1 - nth) * whole,
            np.minimum(entry + core + products + outputs, whole),
            np.minimum(entry + core + every_second, whole),
            whole - np.where(setup.fused_attention, 0, scores),
        ],
        whole,
    )
    turning = a * hidden * (1 + 1 * shape.gated) / setup.tp + 2 * setup.stream_bytes * shape.width / share
    return kept, whole - np.minimum(kept, whole) + turning


def _buffers(shape: Shape, setup: Setup, layers: Number, ends: Number, is_end: Flag, freed: Number) -> Number:
    """What strategies hold beside the state.

    ZeRO-3 gathers a unit of layers and those it prefetches, all layers if they stay after the forward pass, and the
    first and last part throughout; one unit's gradients are whole until they are reduced, in place of the activations
    that its backward pass has `freed`. Flat ZeRO-2 has two buckets.

    Autocast keeps copies of the layers' weights. Stages receive streams and their gradients, at the ends one of both.
    """
    layer = shape.layer_parameters / setup.tp
    padded = layer * np.where(_sharded(setup), shape.padded(setup.dp), 1)
    units = np.minimum(layers, setup.layers_per_unit * (1 + setup.prefetch))
    resharded = np.logical_and(setup.reshard_after_forward, setup.among("data_parallel", "zero3"))
    units = np.where(resharded, units, layers)
    whole = (units * padded + 2 * ends) * setup.gather_bytes
    reduced = trained_of_layer(shape, padded * setup.tp) / setup.tp
    reduced = reduced * np.maximum(setup.gather_bytes, setup.reduce_bytes)
    turning = setup.layers_per_unit * (reduced - freed)
    local = (layers * layer * shape.trained + ends * shape.trained_ends) * setup.gradient_bytes
    flat = setup.among("data_parallel", "zero2") & np.logical_not(_sharded(setup))
    buckets = np.where(flat, np.minimum(2 * setup.bucket_mb * 1e6, local), 0)
    accumulating = np.logical_and(setup.among("gradients_apart", "accumulating"), setup.micro_batches > 1)
    apart = np.where(np.logical_or(setup.among("gradients_apart", "always"), accumulating), local, 0)
    autocast = np.logical_and(np.less(setup.activation_bytes, setup.stream_bytes), np.greater(setup.weight_bytes, 2))
    copies = np.where(autocast, setup.activation_bytes * layers * layer, 0)
    stream = setup.micro_batch * shape.seq_len * shape.width * setup.activation_bytes
    gathered = np.where(_sharded(setup), whole + np.maximum(turning, 0), 0)
    received = np.where(setup.receives_apart, setup.micro_batches * (2 * setup.stages_per_rank - 1 * is_end), 2)
    return gathered + buckets + apart + copies + np.where(setup.pp > 1, received * stream, 0)
