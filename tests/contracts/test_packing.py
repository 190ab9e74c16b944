"""Packed documents follow one process, whatever divides the model."""

from __future__ import annotations

from pathlib import Path

from tests.contracts.test_strategies import Settings
from tests.tiny import Laboratory
from tests.workloads.test_documents import made

PLANS: tuple[Settings, ...] = (
    {"dp": 2, "data_parallel": "ddp", "micro_batch_size": 2},
    {"dp": 2, "data_parallel": "zero3"},
    {"tp": 2, "sequence_parallel": True},
    {"pp": 2, "micro_batch_size": 2},
)


def test_packed_documents_follow_one_process(laboratory: Laboratory, tmp_path: Path) -> None:
    words = ["on and on", "a line", "x", "another line of text, longer than one row of the sixteen tokens"] * 5
    workload = made(tmp_path, [{"text": word} for word in words], ",packing=true", seq_len=16)
    workload.prepare()
    for settings in PLANS:
        assert laboratory.follows(settings, workload)["numerics"] == "pass"
