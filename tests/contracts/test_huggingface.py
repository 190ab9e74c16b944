"""Models of transformers under every strategy: each plan follows one process, or is refused by a sentence."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest

from harness.workloads import create
from harness.workloads.workload import Workload
from tests.contracts.test_strategies import Settings
from tests.families import FAMILIES, written
from tests.tiny import Laboratory, why_not

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the configurations."""
    return tmp_path_factory.mktemp("models")


@lru_cache
def workload(family: str, folder: Path) -> Workload:
    """A family, on what is drawn, or the digits."""
    made = create(
        f"hf:{written(family, folder)}", cache=folder, seq_len=None if family == "vit" else 32, global_batch_size=8
    )
    made.prepare()
    return made


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_follows_one_process_or_is_refused(family: str, name: str, folder: Path, laboratory: Laboratory) -> None:
    made, way = workload(family, folder), {"micro_batch_size": 2, **PLANS[name]}
    refusal = why_not(way, made)
    if (name == "sequence" and family in NEED_ALL_TOKENS) or (name == "pp" and family in NO_ROW):
        assert str(refusal).startswith(REFUSED[name].format(made.name))
        return
    assert refusal is None
    assert laboratory.follows(way, made)["numerics_max_rel_error"] <= EXACT
