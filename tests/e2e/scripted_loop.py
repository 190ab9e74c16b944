"""A training script as people write them, for sweeps over its knobs: micro-batches that add up to a step of 16 samples.

    scripted_loop.py MICRO [ACCUMULATE] [HOW]

Each sample costs the same, and each micro-batch something besides, so larger ones are faster.
"""

from __future__ import annotations

import sys
import time

import torch


def main() -> None:
    micro, accumulate = int(sys.argv[1]), int(sys.argv[2])
    how = sys.argv[3] if len(sys.argv) > 3 else "right"
    torch.manual_seed(0 if how != "unseeded" else time.time_ns())
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = torch.randn(4096, 65, generator=torch.Generator().manual_seed(1))
    at = 0
    if how == "raises":
        raise ValueError("this knob breaks the script")
    while True:
        for _ in range(accumulate):
            some = rows[torch.arange(at, at + micro) % len(rows)]
            at += micro
            loss = torch.nn.functional.mse_loss(model(some[:, :64]), some[:, 64:])
            (loss / (1 if how == "wrong" else accumulate)).backward()
            time.sleep(0.002)  # what a micro-batch costs whatever its size
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
