from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.cli import commands
from harness.predict import this_machine
from harness.predict.devices import Device
from harness.predict.overtakings import _with
from harness.predict.setup import Setup
from harness.predict.shape import Shape
from harness.predict.time import step_time
from tests.predict.test_this_machine import calibration
from tests.tiny import plan

SHALLOW = {
    "width": 256,
    "layers": 2,
    "heads": 4,
    "kv_heads": 4,
    "hidden": 1024,
    "seq_len": 128,
    "vocab": 256,
    "tied": False,
}


def probe(pass_s: float, update_s: float = 0.01, **settings: Any) -> dict[str, Any]:
    return {"plan": dict(plan({"micro_batch_size": 4, **settings})), "pass_s": pass_s, "update_s": update_s}


PROBES = [
    probe(0.060),
    probe(0.020, micro_batch_size=1),
    probe(0.040, precision="bf16_params", update_s=0.015),
    probe(0.015, precision="bf16_params", micro_batch_size=1, update_s=0.015),
    probe(0.090, quantization="float8"),
    probe(0.040, quantization="float8", micro_batch_size=1),
    probe(0.060, update_s=0.11, quantization="adamw8bit"),
    probe(0.078, activation_checkpoint="full"),
    probe(0.027, activation_checkpoint="full", micro_batch_size=1),
    probe(0.070, dp=2, data_parallel="ddp"),
    probe(0.080, dp=2, data_parallel="zero3"),
    probe(0.050, update_s=0.005, tp=2),
    probe(0.024, update_s=0.005, tp=2, micro_batch_size=1),
]


def here(probes: list[dict[str, Any]] = PROBES) -> Device:
    measured = {**calibration(), "device_type": "cpu", "probes": probes, "probed_shape": SHALLOW}
    return this_machine.measured(measured, 2, 1 << 34)


def predicted(shape: Shape, device: Device, batch: int = 4, **settings: Any) -> float:
    setup = Setup.of_plan(plan({"micro_batch_size": 4, **settings}), batch)
    time = step_time(shape, setup, device)
    return float(time.total - time.fixed)


@pytest.mark.parametrize("probe", PROBES)
def test_a_plan_that_was_probed_takes_what_was_measured(probe: dict[str, Any]) -> None:
    settings = probe["plan"]
    batch = settings["dp"] * settings["micro_batch_size"]
    found = predicted(Shape(**SHALLOW), here(), batch, **settings)  # type: ignore[arg-type]
    assert found == pytest.approx(probe["pass_s"] + probe["update_s"], rel=1e-6)


def test_more_blocks_take_so_much_more() -> None:
    deep = Shape(**{**SHALLOW, "layers": 8})  # type: ignore[arg-type]
    two, eight = (predicted(shape, here()) for shape in (Shape(**SHALLOW), deep))  # type: ignore[arg-type]
    assert 3 * two < eight < 4 * two


def test_choices_that_were_probed_apart_add_up() -> None:
    shape = Shape(**SHALLOW)  # type: ignore[arg-type]
    both = predicted(shape, here(), quantization="adamw8bit", precision="bf16_params")
    assert both == pytest.approx(0.040 + 0.015 + 0.11 - 0.01, rel=1e-6)
    low = predicted(shape, here(), quantization="float8", precision="bf16_params")
    assert low == pytest.approx(0.040 * 0.090 / 0.060 + 0.015, rel=0.3)
    half = predicted(shape, here(), activation_checkpoint="nth", checkpoint_every=2)
    assert half == pytest.approx((0.060 + 0.078) / 2 + 0.01, rel=0.05)


def test_what_a_pass_takes_whatever_its_samples_adds_up() -> None:
    both = probe(0.060, precision="bf16_params", quantization="float8")
    found = predicted(
        Shape(**SHALLOW),  # type: ignore[arg-type]
        here([*PROBES, both]),
        1,
        precision="bf16_params",
        quantization="float8",
        micro_batch_size=1,
    )
    fixed = {
        "usual": (4 * 0.020 - 0.060) / 3,
        "bf16_params": (4 * 0.015 - 0.040) / 3,
        "float8": (4 * 0.040 - 0.090) / 3,
    }
    of_both = fixed["bf16_params"] + fixed["float8"] - fixed["usual"]
    assert found == pytest.approx(of_both + (0.060 - of_both) / 4 + 0.015, rel=1e-6)


def test_a_sharded_update_is_divided_over_the_ranks() -> None:
    shape = Shape(**SHALLOW)  # type: ignore[arg-type]
    setups = [
        Setup.of_plan(plan({"dp": 2, "data_parallel": k, "quantization": "adamw8bit"}), 2) for k in ("ddp", "zero1")
    ]
    whole, shard = (float(step_time(shape, setup, here()).optimizer) for setup in setups)
    assert whole == pytest.approx(0.11, rel=1e-6)
    assert shard == pytest.approx(whole / 2)


def test_many_plans_at_once_are_predicted_as_one_by_one() -> None:
    shape = Shape(**SHALLOW)  # type: ignore[arg-type]
    plans = [plan({"micro_batch_size": 2, **row["plan"]}) for row in PROBES]
    setups = [Setup.of_plan(of, 8) for of in plans]
    together = np.broadcast_to(step_time(shape, Setup.stack(setups), here()).total, len(setups))
    assert together == pytest.approx([float(step_time(shape, setup, here()).total) for setup in setups])


def test_a_faster_interconnect_still_makes_what_was_probed_faster() -> None:
    shape = Shape(**SHALLOW)  # type: ignore[arg-type]
    settings = {"dp": 2, "data_parallel": "ddp"}
    slow, fast = (predicted(shape, _with(here(), factor), 8, **settings) for factor in (1.0, 32.0))
    assert predicted(shape, here(), dp=1) < fast < slow


def test_a_machine_without_probes_is_the_plain_closed_form() -> None:
    bare = this_machine.measured({**calibration(), "device_type": "cpu"}, 2, 1 << 34)
    assert not bare.probed
    assert bare == this_machine.measured(calibration(), 2, 1 << 34)


def test_on_an_accelerator_communication_is_still_hidden_beside_computation() -> None:
    measured = {**calibration(), "device_type": "cuda", "probes": PROBES, "probed_shape": SHALLOW}
    setup = Setup.of_plan(plan({"dp": 2, "data_parallel": "ddp", "micro_batch_size": 4}), 8)
    found = step_time(Shape(**SHALLOW), setup, this_machine.measured(measured, 2, 1 << 34))  # type: ignore[arg-type]
    assert found.overlapped_communication > 0
    assert step_time(Shape(**SHALLOW), setup, here()).overlapped_communication == 0  # type: ignore[arg-type]


def test_what_was_measured_is_printed_by_what_is_different(capsys: pytest.CaptureFixture[str]) -> None:
    commands._print_probes(PROBES)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(PROBES)
    assert " ".join(lines[1].split()) == "one rank, everything at its default 60.0 ms 10.0 ms"
    assert " ".join(lines[3].split()) == "precision=bf16_params 40.0 ms 15.0 ms"
    assert "data_parallel=zero3 dp=2 reshard_after_forward=True" in lines[11]
