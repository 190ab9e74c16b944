"""Lightning's Trainer with a module and a loader; it starts its second process itself."""

from __future__ import annotations

import argparse

import lightning.pytorch as lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 1))

    def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=8, help="of one process, at a time")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches of a step")
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--folder", default=".")
    parser.add_argument("--steps", type=int, default=2000)
    asked = parser.parse_args()

    lightning.seed_everything(0)
    data = TensorDataset(torch.randn(4096, 64), torch.randn(4096, 1))
    loader = DataLoader(data, asked.batch_size, num_workers=asked.workers, drop_last=True)
    trainer = lightning.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=2,
        strategy="ddp",
        accumulate_grad_batches=asked.accumulation,
        precision=asked.precision,
        gradient_clip_val=1.0,
        max_steps=asked.steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=asked.folder,
    )
    trainer.fit(Module(), loader)


if __name__ == "__main__":
    main()
