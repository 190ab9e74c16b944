"""Plain PyTorch: DistributedDataParallel, a DataLoader with workers, autocast; started by torchrun."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=16, help="of one rank, at a time")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches of a step")
    parser.add_argument("--bucket-mib", type=float, default=25.0, help="gradients that are sent at once")
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--steps", type=int, default=2000)
    asked = parser.parse_args()

    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu")

    torch.manual_seed(0)
    data = TensorDataset(torch.randn(4096, 64), torch.randint(0, 10, (4096,)))
    # Without shuffling a step holds the same samples however it is divided into micro-batches.
    sampler: DistributedSampler[object] = DistributedSampler(data, shuffle=False)
    loader = DataLoader(data, asked.batch_size, sampler=sampler, num_workers=asked.workers, drop_last=True)
    net = nn.Sequential(nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 10)).to(device)
    model = DistributedDataParallel(net, bucket_cap_mb=asked.bucket_mib)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for step in range(asked.steps):
        for micro in range(asked.accumulation):
            x, y = (each.to(device) for each in next(batches))
            last = micro == asked.accumulation - 1
            with contextlib.nullcontext() if last else model.no_sync():
                with torch.autocast(device.type, torch.bfloat16, enabled=asked.bf16):
                    loss = nn.functional.cross_entropy(model(x), y)
                (loss / asked.accumulation).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 and dist.get_rank() == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
