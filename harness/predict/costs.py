"""What the parts of a training step cost: layers, the output projection, collectives, the update.

A layer takes what its device or the launching host needs, whichever is more. Device: FLOPs over a rate that falls with
small dimensions, bytes of element-wise operators over the memory bandwidth, collectives as a latency plus bytes over
the bandwidth of the slower of links and network. Every formula takes numpy arrays element by element.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.predict.devices import Device
from harness.predict.setup import Setup
from harness.predict.shape import Number, Shape

SOFTNESS = 4
"""Exponent of the soft maximum of device and host: 19 % above either where both are equal."""
UNFUSED = 2.0
"""Element-wise traffic where each operator is a kernel of its own, as a multiple of that of fused kernels."""
CAST_BYTES = 5.0
"""Traffic of bringing an element of 16 bits into 8: read for the scale, read again, written."""
COMPILED_HOST = 0.5
"""Launches that are left of a layer after a compiler fused its element-wise operators, as a share."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Seconds of one layer, forward and backward, on one micro-batch."""

    alone: Number
    """With recomputation, without communication; on the device or on the host, whichever is slower."""
    tensor: Number
    """What tensor-parallel collectives add."""
    forward: Number
    """The forward pass's part of `alone`."""

    @property
    def total(self) -> Number:
        """The layer as its rank experiences it."""
        return self.alone + self.tensor

    def scaled(self, compute: Number, tensor: Number) -> Layer:
        """The same layer, its parts multiplied."""
        return Layer(alone=self.alone * compute, tensor=self.tensor * tensor, forward=self.forward * compute)


def layer_seconds(shape: Shape, setup: Setup, device: Device) -> Layer:
    """One layer on one micro-batch.

    A backward pass computes twice what its forward pass did, less where matrices are frozen; that of fused attention
    has five products for two, as it computes scores again (Dao et al. 2022, arXiv:2205.14135). Tensor parallelism takes
    four all-reduces of the stream, six if those of the forward pass are repeated (Shoeybi et al. 2019,
    arXiv:1909.08053), as with full and with selective recomputation.
    """
    e = device.efficiency
    matmul, core, moved = _forward(shape, setup, device)
    traffic = moved / _memory_rate(device)
    full = 1.0 * setup.among("activation_checkpoint", "full")
    full = full + setup.among("activation_checkpoint", "nth") / setup.checkpoint_every
    again = (
        full * (matmul + core + traffic)
        + setup.among("activation_checkpoint", "selective") * traffic
        + setup.among("activation_checkpoint", "attention") * core
        + setup.among("activation_checkpoint", "half") * (matmul / 2 + traffic)
    )
    forward = matmul + core + traffic
    busy = (1 + shape.backward) * forward + again + np.where(setup.fused_attention, core / 2, 0)
    launches = e.host_layer_s * (3 + full) / 4 * np.where(setup.compile, COMPILED_HOST, 1.0)
    resent = full + setup.among("activation_checkpoint", "selective")
    count = (4 + 2 * resent) * (setup.tp > 1)
    stream = setup.micro_batch * shape.seq_len * shape.width * setup.activation_bytes
    sent = count * collective_seconds(device, stream, setup.tp, 1, 2)
    alone = _slower(busy, launches)
    together = _slower(busy + sent, launches + count * e.host_collective_s)
    return Layer(alone=alone, tensor=together - alone, forward=alone * forward / busy)


def head_seconds(shape: Shape, setup: Setup, device: Device) -> Number:
    """The output projection and the loss of one micro-batch, forward and backward."""
    tokens, columns = setup.micro_batch * shape.seq_len, shape.columns / shape.divides_ends(setup.tp)
    product = product_seconds(device, device.peak(setup.compute), tokens, columns, shape.width)
    return (1 + shape.backward) * product + tokens * columns * device.efficiency.logit_bytes / _memory_rate(device)


def product_seconds(device: Device, peak: Number, rows: Number, columns: Number, inner: Number) -> Number:
    """Seconds of a matrix product `[rows, inner] x [inner, columns]`; a device fills up as each dimension grows."""
    half = device.efficiency.half_dim
    filling = (1 + half / rows) * (1 + half / columns) * (1 + half / inner)
    return 2 * rows * columns * inner * filling / (peak * device.efficiency.matmul_share)


