from __future__ import annotations

import math

import pytest

from harness.predict import this_machine
from harness.predict.setup import Setup
from harness.predict.shape import Shape
from harness.predict.time import step_time

SHAPE = Shape(width=256, layers=4, heads=4, kv_heads=4, hidden=1024, seq_len=128, vocab=256, tied=False)


def products(rate: float, half: float, name: str) -> list[dict[str, object]]:
    found = []
    for m, n, k in ((128, 768, 256), (512, 1024, 256), (2048, 256, 1024)):
        filling = math.prod(1 + half / side for side in (m, n, k))
        found.append({"format": name, "m": m, "n": n, "k": k, "flops_per_s": rate / filling})
    return found


def calibration(fp32: float = 5e10, half: float = 16.0, latency: float = 1e-4) -> dict[str, object]:
    table = [(size, latency + size / 1e9) for size in (1 << 10, 1 << 18, 1 << 24)]
    return {
        "matmul": [*products(fp32, half, "fp32"), *products(2 * fp32, half, "bf16")],
        "attention": [{"format": "fp32", "flops": 5e8, "seconds": 5e8 / (0.5 * fp32)}],
        "elementwise_bytes_per_s": 1e10,
        "operator_s": 4e-6,
        "collectives": {"all_reduce": table},
    }


def test_the_peak_and_the_size_that_halves_it_are_found_from_products() -> None:
    found = this_machine.measured(calibration(), 2, 1 << 30)
    assert found.peak("fp32") == pytest.approx(5e10)
    assert found.peak("bf16") == pytest.approx(1e11)
    assert found.efficiency.half_dim == 16.0
    assert found.efficiency.attention_share == pytest.approx(0.5)


def test_latency_and_bandwidth_are_the_line_through_the_collectives() -> None:
    found = this_machine.measured(calibration(latency=2e-4), 2, 1 << 30)
    assert found.link_bandwidth == pytest.approx(1e9, rel=0.01)
    assert found.efficiency.link_latency_s == pytest.approx(2e-4, rel=0.05)


def test_one_rank_alone_communicates_with_nobody() -> None:
    alone = {name: value for name, value in calibration().items() if name != "collectives"}
    found = this_machine.measured(alone, 1, 1 << 30)
    setup = Setup(micro_batch=4, global_batch=8)
    assert step_time(SHAPE, setup, found).exposed_communication == 0


def test_a_faster_machine_is_predicted_to_be_faster() -> None:
    setup = Setup.of_plan({"data_parallel": "ddp", "dp": 2, "micro_batch_size": 4}, 8)
    slow, fast = (this_machine.measured(calibration(fp32=rate), 2, 1 << 30) for rate in (5e9, 5e10))
    assert step_time(SHAPE, setup, slow).total > step_time(SHAPE, setup, fast).total
