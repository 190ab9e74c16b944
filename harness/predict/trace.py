"""One step of one rank of any plan, without its devices: fake tensors, a fake process group, the strategies' own code.

What a rank of a trial runs is run here with tensors that have a shape and no content (torch's FakeTensorMode), so a
laptop sees which bytes the first rank of 4,096 holds when most are held, which operators it runs and what it sends.
Nothing is modelled but DistributedDataParallel, whose reducer is C++ that cannot hold fake tensors.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from harness.rank.main import build
from harness.rank.observe import watching
from harness.workloads import hollow
from harness.workloads.workload import Workload
from strategies import collectives, ddp, pipeline_parallel, training
from strategies.facts import Facts
from strategies.knob import Settings
from strategies.training import Training

DEEP = 8
"""Blocks of a rank from which two shallower models are traced instead, and the rest is linear in the blocks."""
MANY = 3
"""Likewise of micro-batches, for each pipeline stage: with more than so many all that grows is linear in them."""
STEPS = 2
"""Steps that are run; the last is watched, since the first makes what is kept from step to step."""


@dataclass(frozen=True)
class Operator:
    """Calls of one operator with one set of shapes."""

    name: str
    """As torch calls it, such as "aten.mm.default"."""
    shapes: tuple[tuple[int, ...], ...]
    """Of its tensors."""
    dtype: str
    """Of the first of them."""


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What one rank does in one step."""

    rank: int
    memory: Mapping[str, float]
    """Category -> bytes when most are alive."""
    operators: Mapping[Operator, float]
    """Operator -> calls."""
    collectives: Mapping[str, tuple[float, float]]
    """Collective -> (bytes this rank sends, calls)."""

    @property
    def peak_bytes(self) -> float:
        """Most bytes of tensors alive at once."""
        return sum(self.memory.values())

    @property
    def sent_bytes(self) -> float:
        """Bytes this rank sends."""
        return sum(sent for sent, _ in self.collectives.values())


def worst_rank(workload: Workload, plan: Settings, facts: Facts) -> Traced:
    """The rank that holds most, one rank of each pipeline stage being looked at.

    Args:
        workload: what is trained.
        plan: one that passed every check.
        facts: what it was checked against; its device type decides how ranks exchange chunks.

    Raises:
        RuntimeError: torch.distributed is in use by this process.
    """
    per_stage = math.prod(int(plan[axis]) for axis in ("dp", "tp"))
    # The first stage has the embedding, most blocks and most micro-batches in flight, the last one the logits.
    ranks = dict.fromkeys((0, (int(plan["pp"]) - 1) * per_stage))
    return max((rank_of(workload, plan, facts, rank) for rank in ranks), key=lambda traced: traced.peak_bytes)


def rank_of(workload: Workload, plan: Settings, facts: Facts, rank: int) -> Traced:
    """What one rank does; of a deep model or of many micro-batches, from shallower models and fewer micro-batches."""
    parts: list[tuple[float, Traced]] = []
    for share, fewer in _in_batches(workload, plan):
        its = replace(facts, global_batch_size=fewer.global_batch_size)
        for weight, shallow in _in_depth(fewer, plan, its, rank):
            model = replace(its, model=shallow.facts())
            parts.append((share * weight, once(shallow, plan, model, rank)))
    return parts[0][1] if len(parts) == 1 else _sum(rank, parts)


def _in_batches(workload: Workload, plan: Settings) -> list[tuple[float, Workload]]:
    """Workloads of fewer micro-batches with the weights that make the asked one of them."""
    one, pp = int(plan["dp"]) * int(plan["micro_batch_size"]), int(plan["pp"])
    count = workload.global_batch_size // one
    if count <= MANY * pp:
        return [(1.0, workload)]
    # The first of several is unlike the others; a pipeline is full with two more than stages, or with twice as many.
    ends = (2 * pp, 3 * pp) if plan.get("pp_schedule") == "interleaved" else (pp + 2, pp + 3)
    return _line(count, ends, lambda n: replace(workload, global_batch_size=n * one))


