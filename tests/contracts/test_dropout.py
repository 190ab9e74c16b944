"""Dropout that is kept, under every strategy: each plan drops what one process drops."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from harness.workloads import create
from harness.workloads.workload import Workload
from tests.contracts.test_strategies import Settings, arranged
from tests.families import written
from tests.tiny import Laboratory, why_not

EXACT = 1e-4
"""Relative difference in loss and gradient norm in fp32."""
EXAMPLE = Path(__file__).parents[1] / "example_model" / "mixer.py"
PLANS: dict[str, Settings] = {
    "ddp": {"dp": 2, "data_parallel": "ddp"},
    "zero3-checkpoint": {"dp": 2, "data_parallel": "zero3", "activation_checkpoint": "full"},
    "selective": {"activation_checkpoint": "selective"},
    "tp": {"tp": 2},
    "sequence": {"tp": 2, "sequence_parallel": True},
    "pp": {"pp": 2, "micro_batch_size": 2},
    "interleaved-checkpoint": {"pp": 2, "pp_schedule": "interleaved", "activation_checkpoint": "full"},
    "tp-dp": {"tp": 2, "dp": 2, "data_parallel": "zero1"},
}
CHANGES: dict[str, dict[str, Any]] = {
    "gpt-neox": {"attention_dropout": 0.2},
    "llama": {"attention_dropout": 0.2},
}
"""What families that drop little are given."""
USUAL = {("own", "interleaved-checkpoint"), ("bert", "tp"), ("gpt-neox", "sequence")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the configurations."""
    return tmp_path_factory.mktemp("models")


@lru_cache
def workload(family: str, folder: Path) -> Workload:
    """A family, or the example of a file, with its dropout."""
    text = f"{EXAMPLE}:workload"
    length = None
    if family != "own":
        pytest.importorskip("transformers")
        text, length = f"hf:{written(family, folder, **CHANGES.get(family, {}))}", 32
    made = create(f"{text},keep_dropout=true", cache=folder, seq_len=length, global_batch_size=8)
    made.prepare()
    return made


def cases() -> Iterator[Any]:
    """Each family under each plan; by itself runs one of each kind."""
    for family in ("own", "bert", "t5", "gpt2", "gpt-neox", "llama", "bart", "opt"):
        for name in PLANS:
            marks = [] if (family, name) in USUAL else [pytest.mark.slow]
            yield pytest.param(family, name, id=f"{family}-{name}", marks=marks)


@pytest.mark.parametrize(("family", "name"), cases())
def test_it_drops_what_one_process_drops(family: str, name: str, folder: Path, laboratory: Laboratory) -> None:
    made, way = workload(family, folder), arranged({"micro_batch_size": 2, **PLANS[name]})
    if (refusal := why_not(way, made)) is not None:
        assert name in {"sequence", "pp", "interleaved-checkpoint"}, refusal
        assert "may need every token" in refusal or "cannot be cut into stages" in refusal
        return
    assert laboratory.follows(way, made)["numerics_max_rel_error"] <= EXACT
