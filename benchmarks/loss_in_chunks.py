"""What do chunks of the loss save where a vocabulary is large, and what do they cost?

A llama of four blocks with 32,000 tokens, its parameters random, tokens drawn, two ranks of ddp, 4,096 tokens a
micro-batch. Each side is a trial of its own. Goal: tensors of at most 0.6, in a step at most 1.1 as long.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

import common

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 688,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}


def main() -> None:
    """Measure and print the table."""
    given = common.arguments(__doc__, repeats=1, seconds=2.5, length=1024)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "llama", "config.json")
        path.parent.mkdir()
        path.write_text(json.dumps(CONFIG))
        options = ("--workload", f"hf:{path},max_length={given.length}", "--seconds", str(given.seconds))
        plan = {"dp": 2, "data_parallel": "ddp", "micro_batch_size": 4}
        sides = {str(chunks): partial(common.inside, {**plan, "loss_chunks": chunks}, *options) for chunks in (1, 4, 8)}
        found = common.interleaved(sides, given.repeats)
    whole, rows = found["1"], []
    for name, runs in found.items():
        row = [name]
        for of in ("tensor_bytes", "peak_memory_bytes", "step_time_s"):
            ours, theirs = common.values(runs, of), common.values(whole, of)
            row += [common.ms(ours) if of == "step_time_s" else f"{max(ours) / 1e6:.0f}", common.ratio(ours, theirs)]
        rows.append([*row, common.loss_difference(runs[0], whole[0])])
    logits = 4 * given.length * CONFIG["vocab_size"] * 4 / 1e6
    common.print_table(
        ("chunks", "tensors MB", "ratio", "resident MB", "ratio", "step ms", "ratio", "loss difference"),
        rows,
        f"Peaks of the worst rank, the resident one above its start; the logits of a micro-batch are {logits:.0f} MB.",
    )


if __name__ == "__main__":
    main()
