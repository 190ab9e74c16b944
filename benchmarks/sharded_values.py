"""How long ranks of zero3 take to make the initial values of a model of transformers, and what each then holds.

The model is built without values, divided, and given values tensor by tensor, as in every trial; no step is made.
Processes are fresh, and what they held after their imports is not counted.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import common

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 32000,
}


def build(rank: int, folder: str, ranks: int) -> None:
    """Build as one rank, and write what it took."""
    import torch
    import torch.distributed as dist

    from harness.rank.heap import give_back
    from harness.rank.main import build
    from harness.rank.peak_memory import memory_of
    from harness.sweeps.config import SweepConfig
    from harness.sweeps.experiment import prepare
    from harness.workloads import hollow

    torch.set_num_threads(1)
    where = Path(folder)
    config = SweepConfig(
        workload=f"hf:{where / 'config.json'}", world_size=ranks, results=where / "results", reports=where / "reports"
    )
    experiment = prepare(config)
    workload = next(iter(experiment.workloads.values()))
    with hollow.parameters():
        workload.build()  # imports what it needs
    dist.init_process_group("gloo", init_method=f"file://{where / 'rendezvous'}", rank=rank, world_size=ranks)
    plan = experiment.plan({"dp": ranks, "data_parallel": "zero3", "micro_batch_size": 1})
    memory = memory_of(torch.device("cpu"))
    memory.reset_peak()
    dist.barrier()
    begin = time.perf_counter()
    training = build(workload, plan, experiment.facts(workload), torch.device("cpu"))
    gc.collect()
    give_back()
    seconds = time.perf_counter() - begin
    found = {"seconds": seconds, "held": memory.now(), "peak": memory.peak(), "parameters": workload.facts().parameters}
    (where / f"{rank}.json").write_text(json.dumps(found))
    del training
    dist.barrier()


def main() -> None:
    """Measure and print the table."""
    given = common.arguments(__doc__, ranks=8, width=2048, hidden=5504)
    import torch

    os.environ |= common.environment()  # as the ranks of a trial have it, their memory allocator's settings too
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"hidden_size": given.width, "intermediate_size": given.hidden}
        Path(folder, "config.json").write_text(json.dumps({**CONFIG, **sizes}))
        torch.multiprocessing.spawn(build, (folder, given.ranks), nprocs=given.ranks)
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(given.ranks)]
    whole = 4 * found[0]["parameters"] / 1e6
    cells = [max(rank[name] for rank in found) for name in ("seconds", "held", "peak")]
    row = [str(given.ranks), f"{cells[0]:.1f}", *(f"{cell / 1e6:.0f}" for cell in cells[1:])]
    common.print_table(
        ("ranks", "s", "MB held", "MB at most"),
        [[*row]],
        f"Of the slowest and the largest rank; {whole / 4e3:.2f} G parameters in fp32 are {whole:.0f} MB, of which a "
        f"rank's share is {whole / given.ranks:.0f}.",
    )


if __name__ == "__main__":
    sys.exit(main())
