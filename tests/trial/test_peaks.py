from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.launchers.job import Deadlines
from harness.launchers.launcher import Launcher
from harness.store.store import Store
from harness.trial import calibrate
from harness.trial.peaks import PUBLISHED, Peaks, published
from harness.trial.runner import Runner
from harness.workloads.cnn import Cnn, load_digits
from tests.tiny import facts, gpt, plan

MEASURED = {"flops_per_s": {"fp32": 1e11, "bf16": 2e11}}


@pytest.mark.parametrize(
    ("name", "bf16"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Tesla T4", None),
    ],
)
def test_a_device_is_found_by_the_name_of_its_driver(name: str, bf16: float | None) -> None:
    found = published(name)
    assert found is not None
    assert found.tflops.get("bf16") == bf16
    assert found.source


def test_every_entry_has_peaks_or_a_description_that_has_them() -> None:
    for part in PUBLISHED:
        found = published(part)
        assert found is not None
        assert found.tflops["fp16"] > found.tflops["fp32"] > 0


def test_an_unknown_device_has_no_published_peak() -> None:
    assert published("Some Device 9000") is None


def test_mfu_is_a_share_of_every_ranks_device() -> None:
    row = {"flops_per_step": 4e14, "step_time_s": 1.0}
    found = Peaks(devices=("NVIDIA H100 80GB HBM3",)).columns(plan({"dp": 2, "precision": "bf16"}), 2, row)
    assert found["mfu"] == pytest.approx(4e14 / (2 * 989e12))
    assert str(found["peak_source"]).startswith("published: NVIDIA H100")


def test_the_ranks_of_a_cpu_share_its_measured_peak() -> None:
    assert Peaks(measured=MEASURED).of(plan({"dp": 2}), 2) == (1e11, "measured on all usable cores")


def test_a_device_that_is_in_no_table_counts_with_its_measured_peak() -> None:
    assert Peaks(devices=("New",), measured=MEASURED).of(plan({"dp": 2}), 2) == (2e11, "measured on one device")


def test_a_trial_that_is_faster_than_the_peak_has_no_mfu() -> None:
    row = {"flops_per_step": 3e11, "step_time_s": 1.0}
    assert Peaks(measured=MEASURED).columns(plan({"dp": 2}), 2, row) == {}


