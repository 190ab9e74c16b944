"""A small GPT in one file, with gradient accumulation, clipping, checkpointing and fused or plain AdamW."""

from __future__ import annotations

import argparse
import contextlib
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

VOCABULARY, CONTEXT, WIDTH, HEADS, BLOCKS = 128, 64, 64, 4, 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        q, k, v = (each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in parts)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.token, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def batch(step: int, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of a step by their number in it, so that it holds the same ones however it is divided."""
    rows = [torch.Generator().manual_seed(100_000 * step + first + at) for at in range(count)]
    drawn = torch.stack([torch.randint(0, VOCABULARY, (CONTEXT + 1,), generator=row) for row in rows])
    return drawn[:, :-1], drawn[:, 1:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=8, help="of one rank, at a time")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches of a step")
    parser.add_argument("--checkpointing", action="store_true", help="recompute what blocks keep")
    parser.add_argument("--fused", action="store_true", help="AdamW in one kernel")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=2000)
    asked = parser.parse_args()

    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu")

    torch.manual_seed(0)
    net = GPT(asked.checkpointing).to(device)
    model = DistributedDataParallel(net)
    forward = torch.compile(model) if asked.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=asked.fused)

    for step in range(asked.steps):
        for micro in range(asked.accumulation):
            first = (micro * world + rank) * asked.batch_size
            x, y = (each.to(device) for each in batch(step, first, asked.batch_size))
            last = micro == asked.accumulation - 1
            with contextlib.nullcontext() if last else model.no_sync():
                loss = forward(x, y)
                (loss / asked.accumulation).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 and rank == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
