"""Models of transformers under every strategy: each plan follows one process, or is refused by a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from harness.predict.trace import worst_rank
from harness.workloads import create
from harness.workloads.workload import Workload
from tests.contracts.test_strategies import Settings
from tests.families import FAMILIES, written
from tests.tiny import Laboratory, facts, plan, why_not

pytest.importorskip("transformers")

EXACT = 1e-4
"""Relative difference in loss and gradient norm in fp32."""
PLANS: dict[str, Settings] = {
    "ddp": {"dp": 2, "data_parallel": "ddp"},
    "zero1": {"dp": 2, "data_parallel": "zero1"},
    "zero2": {"dp": 2, "data_parallel": "zero2"},
    "zero3": {"dp": 2, "data_parallel": "zero3"},
    "tp": {"tp": 2},
    "sequence": {"tp": 2, "sequence_parallel": True},
    "pp": {"pp": 2, "micro_batch_size": 2},
    "tp-dp": {"tp": 2, "dp": 2, "data_parallel": "zero3"},
    "checkpoint": {"activation_checkpoint": "full"},
}
REFUSED = {
    "sequence": "layers of {} may need every token, so sequence_parallel cannot divide its stream",
    "pp": "{} cannot be cut into stages: ",
}
"""Plan -> how the sentence begins that refuses it."""
NEED_ALL_TOKENS = {"gpt2", "opt", "mixtral", "bert", "t5", "bart", "vit"}
NO_ROW = {"t5", "bart"}
USUAL = {"llama"}
DIFFERING = {"tp", "pp", "sequence"}
SHARDED = {"llama", "mixtral", "bert", "t5", "gpt2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the configurations."""
    return tmp_path_factory.mktemp("models")


@lru_cache
def workload(family: str, folder: Path, fields: str = "") -> Workload:
    """A family, on what is drawn, or the digits."""
    made = create(
        f"hf:{written(family, folder)}{fields}",
        cache=folder,
        seq_len=None if family == "vit" else 32,
        global_batch_size=8,
    )
    made.prepare()
    return made


def cases() -> Iterator[Any]:
    """Each family under each plan; of all but the most usual family only what differs most runs by itself."""
    for family in FAMILIES:
        for name in PLANS:
            usual = family in USUAL or name in DIFFERING or (name == "zero3" and family in SHARDED)
            yield pytest.param(family, name, id=f"{family}-{name}", marks=[] if usual else [pytest.mark.slow])


@pytest.mark.parametrize(("family", "name"), cases())
def test_it_follows_one_process_or_is_refused(family: str, name: str, folder: Path, laboratory: Laboratory) -> None:
    made, way = workload(family, folder), {"micro_batch_size": 2, **PLANS[name]}
    refusal = why_not(way, made)
    if (name == "sequence" and family in NEED_ALL_TOKENS) or (name == "pp" and family in NO_ROW):
        assert str(refusal).startswith(REFUSED[name].format(made.name))
        return
    assert refusal is None
    assert laboratory.follows(way, made)["numerics_max_rel_error"] <= EXACT


def with_adapters() -> Iterator[Any]:
    """Llama under each plan that keeps what is not trained in a way of its own; bert under what differs most."""
    for name in [*(name for name in PLANS if name != "tp-dp"), "zero1-torch", "fsdp2"]:
        rarely = name in ("ddp", "sequence", "checkpoint", "bf16")
        yield pytest.param("llama", name, id=f"llama-{name}", marks=[pytest.mark.slow] if rarely else [])
        yield pytest.param("bert", name, id=f"bert-{name}", marks=[] if name in {"zero3", "tp"} else [pytest.mark.slow])


@pytest.mark.parametrize(("family", "name"), with_adapters())
def test_adapters_follow_one_process(family: str, name: str, folder: Path, laboratory: Laboratory) -> None:
    pytest.importorskip("peft")
    more: dict[str, Settings] = {
        "zero1-torch": {"dp": 2, "data_parallel": "zero1", "zero1_impl": "torch"},
        "fsdp2": {"dp": 2, "data_parallel": "zero2", "zero2_impl": "fsdp2"},
    }
    made, way = workload(family, folder, ",lora=4"), {"micro_batch_size": 2, **{**PLANS, **more}[name]}
    if name == "sequence" and family == "bert":
        assert why_not(way, made) == REFUSED[name].format(made.name)
        return
    assert why_not(way, made) is None
    assert laboratory.follows(way, made)["numerics_max_rel_error"] <= EXACT


@pytest.mark.parametrize(
    "family", ["llama", "t5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "gpt2"))]
)
def test_adapters_begin_where_the_model_without_them_does(family: str, folder: Path, laboratory: Laboratory) -> None:
    pytest.importorskip("peft")
    way: Settings = {"micro_batch_size": 4}
    base, other = (laboratory.run(way, workload(family, folder, fields)) for fields in ("", ",lora=4"))
    assert base["loss_first"] == other["loss_first"]
    assert other["memory_optimizer_bytes"] < base["memory_optimizer_bytes"] / 2


def in_4_bits() -> Iterator[Any]:
    """Each kind of keeping what is not trained; most of them only with --slow."""
    for name in ("ddp", "zero1-torch", "zero2", "fsdp2", "zero3", "pp", "checkpoint", "pp-zero3", "bf16"):
        yield pytest.param(name, marks=[] if name in ("zero3", "pp") else [pytest.mark.slow])


@pytest.mark.parametrize("name", in_4_bits())
def test_a_base_in_4_bits_follows_one_process_with_the_same(name: str, folder: Path, laboratory: Laboratory) -> None:
    pytest.importorskip("peft")
    more: dict[str, Settings] = {
        "zero1-torch": {"dp": 2, "data_parallel": "zero1", "zero1_impl": "torch"},
        "fsdp2": {"dp": 2, "data_parallel": "zero2", "zero2_impl": "fsdp2"},
        "pp-zero3": {"pp": 2, "dp": 2, "data_parallel": "zero3"},
        "bf16": {"dp": 2, "data_parallel": "zero3", "precision": "bf16_params"},
    }
    made, way = workload("llama", folder, ",lora=4,load=4bit"), {"micro_batch_size": 2, **{**PLANS, **more}[name]}
    assert why_not(way, made) is None
    row = laboratory.follows(way, made)
    assert row["numerics_max_rel_error"] <= EXACT or name == "bf16"
    if name == "zero3":  # the bytes are divided as well, and predicted
        tried = plan(way)
        traced = worst_rank(made, tried, facts(made, tried.world_size)).memory
        assert traced["params"] == row["memory_params_bytes"]
        assert row["memory_params_bytes"] < 0.6 * (
            4 * (made.facts().parameters - made.facts().quantized) + made.facts().quantized_bytes
        )


def test_a_base_in_4_bits_is_not_cut_by_tensor_parallelism(folder: Path) -> None:
    pytest.importorskip("peft")
    made = workload("llama", folder, ",lora=4,load=4bit")
    assert why_not(PLANS["tp"], made) == (
        f"{made.name} keeps matrices in blocks of 4 bits, which tensor parallelism would cut through"
    )


@pytest.mark.parametrize("family", ["llama", pytest.param("t5", marks=pytest.mark.slow)])
def test_another_attention_follows_the_usual_one(family: str, folder: Path, laboratory: Laboratory) -> None:
    made = workload(family, folder)
    assert laboratory.follows({"micro_batch_size": 2, "attention": "eager"}, made)["numerics_max_rel_error"] <= EXACT
