"""Is the closed form of memory right about models of transformers?

Configurations of tests/families.py made larger (width 256, 5 layers, a vocabulary of 4,096, samples of 192 tokens or
16 x 16 patches), and our own GPT, on 2 ranks in fp32 and, in the last columns, under bf16_params. A cell is the closed
form of the tensors of the worst rank over the trace of it (`harness.predict.trace`: predict_machine.py says how exact
that is), minus 1; "refused" where a strategy cannot run the model or where nothing is predicted. Nothing is launched.
Goal: within 10 %. Exit status 1 if a cell is off by more than 25 %.

--match WORD: families whose name contains it.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from harness.workloads.workload import Workload

ROOT = common.HERE.parent
PLANS: dict[str, dict[str, Any]] = {
    "ddp": {"dp": 2, "data_parallel": "ddp"},
    "zero1": {"dp": 2, "data_parallel": "zero1"},
    "zero2": {"dp": 2, "data_parallel": "zero2"},
    "zero3": {"dp": 2, "data_parallel": "zero3"},
    "tp": {"tp": 2},
    "pp": {"pp": 2},
    "recomputed": {"dp": 2, "data_parallel": "ddp", "activation_checkpoint": "full"},
    "bf16 ddp": {"dp": 2, "data_parallel": "ddp", "precision": "bf16_params"},
    "bf16 zero3": {"dp": 2, "data_parallel": "zero3", "precision": "bf16_params"},
}
USUAL = {"hidden_size": 256, "num_attention_heads": 8, "vocab_size": 4096, "max_position_embeddings": 512}
GROUPED = {**USUAL, "num_key_value_heads": 2, "intermediate_size": 688}
MODELS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 64},
    "gpt2": {"n_embd": 256, "n_head": 8, "vocab_size": 4096, "n_positions": 512},
    "gpt-neox": {**USUAL, "intermediate_size": 1024},
    "opt": {**USUAL, "ffn_dim": 1024, "word_embed_proj_dim": 256},
    "mixtral": GROUPED,
    "bert": {**USUAL, "intermediate_size": 1024},
    "t5": {"d_model": 256, "d_kv": 32, "d_ff": 512, "num_heads": 8, "vocab_size": 4096},
    "bart": {
        "d_model": 256,
        "vocab_size": 4096,
        "max_position_embeddings": 512,
        **{f"{part}_attention_heads": 8 for part in ("encoder", "decoder")},
        **{f"{part}_ffn_dim": 1024 for part in ("encoder", "decoder")},
    },
    "vit": {"hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 1024, "image_size": 32},
}
"""Family -> what differs from tests/families.py."""
OWN = "gpt:blocks=5,width=256,heads=8"
LIMIT = 0.25


def main() -> int:
    """Print the table."""
    given = common.arguments(__doc__, match="")
    sys.path.insert(0, str(ROOT))
    warnings.simplefilter("ignore")
    names = [f"{name}{fields}" for name in MODELS for fields in ("", ",lora=8")]
    names = [name for name in (OWN, *names) if given.match in name]
    rows: list[list[str]] = []
    errors: list[float] = []
    low: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            workload = _workload(name, Path(folder))
            workload.prepare()
            cells = [_cell(workload, settings) for settings in PLANS.values()]
            rows.append([name, *("refused" if cell is None else f"{cell:+.1%}" for cell in cells)])
            for plan, cell in zip(PLANS, cells, strict=True):
                if cell is not None:
                    (low if "bf16" in plan else errors).append(abs(cell))
            print(" ".join(rows[-1]), file=sys.stderr)
    said = "; ".join(f"{what}: {_said(found)}" for what, found in (("fp32", errors), ("bf16_params", low)) if found)
    common.print_table(("family", *PLANS), rows, said)
    return int(max([*errors, *low], default=0.0) > LIMIT)


def _said(found: list[float]) -> str:
    within = sum(error <= 0.1 for error in found)
    return f"{within} of {len(found)} within 10 %, {sum(found) / len(found):.1%} in the mean, at most {max(found):.1%}"


def _workload(name: str, folder: Path) -> Workload:
    from harness.workloads import create
    from tests.families import written

    if name == OWN:
        return create(name, cache=folder, seq_len=192, global_batch_size=8)
    family, _, fields = name.partition(",")
    path = written(family, folder, **MODELS[family])
    length = None if family == "vit" else 192
    return create(f"hf:{path}{',' * bool(fields)}{fields}", cache=folder, seq_len=length, global_batch_size=8)


def _cell(workload: Workload, settings: dict[str, Any]) -> float | None:
    """The closed form over the trace, minus 1; None if either is refused."""
    from harness.errors import InputError
    from harness.predict.memory import peak_memory
    from harness.predict.setup import Setup
    from harness.predict.shape import Shape
    from harness.predict.trace import worst_rank
    from tests.tiny import facts, plan, why_not

    made = plan({"micro_batch_size": 4, **settings})
    if why_not(made, workload):
        return None
    try:
        shape = Shape.of_facts(workload.facts(), workload.seq_len)
    except InputError:
        return None
    closed = float(peak_memory(shape, Setup.of_plan(made, workload.global_batch_size)).allocated)
    return closed / worst_rank(workload, made, facts(workload, made.world_size)).peak_bytes - 1


if __name__ == "__main__":
    sys.exit(main())
