"""What do chunks of the loss save where a vocabulary is large, and what do they cost?

A llama of four blocks with 32,000 tokens, its parameters random, tokens drawn, two ranks of ddp, 1,024 tokens a
micro-batch. Each side is a trial of its own. Goal: a peak at most 0.6 of that without chunks, in a step no longer.
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
    given = common.arguments(__doc__, repeats=2, seconds=2.5, length=256)
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
        against = [
            common.ratio(common.values(runs, of), common.values(whole, of))
            for of in ("peak_memory_bytes", "step_time_s")
        ]
        steps = common.ms(common.values(runs, "step_time_s"))
        rows.append(
            [name, common.megabytes(runs), against[0], steps, against[1], common.loss_difference(runs[0], whole[0])]
        )
    logits = 4 * given.length * CONFIG["vocab_size"] * 4 / 1e6  # type: ignore[operator]
    common.print_table(
        ("chunks", "peak MB", "ratio", "step ms", "ratio", "loss difference"),
        rows,
        f"Peak of the worst rank above its start; the logits of a micro-batch are {logits:.0f} MB.",
    )


if __name__ == "__main__":
    main()
