"""A small store of invented trials: no number in it was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.report.sweep_view import SweepView
from harness.store.store import Store

from .rows import HARDWARE, INFO, SWEEP, WORKLOAD, step_rows, typical


def recorded(folder: Path, rows: Iterable[Mapping[str, Any]], *, reference: bool = True, **info: Any) -> Store:
    """A store of these trials."""
    store = Store(folder)
    for row in rows:
        store.append(HARDWARE, SWEEP, row, step_rows(row) if row["outcome"] == "ok" else ())
    if reference:
        curve = [{"step": s, "loss": 5 - 0.1 * s, "grad_norm": 1.0, "step_time_s": 1.6} for s in range(10)]
        store.write_reference(WORKLOAD, curve)
    store.write_sweep_info(HARDWARE, SWEEP, INFO | info)
    return store


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """A function that records trials (by default `typical()`), their steps, a reference and the sweep's facts."""

    def make(rows: Iterable[Mapping[str, Any]] | None = None, reference: bool = True, **info: Any) -> Store:
        return recorded(tmp_path / "results", typical() if rows is None else rows, reference=reference, **info)

    return make


@pytest.fixture
def make_view(make_store: Callable[..., Store]) -> Callable[..., SweepView]:
    """`make_store`, read back as the panels see it."""
    return lambda *args, **kwargs: SweepView.read(make_store(*args, **kwargs), HARDWARE, SWEEP)
