"""The training loops of plain.py, each as one would write it by hand with PyTorch or DeepSpeed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from harness.rank.peak_memory import Memory, memory_of

Step = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor | None]
"""(number of the step, inputs, targets) -> mean loss of this rank's samples, None where it is not seen."""


class Run:
    """What every variant starts from."""

    def __init__(self, workload: Any, plan: dict[str, Any], device: torch.device) -> None:
        self.workload, self.plan, self.device, self.config = workload, plan, device, workload.optimizer
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.micro_batch = int(plan["micro_batch_size"])
        share = workload.global_batch_size // self.world
        self.indices = range(self.rank * share, (self.rank + 1) * share)

    @cached_property
    def memory(self) -> Memory:
        """Counts from its first use, when a loop has imported what it needs; the harness's ranks begin imported."""
        import torch._dynamo  # noqa: F401 - an optimizer's first step imports it

        return memory_of(self.device)

    def model(self) -> Any:
        _ = self.memory
        with self.device:
            model = self.workload.build()
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(self.workload.initial(name, tuple(p.shape), self.device))
        return model

    @staticmethod
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean over all predictions."""
        return nn.functional.cross_entropy(outputs.flatten(0, -2).float(), targets.flatten())

    def micro_batches(self, *tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        return list(zip(*(torch.split(tensor, self.micro_batch) for tensor in tensors), strict=True))

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim <= 1]
        return [
            {"params": matrices, "weight_decay": self.config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]

    def adamw(self, groups: list[dict[str, Any]], kind: Any = torch.optim.AdamW, **more: Any) -> Any:
        return kind(groups, lr=self.config.lr, betas=self.config.betas, eps=self.config.eps, fused=True, **more)

    def loop(self, model: Any, optimizer: Any) -> Step:
        """Gradient accumulation, clipping, update: the usual loop."""

        def step(number: int, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            for group in optimizer.param_groups:
                group["lr"] = self.config.lr_at(number)
            micro = self.micro_batches(inputs, targets)
            total = torch.zeros((), device=self.device)
            for i, (x, y) in enumerate(micro):
                local = i < len(micro) - 1 and hasattr(model, "no_sync")
                with model.no_sync() if local else contextlib.nullcontext():
                    loss = self.loss(model(x), y) / len(micro)
                    loss.backward()
                total += loss.detach()
            nn.utils.clip_grad_norm_(model.parameters(), self.config.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            return total

        return step


def ddp(run: Run) -> Step:
    model = _ddp(run)
    return run.loop(model, run.adamw(run.groups(model)))


def zero1_torch(run: Run) -> Step:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = _ddp(run)
    return run.loop(model, run.adamw(run.groups(model), ZeroRedundancyOptimizer, optimizer_class=torch.optim.AdamW))


def _ddp(run: Run) -> nn.Module:
    return nn.parallel.DistributedDataParallel(
        run.model(),
        bucket_cap_mb=run.plan["bucket_mb"] * 1e6 / 2**20,
        gradient_as_bucket_view=run.plan["gradient_as_bucket_view"],
        static_graph=run.plan["static_graph"],
    )


def zero3(run: Run) -> Step:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, depth = run.model(), int(run.plan["prefetch"])
    mesh = init_device_mesh(run.device.type, (run.world,))
    blocks = list(model.blocks.values())
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=run.plan["reshard_after_forward"])
    fully_shard(model, mesh=mesh)
    for i, block in enumerate(blocks if depth else []):
        block.set_modules_to_forward_prefetch(blocks[i + 1 : i + 1 + depth])
        block.set_modules_to_backward_prefetch(blocks[max(0, i - depth) : i][::-1])
    return run.loop(model, run.adamw(run.groups(model)))


def pipeline(run: Run) -> Step:
    from torch.distributed import pipelining as pp

    name, run.indices = run.plan["pp_schedule"], range(run.workload.global_batch_size)
    count = run.world * (2 if name == "interleaved" else 1)
    parts = {index: _cut(run.model(), index, count) for index in range(run.rank, count, run.world)}
    stages = [pp.PipelineStage(part, index, count, run.device) for index, part in parts.items()]
    kinds: dict[str, Any] = {"gpipe": pp.ScheduleGPipe, "1f1b": pp.Schedule1F1B}
    kind: Any = kinds.get(name, pp.ScheduleInterleaved1F1B)
    micro_batches = run.workload.global_batch_size // run.micro_batch
    schedule = kind(stages if name == "interleaved" else stages[0], micro_batches, loss_fn=run.loss)
    model = nn.ModuleList(parts.values())
    optimizer = run.adamw(run.groups(model))

    def step(number: int, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
        for group in optimizer.param_groups:
            group["lr"] = run.config.lr_at(number)
        losses: list[torch.Tensor] = []
        last = count - 1 in parts
        schedule.step(*([inputs] if 0 in parts else []), target=targets if last else None, losses=losses)
        squares = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).square()
        dist.all_reduce(squares)
        nn.utils.clip_grads_with_norm_(model.parameters(), run.config.clip_norm, squares.sqrt())
        optimizer.step()
        optimizer.zero_grad()
        return torch.stack([loss.detach() for loss in losses]).mean() if last else None

    return step


def _cut(model: Any, index: int, count: int) -> Any:
    names = list(model.blocks)
    kept = names[index * len(names) // count : (index + 1) * len(names) // count]
    for name in set(names) - set(kept):
        del model.blocks[name]
    model.stem = model.stem if index == 0 else nn.Identity()
    model.head = model.head if index == count - 1 else nn.Identity()
    return model


def recipe(run: Run) -> Step:
    """The harness's strategies in a bare loop; the plan is a complete one."""
    import strategies
    from harness.workloads import hollow
    from strategies.recipe import build

    workload, _ = run.workload, run.memory
    facts = strategies.Facts(
        device_type=run.device.type, world_size=run.world, global_batch_size=workload.global_batch_size,
        seq_len=workload.seq_len, workload=workload.name, model=workload.facts(),
    )  # fmt: skip
    with hollow.parameters():
        model = workload.build()
    training = build(
        model, plan=run.plan, strategies=strategies.registry().values(), facts=facts, device=run.device,
        initial=workload.initial, inputs=workload.inputs, loss=workload.loss, predictions=workload.predictions,
        optimizer=workload.optimizer,
    )  # fmt: skip
    run.indices = training.sample_indices
    names = list(workload.samples(0, np.arange(1)))
    return lambda number, *tensors: training.step(number, dict(zip(names, tensors, strict=True))).loss