def _in_depth(workload: Workload, plan: Settings, facts: Facts, rank: int) -> list[tuple[float, Workload]]:
    """Shallower workloads, likewise."""
    held = _blocks_of(facts, plan, rank)
    if held < DEEP:
        return [(1.0, workload)]
    stages = int(plan["pp"]) * pipeline_parallel.STAGES_PER_RANK.get(str(plan.get("pp_schedule")), 1)
    least = 3 + int(plan.get("prefetch", 0)) * int(plan.get("blocks_per_unit", 1))
    if held <= 2 * least:
        return [(1.0, workload)]
    by_count: dict[int, Workload] = {}
    for blocks in (least, 2 * least):
        shallow = workload.shallow(blocks * stages)
        if shallow is None:
            return [(1.0, workload)]
        by_count[_blocks_of(replace(facts, model=shallow.facts()), plan, rank)] = shallow
    fewer, more = by_count
    return _line(held, (fewer, more), by_count.__getitem__)


def _line(at: int, ends: tuple[int, int], made: Callable[[int], Workload]) -> list[tuple[float, Workload]]:
    """Both ends with the weights that make a line through them at `at`."""
    share = (at - ends[0]) / (ends[1] - ends[0])
    return [(1 - share, made(ends[0])), (share, made(ends[1]))]


def _sum(rank: int, parts: Sequence[tuple[float, Traced]]) -> Traced:
    """Traces added up, each times its weight."""
    memory: defaultdict[str, float] = defaultdict(float)
    operators: defaultdict[Operator, float] = defaultdict(float)
    sent: defaultdict[str, float] = defaultdict(float)
    calls: defaultdict[str, float] = defaultdict(float)
    for weight, traced in parts:
        for name, size in traced.memory.items():
            memory[name] += weight * size
        for operator, count in traced.operators.items():
            operators[operator] += weight * count
        for name, (size, count) in traced.collectives.items():
            sent[name] += weight * size
            calls[name] += weight * count
    return Traced(
        rank=rank,
        memory=dict(memory),
        operators=dict(operators),
        collectives={name: (sent[name], calls[name]) for name in sent},
    )


def once(workload: Workload, plan: Settings, facts: Facts, rank: int) -> Traced:
    """What one rank does, from its model as it is."""
    if dist.is_initialized():
        raise RuntimeError("a plan cannot be traced in a process that has a process group")
    world = math.prod(int(plan[axis]) for axis in ("dp", "tp", "pp"))
    operators, one = _Operators(), workload.samples(0, np.array([0]))
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if world > 1:
            stack.callback(setattr, sys, "excepthook", sys.excepthook)  # torch puts one more around it each time
            dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
            stack.callback(dist.destroy_process_group)
        stack.enter_context(_stand_ins(facts.device_type))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_Scalars())
        stack.enter_context(hollow.Grouped())
        stack.enter_context(hollow.one_sequence(one))
        built = build(workload, plan, facts, torch.device("cpu"), _valueless)
        batch = {name: _fake_samples(built, sample) for name, sample in one.items()}
        for step in range(STEPS - 1):
            built.step(step, batch)
        with operators, watching(built) as observer:
            built.step(STEPS - 1, batch)
    return Traced(
        rank=rank,
        memory={name: float(size) for name, size in observer.at_peak().items()},
        operators=dict(operators.calls),
        collectives={name: (float(sent), float(calls)) for name, (sent, calls) in observer.sent.items()},
    )


