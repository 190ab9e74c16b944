"""What the harness does around each step of the measured window costs: stamps, events, memory, the ranks' agreement.

Within one launch the ranks train in blocks of steps, by turns with everything that a measured window does and with
nothing but the batch and the training step. Both kinds see the same process, the same mood of the machine; a block's
time is that from one barrier to the next. The ratio is that of neighbouring blocks.

Goal: at most 1 %.
"""

from __future__ import annotations

import json
import statistics
import time

import common

FILE = "instrumentation.json"
BLOCKS, STEPS = 40, 6
"""Pairs of blocks, steps of a block."""


def blocks(job, rank: int) -> None:  # runs in every rank
    """Train in blocks and write the ratio of each pair."""
    import torch
    import torch.distributed as dist

    from harness.launchers.events import EventWriter
    from harness.rank.agreement import Agreement
    from harness.rank.main import build, device_of, join
    from harness.rank.measure import RankTrial
    from harness.rank.peak_memory import memory_of

    device = device_of(rank, job.facts.device_type)
    torch.set_num_threads(job.threads)
    join(job, rank, device)
    training = build(job.workload, job.plan, job.facts, device)
    trial = RankTrial(job, training, EventWriter(job.events_of(rank)), memory_of(device), rank)
    trial.warm_up()
    agreement = Agreement(lambda times: None, trial.group)

    def bare() -> None:
        samples = job.workload.samples(trial.next_step, trial.indices)
        training.step(trial.next_step, {name: tensor.to(device) for name, tensor in samples.items()})
        trial.next_step += 1

    def instrumented() -> None:
        trial.step("measure")
        agreement.turn(trial.clock.finished())

    def block(step) -> float:
        dist.barrier()
        begin = time.perf_counter()
        for _ in range(STEPS):
            step()
        dist.barrier()
        return time.perf_counter() - begin

    ratios = []
    for number in range(BLOCKS):
        trial.clock.restart()
        order = (instrumented, bare) if number % 2 else (bare, instrumented)
        times = {step: block(step) for step in order}
        ratios.append(times[instrumented] / times[bare])
    agreement.close()
    if rank == 0:
        (job.folder / FILE).write_text(json.dumps(ratios))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Launch, collect, print the table."""
    from harness.launchers.job import Deadlines
    from harness.statistics import median_interval

    given = common.arguments(__doc__, launches=3, workload="gpt-nano", strategies="ddp,zero2,zero3")
    table = []
    with common.runner(given.workload) as (made, prepared):
        made.deadlines = Deadlines(start=600.0)
        task = next(iter(prepared.workloads.values()))
        for name in given.strategies.split(","):
            plan = prepared.plan({"data_parallel": name, "micro_batch_size": 4})
            ratios = []
            for _ in range(given.launches):
                ratios += made.apart(plan, task, prepared.facts(task), blocks, FILE) or []
            low, high = median_interval(ratios)
            cost = statistics.median(ratios) - 1
            table.append([name, f"{cost:+.2%}", f"{low - 1:+.2%} to {high - 1:+.2%}", str(len(ratios))])
    header = ("plan", "cost of a step", "95 % interval", "pairs")
    note = (
        f"{given.launches} launches, {BLOCKS} pairs of blocks of {STEPS} steps in each; the ranks agree at every step."
    )
    common.print_table(header, table, note)


if __name__ == "__main__":
    main()
