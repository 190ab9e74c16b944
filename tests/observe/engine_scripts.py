"""Scripts around engines of others: engine_scripts.py FOLDER CASE; each writes its losses into FOLDER/told<rank>."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

FOLDER, CASE = Path(sys.argv[1]), sys.argv[2]
RANK = int(os.environ.get("RANK", "0"))


def tell(losses: list[float]) -> None:
    with (FOLDER / f"told{RANK}").open("a") as file:
        file.writelines(f"{loss.hex()}\n" for loss in losses)


def parts() -> tuple[torch.nn.Module, torch.utils.data.DataLoader[tuple[torch.Tensor, ...]]]:
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(2048, 16), torch.randn(2048, 1))
    return torch.nn.Linear(16, 1), torch.utils.data.DataLoader(data, batch_size=4)


def accelerated() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, loader = parts()
    optimizer = torch.optim.AdamW(model.parameters())
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses: list[float] = []
    for x, y in loader:
        with accelerator.accumulate(model):
            loss = torch.nn.functional.mse_loss(model(x), y)
            accelerator.backward(loss)
            losses.append(loss.item() / 2)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            tell([sum(losses)])
            losses = []


def trainer() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    class Tell(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args, state, control, logs=None, **kwargs) -> None:  # type: ignore[no-untyped-def]
            if logs and "loss" in logs and state.is_world_process_zero:
                tell([float(logs["loss"])])

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=97
    )
    ids = torch.randint(0, 97, (512, 12))
    mask = torch.ones_like(ids)
    mask[:, 9:] = 0
    rows = [{"input_ids": i, "labels": i, "attention_mask": m} for i, m in zip(ids, mask, strict=True)]
    arguments = TrainingArguments(
        output_dir=str(FOLDER / "out"),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        logging_steps=1,
        max_steps=200,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    Trainer(model=LlamaForCausalLM(config), args=arguments, train_dataset=rows, callbacks=[Tell()]).train()


def deepspeed() -> None:
    import deepspeed as package

    model, loader = parts()
    settings = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "zero_optimization": {"stage": int((*sys.argv, "1")[3])},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        "gradient_clipping": 1.0,
    }
    engine, *_ = package.initialize(model=model, model_parameters=model.parameters(), config=settings)
    losses: list[float] = []
    for x, y in loader:
        loss = torch.nn.functional.mse_loss(engine(x), y)
        engine.backward(loss)
        losses.append(loss.item() / 2)
        engine.step()
        if len(losses) == 2:
            tell([sum(losses)])
            losses = []


def lightning() -> None:
    import lightning.pytorch as package

    class Module(package.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = parts()[0]
            self.losses: list[float] = []

        def training_step(self, batch, number):  # type: ignore[no-untyped-def]
            loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
            self.losses.append(loss.item() / 2)
            if len(self.losses) == 2:
                tell([sum(self.losses)])
                self.losses = []
            return loss

        def configure_optimizers(self):  # type: ignore[no-untyped-def]
            return torch.optim.AdamW(self.parameters())

    trainer = package.Trainer(
        max_epochs=9,
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        strategy="ddp",
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=FOLDER,
    )
    trainer.fit(Module(), parts()[1])


def compiled() -> None:
    """The optimizer's step is compiled, so that none of its hooks is called."""
    model, loader = parts()
    optimizer = torch.optim.AdamW(model.parameters())
    step = torch.compile(optimizer.step, backend="eager")
    while True:
        for x, y in loader:
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            step()
            tell([loss.item()])
            optimizer.zero_grad()


def gan() -> None:
    """Two optimizers, in turns: a step is one of each."""
    model, loader = parts()
    other = torch.nn.Linear(16, 1)
    first, second = (torch.optim.SGD(each.parameters(), lr=1e-3) for each in (model, other))
    while True:
        for x, y in loader:
            both = []
            for net, optimizer in ((model, first), (other, second)):
                loss = torch.nn.functional.mse_loss(net(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                both.append(loss.item())
            tell(both)


def spawned() -> None:
    torch.multiprocessing.spawn(_child, args=(2,), nprocs=2)


def _child(rank: int, world: int) -> None:
    global RANK
    RANK = rank
    store = f"file://{FOLDER}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    model, loader = parts()
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=1e-3)
    for x, y in loader:
        loss = torch.nn.functional.mse_loss(wrapped(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tell([loss.item()])


if __name__ == "__main__":
    {
        "deepspeed": deepspeed,
        "lightning": lightning,
        "accelerate": accelerated,
        "trainer": trainer,
        "compiled": compiled,
        "gan": gan,
        "spawn": spawned,
    }[CASE]()