@pytest.mark.parametrize("settings", [{"precision": "fp16"}, {"quantization": "int8"}, {"quantization": "float8"}])
def test_an_unknown_peak_gives_no_mfu(settings: dict[str, str]) -> None:
    row = {"flops_per_step": 1.0, "step_time_s": 1.0}
    assert Peaks(measured=MEASURED).columns(plan({"micro_batch_size": 4, **settings}), 1, row) == {}
    assert Peaks().columns(plan({"micro_batch_size": 4}), 1, row) == {}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else this machine does, it counts as nothing."""
    monkeypatch.setattr(calibrate, "disturbed", lambda found: False)


def runner(launcher: Launcher, folder: Path) -> Runner:
    return Runner(launcher=launcher, store=Store(folder), hardware_id="hw", sweep="s", cores=2)


@pytest.mark.usefixtures("alone")
def test_the_peak_is_measured_once_and_then_remembered(launcher: Launcher, tmp_path: Path) -> None:
    made = runner(launcher, tmp_path)
    workload, single = gpt(), plan({"micro_batch_size": 1})
    found = calibrate.peaks(made, single, workload, facts(workload, 1))
    assert found is not None
    assert found["flops_per_s"]["fp32"] > 1e8
    assert found["copy_bytes_per_s"] > 1e7
    kept = json.loads((tmp_path / "hardware" / "hw.json").read_text())
    assert kept["usable_cores"] == 2
    (tmp_path / "hardware" / "hw.json").write_text(json.dumps({**kept, "copy_bytes_per_s": 1.0}))
    again = calibrate.peaks(made, single, workload, facts(workload, 1))
    assert again is not None
    assert again["copy_bytes_per_s"] == 1.0


class Written(Runner):
    """Instead of launching ranks, gives what they would have written, and counts how often."""

    def apart(self, *args: Any) -> dict[str, Any] | None:
        self.asked = getattr(self, "asked", 0) + 1
        return {**MEASURED, "foreign_cpu_share": 0.0, "probes": []}


@pytest.mark.parametrize(("share", "asked"), [(0.5, 1), (0.0, 0), (None, 0)])
def test_what_others_disturbed_is_measured_again_by_the_next_run(
    share: float | None, asked: int, tmp_path: Path
) -> None:
    made = Written(launcher=None, store=Store(tmp_path), hardware_id="hw", sweep="s", cores=2)  # type: ignore[arg-type]
    made.asked = 0
    workload, pair = gpt(), plan({"dp": 2, "micro_batch_size": 1})
    shapes = [workload.width, 4 * workload.width, workload.seq_len]
    between = {"2": {"shapes": shapes, "asked": [], "foreign_cpu_share": share}}
    made.store.write_peaks("hw", {**MEASURED, "foreign_cpu_share": share, "interconnect": between})
    calibrate.ranks(made, pair, workload, facts(workload, 2))
    assert made.asked == asked
    calibrate.peaks(made, plan({"micro_batch_size": 1}), workload, facts(workload, 1))
    assert made.asked == 2 * asked
    calibrate.ranks(made, pair, workload, facts(workload, 2))
    calibrate.peaks(made, plan({"micro_batch_size": 1}), workload, facts(workload, 1))
    assert made.asked == 2 * asked  # what was measured anew was not disturbed


@pytest.mark.usefixtures("alone")
def test_what_ranks_do_at_once_is_measured_once_for_each_number_of_them(launcher: Launcher, tmp_path: Path) -> None:
    made = runner(launcher, tmp_path)
    made.store.write_peaks("hw", MEASURED)
    workload, pair = gpt(), plan({"dp": 2, "micro_batch_size": 1})
    found = calibrate.ranks(made, pair, workload, facts(workload, 2))
    assert found is not None
    assert found["backend"] == "gloo"
    assert found["all_reduce_bytes_per_s"] > 1e6
    assert 0 < found["all_reduce_latency_s"] < 1
    assert {product["format"] for product in found["matmul"]} == {"fp32", "bf16"}
    assert set(found["collectives"]) == {"all_reduce", "all_gather", "reduce_scatter", "send"}
    assert min(found["operator_s"], found["elementwise_bytes_per_s"], found["attention"][0]["seconds"]) > 0
    assert calibrate.ranks(made, pair, workload, facts(workload, 2)) == found
    kept = made.store.peaks("hw")
    assert kept is not None
    assert kept["flops_per_s"] == MEASURED["flops_per_s"]
    assert set(kept["interconnect"]) == {"2"}


def test_other_shapes_and_one_rank_are_measured_for_themselves(launcher: Launcher, tmp_path: Path) -> None:
    made = runner(launcher, tmp_path)
    alone = plan({"micro_batch_size": 1})
    narrow, wide = gpt(), gpt(width=128)
    first = calibrate.ranks(made, alone, narrow, facts(narrow, 1))
    second = calibrate.ranks(made, alone, wide, facts(wide, 1))
    assert first is not None
    assert second is not None
    assert "collectives" not in first
    assert first["shapes"] != second["shapes"]


def test_what_cannot_be_measured_is_none(launcher: Launcher, tmp_path: Path) -> None:
    made, workload = runner(launcher, tmp_path), gpt()
    made.deadlines = Deadlines(start=0.0, step=1.0)
    assert calibrate.peaks(made, plan({"micro_batch_size": 1}), workload, facts(workload, 1)) is None
    assert made.store.peaks("hw") is None


@pytest.mark.usefixtures("alone")
def test_short_trainings_are_measured_once_and_kept_when_others_are_asked_for(
    launcher: Launcher, tmp_path: Path
) -> None:
    made = runner(launcher, tmp_path)
    workload, pair = gpt(), plan({"dp": 2, "micro_batch_size": 1})
    asked = [plan({"micro_batch_size": 2}), plan({"dp": 2, "data_parallel": "zero3"}), plan({"tp": 2})]
    found = calibrate.ranks(made, pair, workload, facts(workload, 2), probes=asked)
    assert found is not None
    assert [row["plan"] for row in found["probes"]] == [dict(of) for of in asked]
    assert all(row["pass_s"] > 0 and row["update_s"] > 0 for row in found["probes"])
    assert (found["probed_shape"]["layers"], found["probed_shape"]["width"]) == (2, workload.width)
    assert calibrate.ranks(made, pair, workload, facts(workload, 2), probes=asked[:2]) == found
    assert calibrate.ranks(made, pair, workload, facts(workload, 2)) == found
    more = calibrate.ranks(made, pair, workload, facts(workload, 2), probes=[plan({"precision": "bf16"})])
    assert more is not None
    assert [row["plan"] for row in more["probes"]] == [dict(plan({"precision": "bf16"})), *map(dict, asked)]


def test_a_model_without_blocks_has_no_short_trainings(launcher: Launcher, tmp_path: Path) -> None:
    made = runner(launcher, tmp_path)
    workload, alone = Cnn(name="cnn", global_batch_size=8, digits=load_digits()), plan({"micro_batch_size": 1})
    found = calibrate.ranks(made, alone, workload, facts(workload, 1), probes=[alone])
    assert found is not None
    assert "probes" not in found
