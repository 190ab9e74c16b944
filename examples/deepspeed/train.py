"""DeepSpeed: its engine divides what its configuration file says; started by torchrun."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import deepspeed
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    asked = parser.parse_args()
    config = json.loads(asked.config.read_text())

    deepspeed.init_distributed()
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(4096, 64), torch.randn(4096, 1))
    sampler: DistributedSampler[object] = DistributedSampler(data, shuffle=False)
    loader = DataLoader(data, config["train_micro_batch_size_per_gpu"], sampler=sampler, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 1))
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    number = next(engine.parameters()).dtype

    while engine.global_steps < asked.steps:
        for x, y in loader:
            x, y = x.to(engine.device, number), y.to(engine.device, number)
            loss = nn.functional.mse_loss(engine(x), y)
            engine.backward(loss)
            engine.step()
            if engine.is_gradient_accumulation_boundary() and engine.global_steps % 100 == 0:
                print(f"step {engine.global_steps}: loss {loss.item():.4f}", flush=True)


if __name__ == "__main__":
    main()
