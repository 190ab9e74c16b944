"""What masks that are the same in every plan cost: a step with them over one with torch's own, and without dropout.

One process, one thread, fp32. The same model (bert-mini, 10 % of hidden values and attention weights) trains in three
ways in turns, each on the same batches; a round takes each way's median step, and the table has medians and ranges of
the rounds' ratios.

--workload TEXT, --rounds N, --steps N of each way in a round
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

ROOT = common.HERE.parent
WAYS = ("without", "torch's own", "the same in every plan")


def main() -> int:
    """Measure and print the table."""
    given = common.arguments(__doc__, workload="bert-mini", rounds=9, steps=6)
    sys.path.insert(0, str(ROOT))
    import torch

    from harness.workloads import create

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        off, kept = (create(given.workload, cache=Path(cache), keep_dropout=keep) for keep in (False, True))
        off.prepare()
        kept.prepare()
        trainings = [_training(off), _training(kept), _training(kept)]
        for name in kept.survey.kept:  # type: ignore[attr-defined]
            module = trainings[1].parts[0].get_submodule(name)
            module.__class__ = module.__class__.__mro__[1]  # as it was before its masks were ours
        rounds = [[_step_s(training, kept, given.steps) for training in trainings] for _ in range(given.rounds + 1)][1:]
    usual = [seconds[1] for seconds in rounds]
    print(f"{given.workload}, {given.rounds} rounds of {given.steps} steps of each way\n")
    print("| dropout | step, ms | over torch's own, median (range) |\n|---|---|---|")
    for at, way in enumerate(WAYS):
        ratios = [seconds[at] / own for seconds, own in zip(rounds, usual, strict=True)]
        median = 1e3 * statistics.median(seconds[at] for seconds in rounds)
        print(f"| {way} | {median:.0f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")
    return 0


def _training(workload: Any) -> Any:
    import torch

    from harness.rank.main import build
    from tests.tiny import facts, plan

    return build(workload, plan({"micro_batch_size": 8}), facts(workload, 1), torch.device("cpu"))


def _step_s(training: Any, workload: Any, steps: int) -> float:
    """The median of some steps, in s."""
    import numpy as np

    times = []
    for step in range(steps):
        batch = workload.samples(step, np.array(training.sample_indices))
        begin = time.perf_counter()
        training.step(step, batch)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