def collective_seconds(device: Device, size: Number, ranks: Number, stride: Number, volume: Number) -> Number:
    """Seconds of a ring collective.

    A node's network is shared by the rings that run through it at once: those of the ranks between two neighbours of a
    ring. Links inside a node and the network work at the same time, so the slower one counts (volumes of rings: Thakur
    et al. 2005; placement of ranks: Narayanan et al. 2021).

    Args:
        device: where ranks run; ranks fill node after node.
        size: bytes of the whole tensor.
        ranks: ranks of the group.
        stride: distance between neighbours in the group, 1 for tensor parallel, its degree for data parallel.
        volume: 2 for all-reduce, 1 for all-gather and reduce-scatter: what a rank sends is volume x (n-1)/n x size.
    """
    e, per_node = device.efficiency, device.devices_per_node
    nodes = np.maximum(ranks * stride / per_node, 1)
    sent = volume * (ranks - 1) / ranks * size
    link = sent / (device.link_bandwidth * e.link_share)
    network = sent * np.minimum(stride, per_node) / (device.network_bandwidth * e.network_share)
    inside = np.minimum(ranks, np.maximum(per_node / stride, 1))
    latency = e.link_latency_s * np.log2(inside) + e.network_latency_s * np.log2(nodes)
    return np.where(nodes > 1, np.maximum(link, network), link) + latency


def send_seconds(shape: Shape, setup: Setup, device: Device) -> Number:
    """Seconds in which every rank of a stage sends the stream of a micro-batch to the next stage; 0 without stages."""
    e, per_node = device.efficiency, device.devices_per_node
    stream = setup.micro_batch * shape.seq_len * shape.width * setup.activation_bytes
    size = stream / np.where(np.logical_or(setup.scatter_gather, setup.sequence_parallel), setup.tp, 1)
    senders = np.minimum(setup.tp * setup.dp, per_node)
    network = size * senders / (device.network_bandwidth * e.network_share) + e.network_latency_s
    link = size / (device.link_bandwidth * e.link_share) + e.link_latency_s
    gathered = np.where(setup.scatter_gather, collective_seconds(device, stream, setup.tp, 1, 1), 0)
    return (np.where(setup.world_size > per_node, network, link) + gathered) * (setup.pp > 1)


def _forward(shape: Shape, setup: Setup, device: Device) -> tuple[Number, Number, Number]:
    """A layer's forward pass on one micro-batch: seconds of its products, of attention's core, bytes of the rest.

    Bytes are read and written ones of fused kernels: norms, residuals with their dropout masks, activation, heads moved
    before and after attention; scores, softmax and dropout where attention is not fused.
    """
    tokens, width, hidden, tp = setup.micro_batch * shape.seq_len, shape.width, shape.hidden, setup.tp
    heads, each = shape.inside, tokens * shape.active / shape.experts
    peak, a = device.peak(setup.compute), setup.activation_bytes
    rate = peak * np.where(setup.among("quantization", "float8"), device.gain("float8"), 1.0)
    rate = rate * np.where(setup.among("quantization", "int8"), device.gain("int8"), 1.0)
    shapes = (
        (1, tokens, heads * (1 + 2 * shape.kv_share) / tp, width),
        (1, tokens, width, heads / tp),
        (shape.experts, each, hidden * (1 + 1 * shape.gated) / tp, width),
        (shape.experts, each, width, hidden / tp),
    )
    matmul = sum(n * product_seconds(device, rate, rows, columns, inner) for n, rows, columns, inner in shapes)
    core = _attention_core(shape, setup, device)
    masks = 1 * np.asarray(setup.dropout)
    scores = np.where(setup.fused_attention, 0.0, 6 * a + masks) * shape.heads * shape.seq_len / tp
    stream = width * (2 * 2 * a + 2 * (3 * a + masks)) / np.where(setup.sequence_parallel, tp, 1)
    inside = (8 * a * heads + (2 + 1 * shape.gated) * a * hidden * shape.active) / tp
    fused = np.logical_or(setup.fused_elementwise, setup.compile)
    cast = sum(n * (rows * (columns + inner) + columns * inner) for n, rows, columns, inner in shapes)
    cast = np.where(setup.among("quantization", "float8", "int8"), CAST_BYTES * cast, 0)
    return (
        shape.work * matmul,
        shape.work * core,
        tokens * (scores + (stream + inside) * np.where(fused, 1.0, UNFUSED)) + cast,
    )