def deepspeed(run: Run, stage: int) -> Step:
    """DeepSpeed's ZeRO with its own defaults; optimizer, clipping, micro-batch and accumulation as everywhere else."""
    import deepspeed  # type: ignore[import-untyped, unused-ignore]

    # Shared-memory collectives, for inference only: compiling them takes a minute, and a lock outlives an interruption.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    model = run.model()
    engine, optimizer, *_ = deepspeed.initialize(
        model=model,
        optimizer=run.adamw(run.groups(model)),
        config={
            "train_batch_size": run.workload.global_batch_size,
            "train_micro_batch_size_per_gpu": run.micro_batch,
            "gradient_clipping": run.config.clip_norm,
            "zero_optimization": {"stage": stage, **run.plan.get("zero_optimization", {})},
        },
    )

    def step(number: int, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        for group in optimizer.param_groups:
            group["lr"] = run.config.lr_at(number)
        losses = []
        for x, y in run.micro_batches(inputs, targets):
            loss = run.loss(engine(x), y)
            engine.backward(loss)
            engine.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    return step


LOOPS: dict[str, Callable[[Run], Step]] = {
    "ddp": ddp,
    "zero1-torch": zero1_torch,
    "zero3": zero3,
    "pipeline": pipeline,
    "zero1": recipe,
    "zero2": recipe,
    "tensor_parallel": recipe,
}
