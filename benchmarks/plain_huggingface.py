"""A model of transformers trained by Hugging Face's Trainer or by Accelerate, as their documentation has it.

    python -m torch.distributed.run --standalone --nproc-per-node 2 benchmarks/plain_huggingface.py --tool trainer

    --tool trainer | accelerate
    --strategy ddp | zero3             DistributedDataParallel, or FSDP2 with a unit for each decoder layer
    --workload llama-mini | moe-mini   initial values and batches are the harness's

Prints one JSON line, timed as plain.py times: warm-up steps, a barrier, the median of the slowest rank over a window.
On a CPU Accelerate offers no FSDP; its own functions for it are used there all the same, by telling its state so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import transformers
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from plain_loops import Run
from torch import nn

from harness import workloads
from harness.rank.clock import clock_for
from harness.workloads.minis import MINIS

WARMUP_STEPS = 6


class Theirs(Run):
    """The model is made by transformers."""

    def model(self) -> Any:
        _ = self.memory
        config = transformers.AutoConfig.for_model(**MINIS[self.workload.name].config)
        with self.device:
            model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(self.workload.initial(name, tuple(p.shape), self.device))
        return model


class Window:
    """Counts the steps of a rank, and times those after the warm-up."""

    def __init__(self, run: Run, steps: int) -> None:
        self.run, self.steps, self.done = run, steps, 0
        self.clock = clock_for(run.device)
        self.losses: list[torch.Tensor] = []
        self.times: list[float] = []

    def step(self) -> None:
        """One more has ended."""
        self.clock.mark()
        self.done += 1
        if self.done == WARMUP_STEPS:
            self.run.memory.reset_peak()
            dist.barrier()
            self.clock.restart()
        elif self.done == WARMUP_STEPS + self.steps:
            self.times = self.clock.all()

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """The micro-batches of this rank, one after another."""
        for number in range(WARMUP_STEPS + self.steps):
            batch = self.run.workload.samples(number, np.array(self.run.indices))
            split = {name: torch.split(tensor, self.run.micro_batch) for name, tensor in batch.items()}
            for at in range(len(self.run.indices) // self.run.micro_batch):
                yield arguments({name: tensors[at] for name, tensors in split.items()})


def arguments(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a causal language model of transformers takes: the harness's labels stand at their place already."""
    return {**batch, "shift_labels": batch["labels"]}


class Stream(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
    """The samples of all ranks in turn: Trainer gives each rank every other micro-batch."""

    def __init__(self, run: Run, steps: int) -> None:
        self.run, self.steps = run, steps

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Sample by sample."""
        for number in range(WARMUP_STEPS + self.steps):
            batch = arguments(dict(self.run.workload.samples(number, np.arange(self.run.workload.global_batch_size))))
            yield from ({name: tensor[i] for name, tensor in batch.items()} for i in range(len(batch["labels"])))


def sharded(accelerator: Accelerator, model: nn.Module) -> None:
    """Have Accelerate prepare models with FSDP2."""
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True
    )
    accelerator.state.fsdp_plugin.set_auto_wrap_policy(model)


def accelerate(run: Run, strategy: str, window: Window) -> None:
    """The loop of Accelerate's documentation."""
    model, accelerator = run.model(), Accelerator(cpu=run.device.type == "cpu", gradient_accumulation_steps=_micro(run))
    if strategy == "zero3":
        sharded(accelerator, model)
    optimizer = run.adamw(run.groups(model))
    model, optimizer = accelerator.prepare(model, optimizer)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(run))
    total = torch.zeros((), device=run.device)
    for batch in window.batches():
        with accelerator.accumulate(model):
            loss = model(**batch, use_cache=False).loss
            accelerator.backward(loss)
            total += loss.detach()
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), run.config.clip_norm)
            optimizer.step()
            if accelerator.sync_gradients:
                scheduler.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            window.losses.append(total / _micro(run))
            total = torch.zeros((), device=run.device)
            window.step()


def trainer(run: Run, strategy: str, window: Window) -> None:
    """transformers.Trainer with nothing logged, evaluated or saved."""
    model = run.model()

    class Timed(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            window.step()

    class Seen(transformers.Trainer):
        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            if strategy == "zero3":
                sharded(self.accelerator, model)
                self.is_fsdp_enabled = True

        def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
            self.optimizer = run.adamw(run.groups(self.model))
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, _rate(run))

        def create_optimizer(self, model: Any = None) -> Any:
            if self.optimizer is None:
                self.create_optimizer_and_scheduler(0)
            return self.optimizer

        def create_scheduler(self, *_: Any, **__: Any) -> Any:
            return self.lr_scheduler

        def training_step(self, *given: Any, **named: Any) -> torch.Tensor:
            loss = super().training_step(*given, **named)
            window.losses.append(loss)
            return loss

    with tempfile.TemporaryDirectory() as folder:
        given = transformers.TrainingArguments(
            folder, use_cpu=run.device.type == "cpu", ddp_find_unused_parameters=False,
            per_device_train_batch_size=run.micro_batch, gradient_accumulation_steps=_micro(run),
            max_steps=WARMUP_STEPS + window.steps, max_grad_norm=run.config.clip_norm, remove_unused_columns=False,
            logging_strategy="no", save_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
            accelerator_config={"dispatch_batches": False, "split_batches": False},
        )  # fmt: skip
        data = Stream(run, window.steps)
        Seen(model, given, train_dataset=data, callbacks=[Timed()]).train()


def _micro(run: Run) -> int:
    return len(run.indices) // run.micro_batch


def _rate(run: Run) -> Callable[[int], float]:
    return lambda step: run.config.lr_at(step) / run.config.lr


def main() -> None:
    """Train and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", choices=("trainer", "accelerate"), required=True)
    parser.add_argument("--strategy", choices=("ddp", "zero3"), default="ddp")
    parser.add_argument("--workload", default="llama-mini")
    parser.add_argument("--plan", default="{}", help="knobs as JSON")
    parser.add_argument("--steps", type=int, default=20, help="length of the measured window")
    parser.add_argument("--threads", type=int, default=1, help="threads of a rank")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cuda, rank = torch.cuda.is_available(), int(os.environ["RANK"])
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    dist.init_process_group("nccl" if cuda else "gloo")
    with tempfile.TemporaryDirectory() as cache:
        workload = workloads.create(given.workload, cache=Path(cache))
        workload.prepare()
        run = Theirs(workload, {"micro_batch_size": 4, **json.loads(given.plan)}, device)
        window = Window(run, given.steps)
        {"trainer": trainer, "accelerate": accelerate}[given.tool](run, given.strategy, window)
    mine = (window.times, [loss.item() for loss in window.losses[:8]], run.memory.peak())
    ranks: list[Any] = [None] * run.world
    dist.all_gather_object(ranks, mine)
    if rank == 0:
        found = {
            "step_time_s": statistics.median(max(at) for at in zip(*(r[0] for r in ranks), strict=True)),
            "peak_memory_bytes": max(r[2] for r in ranks),
            "losses": [statistics.mean(at) for at in zip(*(r[1] for r in ranks), strict=True)],
            "threads": torch.get_num_threads(),
        }
        print(json.dumps(found))
    dist.barrier()
    # The interpreter's own end now and then aborts in a thread of the process group, after everything was measured.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
