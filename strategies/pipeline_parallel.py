"""Pipeline parallelism: consecutive blocks on different ranks, micro-batches flowing through them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

from strategies import dropout
from strategies.base import Slot, Strategy, UnsuitableError
from strategies.facts import Facts
from strategies.knob import Choice, Knob, Range, Setting, Settings
from strategies.stages import cut
from strategies.training import MESH_AXES

if TYPE_CHECKING:
    from torch import nn

    from strategies.training import Batch, Training

STAGES_PER_RANK = {"gpipe": 1, "1f1b": 1, "interleaved": 2}
"""Model stages on each rank, by schedule."""


class PipelineParallel(Strategy):
    """torch.distributed.pipelining with GPipe (Huang 2019), 1F1B and interleaved 1F1B (Narayanan 2021)."""

    name = "pipeline_parallel"
    slot = Slot.PIPELINE
    summary = "consecutive blocks on different ranks, micro-batches flowing through them"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Range(name="pp", default=1, low=1, high=1024, integer=True, points=(1, 2, 4, 8), unit="ranks", doc="stages"),
        Choice(
            name="pp_schedule",
            default="1f1b",
            values=("gpipe", "1f1b", "interleaved"),
            doc="order of forward and backward passes; interleaved puts two stages on each rank",
            when={"pp": range(2, 1025)},
        ),
    )

    def active(self, plan: Settings) -> bool:
        return plan["pp"] != 1

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"pp": 2, "pp_schedule": schedule} for schedule in STAGES_PER_RANK]

    def check(self, plan: Settings, facts: Facts) -> str | None:
        pp, schedule, model = int(plan["pp"]), str(plan["pp_schedule"]), facts.model
        stages = pp * STAGES_PER_RANK[schedule]
        micro_batches = facts.global_batch_size // (int(plan["dp"]) * int(plan["micro_batch_size"]))
        if not model.stream:
            why = model.whole_because or "it is not a stem, a row of blocks and a head"
            return f"{facts.workload} cannot be cut into stages: {why}"
        if model.shared_blocks:
            return f"{facts.workload} shares a weight between blocks, which would lie on different ranks"
        if len(model.blocks) < stages:
            return f"{stages} stages need at least {stages} blocks, but {facts.workload} has {len(model.blocks)}"
        if micro_batches < pp:
            return (
                f"{schedule} over {pp} stages needs at least {pp} micro-batches, but got {micro_batches} "
                f"(global batch={facts.global_batch_size}, dp={plan['dp']}, micro-batch={plan['micro_batch_size']})"
            )
        if schedule == "interleaved" and micro_batches % (micro_batches // pp):
            return f"interleaved needs micro-batches in equal rounds of pp, but got {micro_batches} of them and pp={pp}"
        return None

    def apply(self, training: Training) -> None:
        whole = training.parts[0]
        pp, rank = training.degree("pp"), training.coordinate("pp")
        stages = pp * STAGES_PER_RANK[str(training.plan["pp_schedule"])]
        model = training.facts.model
        counts = balance(len(model.blocks), stages, model.block_flops, model.head_flops)
        bounds = [0, *itertools.accumulate(counts)]
        cuts = [
            cut(whole, model, model.blocks[bounds[s] : bounds[s + 1]], first=s == 0, last=s == stages - 1)
            for s in range(stages)
        ]
        for number, part in enumerate(cuts, start=1):
            if not any(p.requires_grad for p in part.parameters()):  # torch's schedules wait for its gradients for ever
                raise UnsuitableError(
                    f"nothing in stage {number} of {stages} is trained; use fewer stages, or freeze less"
                )
        training.parts = cuts[rank::pp]
        tie_ends(training, cuts[0], cuts[-1])

    def finish(self, training: Training) -> None:
        training.forward_backward = Pipeline(training).forward_backward


def tie_ends(training: Training, first: nn.Module, last: nn.Module) -> None:
    """Where both ends hold a weight, each has a copy, and the sum of both gradients."""
    held = [{training.whole_name(n) for n, p in end.named_parameters() if p.requires_grad} for end in (first, last)]
    if not held[0] & held[1]:
        return
    training.copies = held[0] & held[1]
    ranks = training.mesh.mesh.reshape([training.degree(axis) for axis in MESH_AXES])
    for pair in ranks[[0, -1]].flatten(1).T.tolist():  # every rank makes every group, in one order
        group = dist.new_group(pair)
        if dist.get_rank() in pair:
            training.ends = group


def balance(blocks: int, stages: int, block_cost: float, head_cost: float) -> list[int]:
    """Blocks of each stage so that the slowest stage is as fast as can be, each stage with at least one.

    The head runs on the last stage and counts like the blocks it costs as much as. Among equal choices the earlier
    stages hold more, since a later stage finishes its warm-up later.

    Args:
        blocks: number of blocks, at least `stages`.
        stages: number of stages.
        block_cost: cost of one block, in any unit.
        head_cost: cost of what follows the blocks, in the same unit.
    """
    counts = [1] * stages
    for _ in range(blocks - stages):
        costs = [(n + 1) * block_cost + (head_cost if s == stages - 1 else 0.0) for s, n in enumerate(counts)]
        counts[costs.index(min(costs))] += 1
    return counts


class Stage(PipelineStage):
    """A stage that says which samples its forward pass works on; schedules run several before one goes backward."""

    training: Training

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        with dropout.at(self.training.place(fwd_chunk_id)):
            return super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)


class Pipeline:
    """Runs one step of a schedule over this rank's stages."""

    SCHEDULES: dict[str, Any] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved": ScheduleInterleaved1F1B}

    def __init__(self, training: Training) -> None:
        self.training = training
        pp, rank = training.degree("pp"), training.coordinate("pp")
        name = str(training.plan["pp_schedule"])
        count = pp * STAGES_PER_RANK[name]
        indices = range(rank, count, pp)
        self.last = count - 1 in indices
        stages = [
            Stage(part, index, count, training.device, group=training.group("pp"), **self._shapes(index, count))
            for part, index in zip(training.parts, indices, strict=True)
        ]
        for stage in stages:
            stage.training = training
        self.batch: Batch = {}
        self.schedule = self.SCHEDULES[name](
            stages[0] if STAGES_PER_RANK[name] == 1 else stages,
            training.accumulation,
            loss_fn=self._loss,
            scale_grads=False,
        )

    def _shapes(self, index: int, count: int) -> dict[str, Any]:
        """What goes in and out of a stage, so that the first step need not run the model once more to find out."""
        plan, model = self.training.plan, self.training.facts.model
        batch, (length, *features) = int(plan["micro_batch_size"]), model.stream
        share = length // int(plan["tp"]) if plan.get("sequence_parallel") else length
        stream = torch.empty(batch, share, *features, dtype=self.training.stream_dtype, device="meta").requires_grad_()
        return {
            "input_args": () if index == 0 else stream,
            "output_args": torch.empty(batch, *self.training.outputs, device="meta") if index == count - 1 else stream,
        }

    def _loss(self, outputs: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Of the samples at these places. Schedules split one tensor of targets, and a batch is several; of it they
        give views, whose offsets can be told without reading them."""
        first = int(places.storage_offset())
        some = {name: tensor[first : first + len(places)] for name, tensor in self.batch.items()}
        return self.training.micro_loss(outputs, some)

    def forward_backward(self, batch: Batch) -> None:
        """All micro-batches of a step; the loss is known on the rank of the last stage only."""
        self.batch = batch
        places = torch.arange(len(next(iter(batch.values())))) if self.last else None
        self.schedule.step(**self.training.given(batch), target=places, return_outputs=False)
        self.batch = {}