def _blocks_of(facts: Facts, plan: Settings, rank: int) -> int:
    """Blocks that a rank holds."""
    model, pp = facts.model, int(plan["pp"])
    if pp == 1:
        return len(model.blocks)
    stages = pp * pipeline_parallel.STAGES_PER_RANK[str(plan["pp_schedule"])]
    counts = pipeline_parallel.balance(len(model.blocks), stages, model.block_flops, model.head_flops)
    return sum(counts[rank // (int(plan["dp"]) * int(plan["tp"])) :: pp])


def _valueless(name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.empty(shape, device=device)


def _fake_samples(built: Training, one: torch.Tensor) -> torch.Tensor:
    """The samples of this rank's replica, by the shape of one."""
    return torch.empty((len(built.sample_indices), *one.shape[1:]), dtype=one.dtype)


class _Scalars(TorchDispatchMode):
    """Gives fake tensors that are read as numbers, such as a clipping factor, a value: they have none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return {True: 0.5}.get(args[0].is_floating_point(), args[0].dtype is torch.bool or 1)
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """Counts operators by name and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Operator] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        shapes = tuple(tuple(tensor.shape) for tensor in given)
        dtype = str(given[0].dtype).removeprefix("torch.") if given else ""
        self.calls[Operator(str(func), shapes, dtype)] += 1
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _stand_ins(device_type: str) -> Iterator[None]:
    """While it is entered, strategies meet what works with fake tensors.

    A device mesh is made of real tensors, and so are its axes and the pairs of ranks that hold both ends of a model.
    The fake process group has no name of its own for what it stands for, so whether ranks exchange chunks point to
    point is said here.
    """

    def mesh(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return init_device_mesh(*args, **kwargs)

    whole = DeviceMesh.__getitem__

    def axis(mesh: DeviceMesh, names: Any) -> DeviceMesh:
        with unset_fake_temporarily():
            return whole(mesh, names)

    tie = pipeline_parallel.tie_ends

    def ends(*args: Any) -> None:
        with unset_fake_temporarily():
            tie(*args)

    swapped: list[tuple[Any, str, Any]] = [
        (pipeline_parallel, "tie_ends", ends),
        (training, "init_device_mesh", mesh),
        (DeviceMesh, "__getitem__", axis),
        (collectives, "exchanges_chunks", lambda group: device_type == "cpu"),
        (ddp, "DistributedDataParallel", _Ddp),
    ]
    kept = [getattr(module, name) for module, name, _ in swapped]
    for module, name, stand_in in swapped:
        setattr(module, name, stand_in)
    try:
        yield
    finally:
        for (module, name, _), real in zip(swapped, kept, strict=True):
            setattr(module, name, real)


class _Ddp(nn.Module):
    """The memory and the traffic of DistributedDataParallel: buckets of all gradients that are always there.

    Args:
        module: what it wraps.
        process_group: over which gradients are averaged.
        bucket_cap_mb: size of a bucket in MiB, as torch counts.
        gradient_as_bucket_view: whether gradients are views of the buckets.
        options: what makes no difference here.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        process_group: dist.ProcessGroup,
        bucket_cap_mb: float,
        gradient_as_bucket_view: bool,
        **options: Any,
    ) -> None:
        super().__init__()
        self.module = module
        self._group, self._views, self._sync = process_group, gradient_as_bucket_view, True
        self._hook: Any = None
        self._state: Any = None
        for members in self._divide(int(bucket_cap_mb * (1 << 20))):
            self._fill(members)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def no_sync(self) -> AbstractContextManager[None]:
        """Gradients stay local meanwhile."""

        @contextlib.contextmanager
        def local() -> Iterator[None]:
            self._sync = False
            try:
                yield
            finally:
                self._sync = True

        return local()

    def register_comm_hook(self, state: Any, hook: Any) -> None:
        """Buckets are averaged by `hook(state, bucket)` from now on; of its temporaries one copy in fp32 is known."""
        self._state, self._hook = state, hook

    def _divide(self, limit: int) -> Iterator[Sequence[nn.Parameter]]:
        """Parameters of a bucket, from the last one on; a bucket is full once it holds as much as the limit."""
        members: list[nn.Parameter] = []
        held = 0
        for parameter in reversed([p for p in self.module.parameters() if p.requires_grad]):
            members.append(parameter)
            held += parameter.numel() * parameter.element_size()
            if held >= limit:
                yield members
                members, held = [], 0
        if members:
            yield members

    def _fill(self, members: Sequence[nn.Parameter]) -> None:
        bucket = torch.empty(sum(p.numel() for p in members), dtype=members[0].dtype, device=members[0].device)
        offsets = [0, *itertools.accumulate(p.numel() for p in members)]
        arrived: list[int] = []

        def arrives(view: torch.Tensor) -> Any:
            def hook(parameter: torch.Tensor) -> None:
                grad = parameter.grad
                assert grad is not None
                if not self._sync:  # the reducer sleeps: gradients add up outside of the buckets
                    return
                view.copy_(grad)
                if self._views:
                    parameter.grad = view
                arrived.append(1)
                if len(arrived) == len(members):
                    arrived.clear()
                    self._reduce(bucket)

            return hook

        for parameter, begin in zip(members, offsets, strict=False):
            view = bucket[begin : begin + parameter.numel()].view(parameter.shape)
            parameter.register_post_accumulate_grad_hook(arrives(view))

    def _reduce(self, bucket: torch.Tensor) -> None:
        with torch.no_grad():
            wide = bucket if self._hook is None else bucket.float()
            dist.all_reduce(wide, group=self._group)
            if wide is not bucket:
                bucket.copy_(wide)
