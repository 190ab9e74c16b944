"""The collectives that ranks on devices use, and their order on streams, tried on gloo."""

from __future__ import annotations

import pytest

from harness.trial import supervise
from strategies import Setting
from tests.contracts import otherwise
from tests.tiny import Laboratory, gpt

FLAT: list[dict[str, Setting]] = [
    {"data_parallel": "zero1"},
    {"data_parallel": "zero2"},
    {"data_parallel": "zero2", "activation_checkpoint": "full"},
    {"data_parallel": "zero2", "precision": "bf16_params", "reduce_dtype": "bf16"},
]
OTHERS: list[dict[str, Setting]] = [
    {"data_parallel": "zero2", "zero2_impl": "fsdp2"},
    {"data_parallel": "zero3"},
    {"tp": 2, "dp": 1},
    {"tp": 2, "dp": 1, "sequence_parallel": True},
]


def named(settings: list[dict[str, Setting]]) -> list[object]:
    return [pytest.param(each, id="-".join(map(str, each.values()))) for each in settings]


@pytest.mark.parametrize("settings", named([*FLAT, *OTHERS]))
def test_native_collectives_follow_one_process(
    settings: dict[str, Setting], laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "train", otherwise.train_with_native_collectives)
    row = laboratory.follows({"dp": 2, "micro_batch_size": 2, **settings}, gpt(blocks=2))
    assert row["numerics"] == "pass"


@pytest.mark.parametrize("settings", named(FLAT))
def test_nothing_is_read_or_written_before_it_has_arrived(
    settings: dict[str, Setting], laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "train", otherwise.train_with_late_collectives)
    small = {"dp": 2, "micro_batch_size": 1, "bucket_mb": 0.5, **settings}
    assert laboratory.follows(small, gpt(blocks=2, width=128))["numerics"] == "pass"
