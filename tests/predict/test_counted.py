"""Closed forms of models of transformers against traces: see also benchmarks/predicted_families.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.predict.memory import peak_memory
from harness.predict.setup import Setup
from harness.predict.shape import Shape
from harness.predict.trace import worst_rank
from harness.workloads import create
from tests.families import written
from tests.tiny import facts, plan

pytest.importorskip("transformers")
pytest.importorskip("peft")

MIDDLE = {"hidden_size": 128, "num_attention_heads": 4, "vocab_size": 512, "intermediate_size": 352}
VISION = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 352}
DDP = {"dp": 2, "data_parallel": "ddp"}


@pytest.mark.parametrize(
    ("family", "fields", "changes", "settings"),
    [
        (
            "llama",
            ",lora=4",
            {**MIDDLE, "num_hidden_layers": 2, "num_key_value_heads": 2},
            {**DDP, "precision": "bf16_params"},
        ),
        ("mixtral", "", {**MIDDLE, "num_hidden_layers": 2, "num_key_value_heads": 2}, DDP),
        (
            "vit",
            "",
            {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 352, "num_hidden_layers": 2},
            DDP,
        ),
        ("t5", "", {"d_model": 128, "d_kv": 32, "num_heads": 4, "vocab_size": 512, "num_layers": 2}, DDP),
    ],
)
def test_memory_by_the_closed_form_is_that_of_the_trace(
    family: str, fields: str, changes: dict[str, object], settings: dict[str, object], tmp_path: Path
) -> None:
    path = written(family, tmp_path, **changes)
    length = None if family == "vit" else 64
    workload = create(f"hf:{path}{fields}", cache=tmp_path, seq_len=length, global_batch_size=8)
    workload.prepare()
    made = plan({"micro_batch_size": 4, **settings})  # type: ignore[dict-item]
    shape = Shape.of_facts(workload.facts(), workload.seq_len)
    closed = float(peak_memory(shape, Setup.of_plan(made, 8)).allocated)
    assert closed == pytest.approx(worst_rank(workload, made, facts(workload, 2)).peak_bytes, rel=0.1)


def test_attention_of_one_sequence_is_traced_without_a_mask_as_it_is_trained(tmp_path: Path) -> None:
    workload = create(f"hf:{written('llama', tmp_path)}", cache=tmp_path, global_batch_size=4, seq_len=16)
    workload.prepare()
    operators = worst_rank(workload, plan({"micro_batch_size": 2}), facts(workload, 1)).operators
    shapes = [made.shapes for made in operators if "attention_for_cpu.d" in made.name]
    (query, key, value, *masks) = shapes[0]
    assert query[1] == 6
    assert (key[1], value[1], masks) == (
        2,
        2,
        [],
    )  # with a mask they would be repeated
