"""A training script as people write them; it knows nothing of the harness, but for the case that calls `observe`.

    somebodys_script.py FOLDER CASE [STEPS]

Each rank writes what it did into FOLDER/told<rank>: one loss a step, as an exact number.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

FOREVER = 10**6


def main() -> None:
    folder, case, steps = Path(sys.argv[1]), sys.argv[2], int((*sys.argv, FOREVER)[3])
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if dist.is_initialized() else 0
    torch.manual_seed(0)
    if case == "one sided" and rank == 1:
        time.sleep(1000)
    model: torch.nn.Module = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    if dist.is_initialized() and case != "one sided":
        model = DistributedDataParallel(model)
    data = torch.utils.data.TensorDataset(torch.arange(4096).reshape(-1, 2) % 50, torch.randn(2048, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=8, num_workers=2 if case == "workers" else 0)
    with (folder / f"told{rank}").open("w") as told:
        try:
            train(case, model, loader, rank, steps, told)
        except BaseException:
            if case != "catches":
                raise


def train(case: str, model: torch.nn.Module, loader: torch.utils.data.DataLoader, rank: int, steps: int, told) -> None:  # type: ignore[no-untyped-def, type-arg]
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=case == "scaler")
    micro = 3 if case in ("workers", "accumulates") else 1
    made, loss, waiting = 0, 0.0, 0
    while made < steps:
        for tokens, wanted in loader:
            out = model(tokens.float().repeat(1, 8) / 50)
            part = torch.nn.functional.mse_loss(out, wanted) / micro
            scaler.scale(part).backward()
            loss, waiting = loss + part.item(), waiting + 1
            if waiting < micro or case == "no optimizer":
                continue
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            made += 1
            print(loss.hex(), file=told, flush=True)
            if case == "says":
                from harness import observe

                observe.step(loss=2 * loss, tokens=100, samples=5)
            loss, waiting = 0.0, 0
            if made >= steps:
                return
            if made == 8:
                misbehave(case, rank)


def misbehave(case: str, rank: int) -> None:
    if case == "raises" and rank == 1:
        raise ValueError("as asked")
    if case == "is killed" and rank == 1:
        os.kill(os.getpid(), 9)
    if case == "os._exit":
        os._exit(0)
    if case == "hangs" and rank == 1:
        time.sleep(1000)
    if case == "leaves" and os.fork() == 0:
        os.setsid()
        time.sleep(1000)
    if case == "prints":
        for _ in range(1 << 12):
            print("x" * (1 << 16))


if __name__ == "__main__":
    main()
