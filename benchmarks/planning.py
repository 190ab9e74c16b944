"""What planning for clusters costs: plans of 4,096 GPUs ranked, one rank of a 70 B model traced. One core, no GPU.

"ranked" is a closed form of memory and step time for each of 100,000 plans, drawn with repetition from all that the
cluster's strategies can do; finding and checking those, which are fewer, stands beside it.
The traces are of a model of 80 blocks of width 8,192 (64 heads, 4,096 tokens a sample): the first and the last stage's
rank, in a process of its own, whose peak memory includes torch.

Goals: 100,000 plans in under 60 s; a trace in under 60 s and 4 GiB.
"""

from __future__ import annotations

import json
import random
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from harness.predict.cluster_plans import Question
    from harness.workloads.workload import Workload

MODEL = "gpt:blocks=80,width=8192,heads=64"
SEQ_LEN, GLOBAL_BATCH = 4096, 1024
CLUSTER = "512x8xH100"
PLANS: dict[str, dict[str, Any]] = {
    "ZeRO-3 on 512": {"dp": 512, "data_parallel": "zero3", "micro_batch_size": 1},
    "tp 8, pp 8, ddp 8, 128 micro-batches": {
        "dp": 8,
        "data_parallel": "ddp",
        "tp": 8,
        "pp": 8,
        "micro_batch_size": 1,
        "activation_checkpoint": "full",
    },
    "tp 8, pp 4 interleaved, zero1 16": {
        "dp": 16,
        "data_parallel": "zero1",
        "tp": 8,
        "pp": 4,
        "pp_schedule": "interleaved",
        "micro_batch_size": 1,
    },
}


def asked() -> tuple[Question, Workload]:
    """The question of the cluster, and the workload."""
    from harness.cli.predict_commands import question_of
    from harness.predict.devices import parse_cluster
    from harness.workloads import create

    options = {"results": Path("unused"), "seq_len": SEQ_LEN, "global_batch": GLOBAL_BATCH}
    workload = create(MODEL, cache=Path("unused"), seq_len=SEQ_LEN, global_batch_size=GLOBAL_BATCH)
    return question_of(MODEL, parse_cluster(CLUSTER), (), options), workload


def traced(name: str) -> dict[str, Any]:
    """In a fresh process: seconds of one trace, its result and the process's peak memory."""
    import torch

    import strategies
    from harness.plan import complete
    from harness.predict.trace import worst_rank

    torch.set_num_threads(1)
    question, workload = asked()
    plan = complete({**PLANS[name], "precision": "bf16_params"}, strategies.knobs(strategies.registry().values()))
    begin = time.perf_counter()
    found = worst_rank(workload, plan, replace(question.facts, world_size=plan.world_size))
    return {
        "seconds": time.perf_counter() - begin,
        "traced_bytes": found.peak_bytes,
        "sent_bytes": found.sent_bytes,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def ranked(count: int) -> dict[str, Any]:
    """In a fresh process: seconds of enumerating the cluster's plans, and of ranking `count` of them."""
    from harness.predict.cluster_plans import plans, rank

    question, _ = asked()
    begin = time.perf_counter()
    found = plans(question)
    enumerated = time.perf_counter() - begin
    drawn = random.Random(0).choices(found, k=count)
    begin = time.perf_counter()
    rank(question, drawn, 10)
    return {"plans": len(found), "enumerated_s": enumerated, "ranked_s": time.perf_counter() - begin}


def main() -> None:
    """Measure and print both tables."""
    given = common.arguments(__doc__, plans=100_000, trace="", rank=False)
    if given.trace:
        print(json.dumps(traced(given.trace)))
        return
    if given.rank:
        print(json.dumps(ranked(given.plans)))
        return
    script = str(common.HERE / "planning.py")
    found = common.measure([script, "--rank", "--plans", str(given.plans)])
    each = 1e6 * found["ranked_s"] / given.plans
    line = [
        f"{given.plans:,}",
        f"{found['ranked_s']:.1f}",
        f"{each:.0f}",
        f"{found['plans']:,}",
        f"{found['enumerated_s']:.1f}",
    ]
    header = ("plans", "ranked in s", "us a plan", "different ones", "found and checked in s")
    common.print_table(header, [line], f"{CLUSTER}, {MODEL}.")
    rows = []
    for name in PLANS:
        one = common.measure([script, "--trace", name])
        sizes = (one["traced_bytes"] / 2**30, one["sent_bytes"] / 2**30, one["peak_bytes"] / 2**30)
        rows.append([name, f"{one['seconds']:.1f}", *(f"{size:,.2f}" for size in sizes)])
    header = ("plan of 512 or more ranks", "traced in s", "it holds, GiB", "it sends, GiB", "tracing took, GiB")
    common.print_table(header, rows)


if __name__ == "__main__":
    main()
