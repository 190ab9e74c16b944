"""Stores of trials whose values mean nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from harness.store.records import TRIALS
from harness.store.store import Store


def trial(number: int, **values: Any) -> dict[str, Any]:
    """A row of `trials`."""
    examples = {"string": "x", "int64": 1, "float64": 1.0, "bool": False, "timestamp": datetime(2025, 1, 1, tzinfo=UTC)}
    needed = {column.name: examples[column.type] for column in TRIALS if column.required}
    return {**needed, "trial_id": f"t{number}", "started_at": datetime(2025, 1, 1, 0, number, tzinfo=UTC), **values}


def steps(number: int, count: int = 2, ranks: int = 2) -> list[dict[str, Any]]:
    """Rows of `steps` of a trial."""
    fixed = {"trial_id": f"t{number}", "phase": "measure", "step_time_s": 0.1, "tokens": 8}
    return [{**fixed, "rank": rank, "step": step} for rank in range(ranks) for step in range(count)]


def filled(root: Path, sweep: str = "s", count: int = 3, first: int = 0) -> Store:
    """A store with `count` trials of a sweep, numbered from `first`."""
    store = Store(root)
    for number in range(first, first + count):
        store.append("hw", sweep, trial(number), steps(number))
    return store


def files(root: Path) -> list[Path]:
    """What readers see: hidden files are none of theirs."""
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))


def read_by_pandas(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder)
