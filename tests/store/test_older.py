"""What earlier versions recorded keeps its meaning: two sweeps of version 4 of the schema, which a kill ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.plan import Plan, complete, upgraded
from harness.store import older
from harness.store.store import Store
from harness.sweeps.single import _recorded
from tests.tiny import knobs

RECORDED = Path(__file__).parents[1] / "sweeps" / "recorded" / "results"
MIB_IN_MB = 1.048576


def test_sizes_that_torch_took_as_mib_are_read_as_the_bytes_they_were() -> None:
    store = Store(RECORDED)
    before, now = store.trials(as_recorded=True), store.trials()
    assert set(before["schema_version"]) == {4}
    assert list(before["trial_id"]) == list(now["trial_id"])
    for was, row in zip(before.to_dict("records"), now.to_dict("records"), strict=True):
        by_torch = row["data_parallel"] == "ddp" or json.loads(row["knobs"])["zero1_impl"] == "torch"
        assert row["bucket_mb"] == pytest.approx(was["bucket_mb"] * (MIB_IN_MB if by_torch else 1.0))
        assert json.loads(row["knobs"])["bucket_mb"] == row["bucket_mb"]
        assert row["plan_id"] == Plan.from_json(row["knobs"]).plan_id
        assert (row["plan_id"] == was["plan_id"]) != by_torch


def test_columns_that_were_not_asked_for_are_not_there() -> None:
    found = Store(RECORDED).trials(columns=("trial_id", "started_at", "plan_id"))
    assert set(found.columns) == {"hardware_id", "sweep", "trial_id", "started_at", "plan_id"}
    assert set(found["plan_id"]) == set(Store(RECORDED).trials()["plan_id"])


def test_a_plan_is_still_found_by_the_id_that_it_had() -> None:
    store = Store(RECORDED)
    first = store.trials(as_recorded=True).iloc[0]
    assert first["data_parallel"] == "ddp"
    assert _recorded(store, first["plan_id"])["bucket_mb"] == pytest.approx(25 * MIB_IN_MB)
    assert _recorded(store, store.trials().iloc[0]["plan_id"])["bucket_mb"] == pytest.approx(25 * MIB_IN_MB)


@pytest.mark.parametrize(
    ("settings", "means"),
    [
        ({"data_parallel": "ddp", "bucket_mb": 8.0}, 8 * MIB_IN_MB),
        ({"data_parallel": "ddp"}, 25 * MIB_IN_MB),
        ({"data_parallel": "ddp", "precision": "bf16_params", "bucket_mb": 8.0}, 16 * MIB_IN_MB),
        ({"data_parallel": "ddp", "precision": "bf16", "bucket_mb": 256.0}, 256 * MIB_IN_MB),
        ({"data_parallel": "zero1", "zero1_impl": "torch", "bucket_mb": 8.0}, 8 * MIB_IN_MB),
        ({"data_parallel": "zero1", "bucket_mb": 8.0}, 8.0),
        ({"data_parallel": "zero2", "precision": "bf16_params", "bucket_mb": 8.0}, 16.0),
        ({"data_parallel": "zero2", "precision": "bf16_params", "reduce_dtype": "bf16", "bucket_mb": 8.0}, 8.0),
        ({"data_parallel": "zero1", "precision": "bf16_autocast", "reduce_dtype": "bf16", "bucket_mb": 8.0}, 4.0),
        ({"data_parallel": "zero2", "zero2_impl": "fsdp2", "bucket_mb": 8.0}, None),
        ({"data_parallel": "zero3"}, None),
        ({"tp": 2}, None),
    ],
)
def test_settings_of_an_earlier_version_mean_what_they_meant(settings: dict, means: float | None) -> None:
    assert upgraded(settings, 4).get("bucket_mb") == (means if means is None else pytest.approx(means))
    assert upgraded(settings, 5) == settings


def test_a_recorded_command_still_runs_the_same_plan() -> None:
    row = {"schema_version": 4, "bucket_mb": 26.2144}
    assert older.command("python -m harness run --set dp=2", row).endswith("--set dp=2 --set bucket_mb=26.2144")
    assert older.command("run --set bucket_mb=25.0 --set dp=2", row) == "run --set dp=2 --set bucket_mb=26.2144"
    assert older.command("run --set dp=2", {**row, "schema_version": 5}) == "run --set dp=2"
    assert older.command("run --set bucket_mb=9.5 --set dp=2", {**row, "bucket_mb": None}) == "run --set dp=2"
    assert older.command("", row) == ""


@pytest.mark.parametrize("old", [0.5, 256.0])
@pytest.mark.parametrize("precision", ["fp32", "bf16_autocast", "bf16_params", "bf16"])
@pytest.mark.parametrize("kind", ["ddp", "zero1", "zero2"])
def test_every_plan_that_could_be_recorded_can_still_be_asked_for(kind: str, precision: str, old: float) -> None:
    settings = {"dp": 2, "data_parallel": kind, "precision": precision, "bucket_mb": old}
    if kind != "ddp" and precision in ("bf16_autocast", "bf16_params"):
        settings["reduce_dtype"] = "bf16"
    assert complete(upgraded(settings, 4), knobs())["bucket_mb"] > 0
