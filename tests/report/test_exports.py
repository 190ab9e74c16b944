from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import InputError, StoreError, UnknownNameError
from harness.report import also, check
from harness.store.store import Store

from .rows import HARDWARE, SWEEP, typical

Make = Callable[..., Store]
needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)


def test_csv_files_hold_every_row_and_column(make_store: Make, tmp_path: Path) -> None:
    store = make_store()
    (path,) = also(["csv"], store, HARDWARE, SWEEP, tmp_path / "reports")
    trials = pd.read_csv(path)
    assert list(trials["trial_id"]) == [row["trial_id"] for row in typical()]
    assert list(trials.columns) == list(store.trials().columns)
    steps = pd.read_csv(tmp_path / "reports" / f"{SWEEP}.steps.csv")
    assert len(steps) == len(store.steps())
    assert steps["loss"].tolist() == pytest.approx(store.steps()["loss"].tolist())


@needs_tensorboard
def test_tensorboard_reads_curves_and_settings(make_store: Make, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (root,) = also(["tensorboard"], make_store(), HARDWARE, SWEEP, tmp_path)
    assert {path.name for path in root.iterdir()} == {"a1", "b2", "c3", "d4"}
    read = EventAccumulator(str(root / "b2")).Reload()
    losses = [(event.step, event.value) for event in read.Scalars("steps/loss")]
    assert losses == [(step, pytest.approx(5 - 0.1 * step, rel=1e-5)) for step in range(10)]
    assert read.Scalars("tokens_per_s")[0].value == 1100
    assert read.PluginTagToContent("hparams")


@needs_tensorboard
def test_a_second_export_replaces_the_first(make_store: Make, tmp_path: Path) -> None:
    store = make_store()
    also(["tensorboard"], store, HARDWARE, SWEEP, tmp_path)
    (root,) = also(["tensorboard"], store, HARDWARE, SWEEP, tmp_path)
    assert [len(list(folder.iterdir())) for folder in root.iterdir()] == [1, 1, 1, 1]


def test_unknown_formats_are_refused_before_anything_is_done() -> None:
    with pytest.raises(UnknownNameError, match="format"):
        check(["csv", "excel"])


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'distributed-harness\[tensorboard\]'"):
        check(["tensorboard"])


def test_a_folder_that_cannot_be_written_is_named(make_store: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        also(["csv"], make_store(), HARDWARE, SWEEP, tmp_path / "file" / "reports")