def _attention_core(shape: Shape, setup: Setup, device: Device) -> Number:
    """Seconds of scores and weighted values of one layer's forward pass; a fused kernel skips the masked half."""
    samples, peak = setup.micro_batch * shape.heads / setup.tp, device.peak(setup.compute)
    plain = 2 * product_seconds(device, peak, shape.seq_len, shape.seq_len, shape.inside / shape.heads)
    fused = 2 * shape.seq_len**2 * shape.inside / shape.heads / (peak * device.efficiency.attention_share)
    return samples * np.where(setup.fused_attention, fused, plain)


def exchange_seconds(shape: Shape, setup: Setup, device: Device, layer: Layer, layers: Number) -> tuple[Number, Number]:
    """Seconds of a step in which data-parallel ranks exchange gradients and weights: all, and those beside computation.

    A rank sends 2 (d-1)/d gradients under DDP, and (d-1)/d gradients and weights under ZeRO-1 and 2; ZeRO-2 reduces
    after every micro-batch, ZeRO-3 gathers and reduces in each (Rajbhandari et al. 2020, arXiv:1910.02054).
    """
    local, trained = local_parameters(shape, setup, layers)
    divided = setup.among("data_parallel", "zero1", "zero2", "zero3")
    repeats = np.where(setup.among("data_parallel", "zero2", "zero3"), setup.micro_batches, 1)
    travels = setup.among("data_parallel", "ddp", "zero1", "zero2", "zero3") * (setup.dp > 1)

    def one(size: Number, volume: Number) -> Number:
        return travels * collective_seconds(device, size, setup.dp, setup.tp, volume)

    zero3 = setup.among("data_parallel", "zero3")
    padded = np.where(zero3, shape.padded(setup.dp), 1)
    trained = trained * np.where(np.less(shape.trained, 0.5), 1, padded)
    reduce = one(trained * setup.reduce_bytes, np.where(divided, 1, 2)) * repeats
    gathers = np.where(setup.among("data_parallel", "zero3"), (1 + 1 * setup.reshard_after_forward) * repeats, 1)
    moved = np.where(zero3, local * padded, trained)
    gather = one(moved * setup.gather_bytes, 1) * divided * gathers
    backward, forward = layers * (layer.total - layer.forward), layers * layer.forward
    cover = np.where(divided, np.minimum(gather, forward * gathers), 0) + np.minimum(reduce, backward * repeats)
    unit = np.minimum(1, setup.layers_per_unit / layers)  # the first gather and the last reduction run beside nothing
    hidden = np.where(setup.overlap, cover * (1 - unit), 0)
    tied = np.where(shape.tied, shape.vocab * shape.width / setup.tp, 0) * setup.reduce_bytes * shape.trained_ends
    across = setup.world_size > device.devices_per_node
    rate = np.where(across, device.network_bandwidth / device.devices_per_node, device.link_bandwidth)
    return reduce + gather + (setup.pp > 1) * tied / rate, hidden


def update_seconds(shape: Shape, setup: Setup, device: Device, layers: Number) -> Number:
    """Seconds in which a rank updates its share of the weights."""
    sharded = np.where(setup.among("data_parallel", "zero1", "zero2", "zero3"), setup.dp, 1)
    return local_parameters(shape, setup, layers)[1] / sharded * update_seconds_each(setup, device)


def update_seconds_each(setup: Setup, device: Device) -> Number:
    """Seconds for each parameter that a rank updates."""
    return device.efficiency.optimizer_bytes * _quicker_update(setup) / _memory_rate(device)


def local_parameters(shape: Shape, setup: Setup, layers: Number) -> tuple[Number, Number]:
    """(all, trained) parameters of a rank of the slowest stage, before data-parallel ranks divide them."""
    embeddings = np.where(setup.pp > 1, shape.vocab * shape.width, shape.embedding_parameters + shape.head_parameters)
    inner, embeddings = layers * shape.layer_parameters / setup.tp, embeddings / shape.divides_ends(setup.tp)
    return inner + embeddings, inner * shape.trained + embeddings * shape.trained_ends


def _quicker_update(setup: Setup) -> Number:
    """Traffic of an update as a share of that of fp32 moments beside fp32 master weights."""
    return np.minimum(1, (setup.weight_bytes + setup.gradient_bytes + setup.optimizer_bytes) / 16)


def _memory_rate(device: Device) -> Number:
    return device.memory_bandwidth * device.efficiency.memory_share


def _slower(device_s: Number, host_s: Number) -> Number:
    """A soft maximum: where both are near each other, neither hides all of the other's irregularity."""
    return (device_s**SOFTNESS + host_s**SOFTNESS) ** (1 / SOFTNESS)
