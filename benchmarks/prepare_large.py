"""How fast large data are prepared, and in how much memory: `python benchmarks/prepare_large.py MB [MB ...]`.

Rows are the standard library's files in pieces; the tokenizer is a byte-level BPE that is trained on them. Each size is
prepared by a process of its own, in a temporary folder that is removed.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.workloads.corpus import standard_library

PIECE = 4000
"""Bytes of a row."""


def trained(path: Path) -> None:
    """A byte-level BPE of 8,192 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    codec = Tokenizer(models.BPE())
    codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    codec.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8192, initial_alphabet=alphabet, show_progress=False)
    codec.train_from_iterator((text.decode() for text in standard_library().documents), trainer)
    codec.save(str(path))


def written(path: Path, megabytes: int) -> None:
    """A .jsonl file of that size."""
    text = b"\n".join(standard_library().documents).decode()
    pieces = [json.dumps({"text": text[at : at + PIECE]}) + "\n" for at in range(0, len(text), PIECE)]
    with path.open("w") as file:
        while file.tell() < megabytes * 10**6:
            file.writelines(pieces[: max(1, (megabytes * 10**6 - file.tell()) // PIECE)])


def prepared(folder: Path) -> None:
    """In this process: prints what it took."""
    from harness.workloads import create

    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 8192, "hidden_size": 64}
    sizes = {"intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    (folder / "config.json").write_text(json.dumps({**config, **sizes}))
    began = time.monotonic()
    workload = create(f"hf:{folder},packing=true", cache=folder / "cache", data=folder / "d.jsonl", seq_len=128)
    before, created = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    workload.prepare()
    after, ended = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    megabytes = (folder / "d.jsonl").stat().st_size / 1e6
    print(
        f"| {megabytes:,.0f} | {created - began:.1f} | {ended - created:.0f} | {megabytes / (ended - created):.1f} | "
        f"{before / 1024:,.0f} | {after / 1024:,.0f} |",
        flush=True,
    )


def main(sizes: list[int]) -> None:
    """One row for each size."""
    print("| MB | imported, hashed in s | prepared in s | MB/s | peak before, MiB | peak after, MiB |")
    print("|---|---|---|---|---|---|")
    for megabytes in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            needed = 4 * megabytes * 10**6  # int32 tokens take less than the text; twice that is safe
            if shutil.disk_usage(folder).free < needed:
                sys.exit(f"{folder} has no {needed / 1e9:.0f} GB free")
            trained(folder / "tokenizer.json")
            written(folder / "d.jsonl", megabytes)
            subprocess.run([sys.executable, __file__, "--in", name], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in"]:
        prepared(Path(sys.argv[2]))
    else:
        main([int(size) for size in sys.argv[1:]] or [100, 1000])
