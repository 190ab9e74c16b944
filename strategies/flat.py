"""ZeRO-1 and ZeRO-2 on flat buckets (Rajbhandari et al. 2020, arXiv:1910.02054), small enough to read in one sitting.

A bucket holds some parameters as views of one padded buffer, in the order in which backward finishes them. Each
rank owns one chunk of every bucket: it alone keeps that chunk's optimizer state and updates it.

    backward   a hook on each parameter moves its gradient into the bucket's gradient buffer; a full bucket is
               reduce-scattered at once (ZeRO-1: after the last micro-batch; ZeRO-2: after every micro-batch, the
               result added to a shard, the buffer handed back to a pool of two)
    step       buckets in the order of the forward pass: update the own chunk, start gathering the others
    forward    each block waits for the buckets that hold its parameters, and no others
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from strategies.collectives import Pending, all_gather, reduce_scatter
from strategies.engine import Engine, State, global_norm, multiply, optimizer_state, set_lr, stored, take_step

if TYPE_CHECKING:
    from strategies.training import Training

ALIGN = 16
"""Parameters start at multiples of this many elements, so that kernels see aligned memory."""
SHARE_ALIGN = 256
"""A rank's share of a bucket is a multiple of this many elements: quantised optimizers divide a tensor into blocks of
256 or 128 and leave one that they do not divide in fp32."""


class Bucket:
    """Some parameters, their gradients and this rank's share of their optimizer state.

    Args:
        parameters: in the order in which backward finishes them; their `data` become views of the bucket.
        training: for the data-parallel group, number formats and the optimizer.
        weight_decay: AdamW's decay of these parameters.
        share: of the squared norm, see `Training.share`.
        alone: the first name of the only parameter that it may hold; "" if it holds any.
        tag: even number that tells this bucket's communication apart.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        training: Training,
        weight_decay: float,
        share: float,
        alone: str,
        tag: int,
    ) -> None:
        self.parameters, self.share, self.alone, self.tag = parameters, share, alone, tag
        self.group = training.group("dp")
        world, rank = training.degree("dp"), training.coordinate("dp")
        self.offsets, end = [], 0
        for p in parameters:
            self.offsets.append(end)
            end += _round_up(p.numel(), ALIGN)
        length = _round_up(end, world * SHARE_ALIGN)
        self.flat = torch.zeros(length, dtype=parameters[0].dtype, device=training.device)
        for p, view in zip(parameters, self.views(self.flat), strict=True):
            view.copy_(p.detach())
            p.data = view
        self.mine = slice(rank * length // world, (rank + 1) * length // world)
        shard = self.flat[self.mine]
        self.master = nn.Parameter(shard.float() if training.master_weights else shard)
        self.optimizer = training.make_optimizer([{"params": [self.master], "weight_decay": weight_decay}])
        self.buffer: torch.Tensor | None = None
        """Gradients being collected."""
        self.lent: torch.Tensor | None = None
        """The buffer of the pool that `buffer` is the beginning of (ZeRO-2)."""
        self.shard: torch.Tensor | None = None
        """This rank's chunk of the summed gradient."""
        self.arrivals = 0
        self.seen: set[int] = set()
        self.reducing: Pending | None = None
        self.gathering: Pending | None = None

    def views(self, buffer: torch.Tensor) -> list[torch.Tensor]:
        """The pieces of a buffer of this bucket's length, in the shapes of the parameters."""
        return [self.view(buffer, index) for index in range(len(self.parameters))]

    def view(self, buffer: torch.Tensor, index: int) -> torch.Tensor:
        """One of these pieces."""
        at, p = self.offsets[index], self.parameters[index]
        return buffer[at : at + p.numel()].view(p.shape)

    def update(self, skip: torch.Tensor | None) -> None:
        """Take an optimizer step on this rank's chunk, unless `skip` is 1.0."""
        assert self.shard is not None
        self.master.grad = self.shard.to(self.master.dtype)
        take_step(self.optimizer, skip)
        self.master.grad = None
        if self.master.dtype != self.flat.dtype:
            with torch.no_grad():
                self.flat[self.mine].copy_(self.master)

    def wait_gathered(self) -> None:
        """The parameters are whole after this."""
        if self.gathering is not None:
            self.gathering.wait()
            self.gathering = None


class FlatEngine(Engine):
    """ZeRO-1 or ZeRO-2 over flat buckets.

    Args:
        training: its parts are materialised here.
        stage: 1 keeps a whole gradient buffer and communicates once a step, 2 keeps gradients as shards.
        bucket_mb: most gradients of a bucket, in MB (10^6 bytes) of the format in which they are summed.
        overlap: False waits for every communication where it is started.
    """

    POOL = 2
    """Gradient buffers of ZeRO-2: one being filled, one being reduced. More only where parameters of different kinds
    (decayed or not, divided or not) fill several buckets at once."""

    def __init__(self, training: Training, *, stage: int, bucket_mb: float, overlap: bool) -> None:
        self.training, self.stage, self.overlap = training, stage, overlap
        for part in training.parts:
            training.materialise(part)
        self.dtype = training.reduce_dtype or training.param_dtype
        self.buckets = self._fill_buckets(int(bucket_mb * 1e6))
        self.launch_after = training.accumulation if stage == 1 else 1
        self.pool: list[torch.Tensor] = []
        self.buffers = 0
        """Buffers there are, in the pool or lent."""
        self.in_flight: list[Bucket] = []
        self._hook_gradients()
        self._hook_forward()

    def _fill_buckets(self, limit: int) -> list[Bucket]:
        open_buckets: dict[tuple[float, float, str], list[nn.Parameter]] = {}
        full: list[tuple[tuple[float, float, str], list[nn.Parameter]]] = []
        # Backward finishes parameters roughly in the reverse of their order in the model.
        for name, p in reversed(self.training.trained()):
            whole = self.training.whole_name(name)
            # What both ends of a pipeline hold is divided in the same way at both: alone in its bucket.
            alone = whole if whole in self.training.copies else ""
            key = (self.training.weight_decay(name), self.training.share(name, sharded=True), alone)
            members = open_buckets.setdefault(key, [])
            if members and sum(m.numel() for m in (*members, p)) * self.dtype.itemsize > limit:
                full.append((key, open_buckets.pop(key)))
                members = open_buckets.setdefault(key, [])
            members.append(p)
        full += open_buckets.items()
        return [Bucket(ps, self.training, *key, tag=2 * i + 2) for i, (key, ps) in enumerate(full)]

    def _new_buffer(self, length: int) -> torch.Tensor:
        return torch.empty(length, dtype=self.dtype, device=self.training.device)

    # -- backward

    def _hook_gradients(self) -> None:
        for bucket in self.buckets:
            for index, p in enumerate(bucket.parameters):
                p.register_post_accumulate_grad_hook(self._arrived(bucket, index))

    def _arrived(self, bucket: Bucket, index: int) -> Callable[[torch.Tensor], None]:
        @torch.no_grad()
        def hook(p: torch.Tensor) -> None:
            if bucket.reducing is not None:  # still under way from the previous micro-batch
                self._collect(bucket)
            if bucket.buffer is None:
                bucket.buffer = self._borrow(bucket)
            view, grad = bucket.view(bucket.buffer, index), p.grad
            assert grad is not None
            if index in bucket.seen:
                view.add_(grad)
            else:
                view.copy_(grad)
                bucket.seen.add(index)
            p.grad = None
            bucket.arrivals += 1
            # Stages of a pipeline that share a bucket arrive several times before the others have arrived once.
            whole = len(bucket.seen) == len(bucket.parameters)
            if whole and bucket.arrivals >= len(bucket.parameters) * self.launch_after:
                self._launch(bucket)

        return hook

    def _borrow(self, bucket: Bucket) -> torch.Tensor:
        length = bucket.flat.numel()
        if self.stage == 1:
            return self._new_buffer(length)
        bucket.lent = self._from_pool(length)
        return bucket.lent[:length]

    def _from_pool(self, length: int) -> torch.Tensor:
        """A buffer of at least this length: one that is free, one whose reduction is waited for, or a new one."""
        while True:
            fitting = [buffer for buffer in self.pool if buffer.numel() >= length]
            if fitting:
                chosen = min(fitting, key=torch.Tensor.numel)
                self.pool = [buffer for buffer in self.pool if buffer is not chosen]
                return chosen
            if self.in_flight and self.buffers >= self.POOL:
                self._collect(self.in_flight[0])
                continue
            if self.pool:  # free, but too short: a longer one takes its place
                self.pool.sort(key=torch.Tensor.numel)
                del self.pool[0]
                self.buffers -= 1
            self.buffers += 1
            return self._new_buffer(length)

    def _launch(self, bucket: Bucket) -> None:
        assert bucket.buffer is not None
        bucket.reducing = reduce_scatter(bucket.buffer, bucket.group, bucket.tag)
        self.in_flight.append(bucket)
        bucket.arrivals = 0
        bucket.seen.clear()
        if not self.overlap:
            self._collect(bucket)

    def _collect(self, bucket: Bucket) -> None:
        """Wait for a bucket's reduction; keep this rank's chunk, and under ZeRO-2 give the buffer back."""
        assert bucket.reducing is not None
        assert bucket.buffer is not None
        chunk = bucket.reducing.wait()
        self.in_flight.remove(bucket)
        if self.stage == 1:
            bucket.shard = chunk
        else:
            if bucket.shard is None:
                bucket.shard = chunk.clone()
            else:
                bucket.shard.add_(chunk)
            assert bucket.lent is not None
            self.pool.append(bucket.lent)
            bucket.buffer = bucket.lent = None
        bucket.reducing = None

    @torch.no_grad()
    def finish_gradients(self) -> None:
        for bucket in self.buckets:
            if bucket.reducing is None and (bucket.arrivals or bucket.shard is None):
                self._launch_incomplete(bucket)
        for bucket in list(self.in_flight):
            self._collect(bucket)

    def _launch_incomplete(self, bucket: Bucket) -> None:
        """Some parameter had no part in the loss: its gradient is zero, the others' must still be summed."""
        if bucket.buffer is None:
            bucket.buffer = self._borrow(bucket)
        for index, view in enumerate(bucket.views(bucket.buffer)):
            if index not in bucket.seen:
                view.zero_()
        self._launch(bucket)

    def gradients_of(self, names: Set[str]) -> list[torch.Tensor]:
        return [
            bucket.shard
            for bucket in sorted(self.buckets, key=lambda b: b.alone)
            if bucket.alone in names and bucket.shard is not None
        ]

    # -- update

    def set_lr(self, lr: float) -> None:
        for bucket in self.buckets:
            set_lr(bucket.optimizer, lr)

    def _shards(self) -> list[tuple[torch.Tensor, float]]:
        return [(bucket.shard, bucket.share) for bucket in self.buckets if bucket.shard is not None]

    def norm(self) -> torch.Tensor:
        self._clear_padding()
        return global_norm(self._shards(), self.training.device, reduce=True) / self.training.degree("dp")

    def _clear_padding(self) -> None:
        """Padding between parameters is never written by a hook; whatever the buffer held there is not a gradient."""
        for bucket in self.buckets:
            start, stop = bucket.mine.start, bucket.mine.stop
            ends = [at + p.numel() for at, p in zip(bucket.offsets, bucket.parameters, strict=True)]
            for end, begin in zip(ends, [*bucket.offsets[1:], bucket.flat.numel()], strict=True):
                low, high = max(end, start), min(begin, stop)
                if low < high and bucket.shard is not None:
                    bucket.shard[low - start : high - start].zero_()

    def scale(self, factor: float | torch.Tensor) -> None:
        # The mean over ranks is folded into the one multiplication that clipping needs anyway.
        multiply([shard for shard, _ in self._shards()], factor / self.training.degree("dp"))

    def step(self, skip: torch.Tensor | None = None) -> None:
        for bucket in reversed(self.buckets):
            bucket.update(skip)
            bucket.gathering = all_gather(bucket.flat, bucket.group, bucket.tag + 1)
            if not self.overlap:
                bucket.wait_gathered()

    def zero_gradients(self) -> None:
        for bucket in self.buckets:
            bucket.shard = bucket.buffer = None

    # -- forward

    def _hook_forward(self) -> None:
        covered: set[int] = set()
        for part in self.training.parts:
            units = [unit for _, unit in self.training.units(part)]
            others = [child for child in part.children() if not any(u in set(child.modules()) for u in units)]
            for unit in [*units, *others]:
                covered |= {id(p) for p in unit.parameters()}
                unit.register_forward_pre_hook(self._waiting({id(p) for p in unit.parameters()}))
            rest = {id(p) for p in part.parameters()} - covered
            part.register_forward_pre_hook(self._waiting(rest))

    def _waiting(self, parameters: set[int]) -> Callable[[nn.Module, Any], None]:
        needed = [b for b in self.buckets if any(id(p) in parameters for p in b.parameters)]

        def hook(module: nn.Module, inputs: Any) -> None:
            for bucket in needed:
                bucket.wait_gathered()

        return hook

    def drain(self) -> None:
        for bucket in self.buckets:
            bucket.wait_gathered()

    def _frozen(self) -> list[torch.Tensor]:
        return [p.detach() for _, p in self.training.named_parameters() if not p.requires_grad]

    def state(self) -> State:
        masters = [b.master for b in self.buckets] if self.training.master_weights else []
        held = [b.buffer for b in self.buckets] if self.stage == 1 else [*(b.shard for b in self.buckets), *self.pool]
        return State(
            params=[*(b.flat for b in self.buckets), *self._frozen()],
            grads=[t for t in held if t is not None],
            optimizer=[*stored(masters), *(t for b in self.buckets for t in optimizer_state(b.optimizer))],
        )


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
