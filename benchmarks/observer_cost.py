"""What the observer of scripts costs a step: processor time of one process's steps with it and without, in turns.

    python benchmarks/observer_cost.py [--steps 3000] [--turns 3] [--micro 1]

The steps are as small as torch's are, so that what the hooks do is seen beside them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.observe import injection

SCRIPT = """
import sys, time, torch
steps, micro = map(int, sys.argv[1:])
torch.set_num_threads(1)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
batch = torch.randn(4, 8)
def step():
    for _ in range(micro):
        (model(batch).square().mean() / micro).backward()
    optimizer.step()
    optimizer.zero_grad()
for _ in range(200):
    step()
begun = time.process_time()
for _ in range(steps):
    step()
print(1e6 * (time.process_time() - begun) / steps)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--micro", type=int, default=1, help="micro-batches of a step")
    given = parser.parse_args()
    costs = []
    for turn in range(given.turns):
        without, watched = (microseconds(given.steps, given.micro, watch=watch) for watch in (False, True))
        costs.append(watched - without)
        print(f"turn {turn}: {without:.1f} us a step, watched {watched:.1f}: {watched - without:+.1f}")
    print(f"the observer takes {statistics.median(costs):.1f} us of processor time a step")


def microseconds(steps: int, micro: int, *, watch: bool) -> float:
    """Processor time of a step, in us."""
    with tempfile.TemporaryDirectory() as folder:
        environ = dict(os.environ)
        alive = -1
        if watch:
            environ |= injection.prepare(Path(folder), injection.Settings(), environ)
            alive = os.open(Path(folder) / "alive", os.O_RDWR)
        command = [sys.executable, "-c", SCRIPT, str(steps), str(micro)]
        printed = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
        if watch:
            os.close(alive)
    return float(printed)


if __name__ == "__main__":
    main()
