"""Nights of one machine are one history, whatever versions it had; the future is none of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness.machine.hardware import Hardware
from harness.nightly.history import History, Night

OLD = Hardware(cpu_model="AMD EPYC", physical_cores=2, usable_cores=2, memory_bytes=24 << 30, torch_build="2.12.0+cpu")
NEW = replace(OLD, torch_build="2.13.0+cpu")
OTHER = replace(OLD, cpu_model="AMD EPYC", memory_bytes=OLD.memory_bytes, interconnect="NVLink between all pairs")


def night(name: str, machine: Hardware, *, said: bool = True) -> Night:
    return Night(
        night=name,
        suite="s",
        version=1,
        hardware_id=machine.hardware_id,
        machine_id=machine.machine_id if said else None,
        identities={},
        environment={},
        complete=True,
    )


def history(root: Path, machine: Hardware) -> History:
    return History(root, "s", machine.hardware_id, machine.machine_id)


@pytest.mark.parametrize("said", [True, False])
def test_an_update_of_torch_is_judged_by_the_nights_before_it(said: bool, tmp_path: Path) -> None:
    for day in range(10, 25):
        history(tmp_path, OLD).write(night(f"202609{day}T010000Z-abcd", OLD, said=said))
    history(tmp_path, NEW).write(night("20260925T010000Z-abcd", NEW))
    assert len(history(tmp_path, NEW).nights()) == 16
    assert len(history(tmp_path, NEW).own()) == 1


def test_a_machine_that_only_reads_alike_is_another_one(tmp_path: Path) -> None:
    history(tmp_path, OTHER).write(night("20260910T010000Z-abcd", OTHER))
    assert OTHER.hardware_id.rpartition("-")[0] == OLD.hardware_id.rpartition("-")[0]
    assert history(tmp_path, OLD).nights() == []


def test_a_night_in_the_future_is_named_and_left_out(tmp_path: Path) -> None:
    kept = history(tmp_path, OLD)
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y%m%dT%H%M%SZ}-bbbb"
    for name in ("20260901T010000Z-aaaa", tomorrow, "20260902T010000Z-cccc"):
        kept.write(night(name, OLD))
    assert [n.night for n in kept.nights()] == ["20260901T010000Z-aaaa", "20260902T010000Z-cccc"]
    assert [problem for problem in kept.problems if "in the future" in problem]
