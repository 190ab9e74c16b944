"""Published step times that no constant was fitted to (Korthikanti et al. 2022, arXiv:2205.05198, table 5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.predict.devices import device
from harness.predict.table import predict_table

TABLE = Path(__file__).parents[2] / "benchmarks" / "published" / "megatron_a100_80g_recompute.csv"


def test_models_of_22_to_1000_billion_parameters_are_predicted_without_ever_having_been_fitted() -> None:
    found = predict_table(TABLE, device("A100-80"))
    errors = [row["error_step_time"] for row in found["rows"]]
    assert len(errors) == 8
    assert max(map(abs, errors)) < 0.12
    assert found["mape_step_time"] < 0.05
    assert found["mape_step_time"] < found["mape_constant_mfu"] / 3
    assert found["kendall_tau"] == pytest.approx(1.0)


def test_what_less_recomputation_gains_is_predicted() -> None:
    rows = predict_table(TABLE, device("A100-80"))["rows"]
    for full, selective in zip(rows[::2], rows[1::2], strict=True):
        gain = full["step_time_s"] / selective["step_time_s"]
        assert gain == pytest.approx(full["measured_step_time_s"] / selective["measured_step_time_s"], rel=0.1)
        assert selective["peak_memory_bytes"] < 80 * 2**30
