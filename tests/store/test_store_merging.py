"""Merging the files of a sweep, beside readers and writers, and killed at a bad moment."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness.store import store as store_module
from harness.store.exchange import exchange
from harness.store.records import Column
from harness.store.store import Store
from tests.store.stores import files, filled, read_by_pandas, steps, trial

swaps = pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="this system cannot swap folders")


def test_merging_keeps_every_row_in_one_file_and_can_be_repeated(tmp_path: Path) -> None:
    store = filled(tmp_path)
    before = store.trials(), store.steps()
    store.merge("hw", "s")
    merged = files(tmp_path)
    assert len(merged) == 2
    store.merge("hw", "s")
    assert files(tmp_path) == merged
    pd.testing.assert_frame_equal(store.trials(), before[0])
    pd.testing.assert_frame_equal(store.steps(), before[1])


def test_a_resumed_sweep_is_merged_again(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.merge("hw", "s")
    store.append("hw", "s", trial(8), steps(8))
    store.merge("hw", "s")
    assert len(files(tmp_path)) == 2
    assert list(store.trials()["trial_id"]) == ["t0", "t1", "t2", "t8"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupted_merge_loses_and_doubles_no_row(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path)

    def interrupted(one: Path, other: Path) -> bool:
        if when == "after":
            exchange(one, other)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "exchange", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.merge("hw", "s")
    assert (len(read_by_pandas(tmp_path / "trials")), len(read_by_pandas(tmp_path / "steps"))) == (3, 12)
    store.merge("hw", "s")
    assert (len(read_by_pandas(tmp_path / "trials")), len(read_by_pandas(tmp_path / "steps"))) == (3, 12)
    assert len(files(tmp_path)) == 2


def test_what_a_killed_merge_left_is_removed_by_the_next(tmp_path: Path) -> None:
    store = filled(tmp_path)
    left = tmp_path / ".merging" / "hw,s"
    left.mkdir(parents=True)
    (left / "half.parquet").write_bytes(b"PAR1")
    store.merge("hw", "s")
    assert not left.exists()
    assert len(store.trials()) == 3


def test_many_small_files_are_merged_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MERGE_AT", 4)
    store = filled(tmp_path, count=12)
    assert len(files(tmp_path / "trials")) == len(files(tmp_path / "steps")) == 4  # two merged ones and two trials
    assert list(store.trials()["trial_id"]) == [f"t{number}" for number in range(12)]
    assert len(read_by_pandas(tmp_path / "steps")) == 12 * 4


def test_a_file_that_is_merged_away_while_reading_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)
    reader, read = Store(tmp_path), Store._read_file

    def merge_meanwhile(self: Store, path: Path, columns: tuple[Column, ...]) -> Any:
        monkeypatch.setattr(Store, "_read_file", read)
        Store(tmp_path).merge("hw", "s")
        return read(self, path, columns)

    monkeypatch.setattr(Store, "_read_file", merge_meanwhile)
    assert list(reader.trials()["trial_id"]) == ["t0", "t1", "t2"]
    assert reader.problems == []


def test_merging_leaves_a_damaged_file_where_it_is(tmp_path: Path) -> None:
    store = filled(tmp_path)
    damaged = tmp_path / "trials" / "hardware_id=hw" / "sweep=s" / "t1.parquet"
    damaged.write_bytes(b"damaged")
    store.merge("hw", "s")
    assert damaged.read_bytes() == b"damaged"
    assert list(store.trials()["trial_id"]) == ["t0", "t2"]


def rows_seen(root: Path) -> list[str]:
    """The trials that a reader finds who knows nothing of this module, such as DuckDB."""
    seen: list[str] = []
    for path in sorted((root / "trials").glob("hardware_id=*/sweep=*/*.parquet")):
        seen += pq.ParquetFile(path).read(columns=["trial_id"])["trial_id"].to_pylist()
    return seen


def scatter(folder: Path, beside: Path) -> None:
    """Put every row of a merged folder into a file of its own again, at one stroke."""
    (merged,) = folder.glob("*.parquet")
    whole = pq.ParquetFile(merged).read()
    beside.mkdir()
    for at in range(whole.num_rows):
        pq.write_table(whole.slice(at, 1), beside / f"{at}.parquet")
    assert exchange(folder, beside)
    shutil.rmtree(beside)


@swaps
def test_no_reader_ever_misses_a_row_or_sees_one_twice_while_files_are_merged(tmp_path: Path) -> None:
    store, wanted = filled(tmp_path, count=12), 12
    over = threading.Event()
    bad: list[list[str]] = []
    read = 0

    def look() -> None:
        nonlocal read
        while not over.is_set():
            try:
                seen = rows_seen(tmp_path)
            except FileNotFoundError:  # swapped between listing and opening: a reader sees that and reads again
                continue
            read += 1
            if sorted(seen) != sorted({f"t{number}" for number in range(wanted)}):
                bad.append(seen)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for _ in range(8):
            store.merge("hw", "s")
            scatter(tmp_path / "trials" / "hardware_id=hw" / "sweep=s", tmp_path / "apart")
    finally:
        over.set()
        reader.join()
    assert bad == []
    assert read > 0


def test_trials_recorded_while_files_are_merged_are_kept(tmp_path: Path) -> None:
    filled(tmp_path, count=8)
    merger = threading.Thread(target=lambda: [Store(tmp_path).merge("hw", "s") for _ in range(20)])
    merger.start()
    for number in range(8, 28):
        Store(tmp_path).append("hw", "s", trial(number), steps(number))
    merger.join()
    found = Store(tmp_path)
    assert set(found.trials()["trial_id"]) == {f"t{number}" for number in range(28)}
    assert set(found.steps()["trial_id"]) == set(found.trials()["trial_id"])


def test_merging_does_not_make_an_old_sweep_the_last_one(tmp_path: Path) -> None:
    store = filled(tmp_path, "old")
    filled(tmp_path, "new", first=8)
    before = store.sweeps()
    store.merge("hw", "old")
    assert store.sweeps() == before == [("hw", "old"), ("hw", "new")]


def test_where_folders_cannot_be_swapped_files_are_merged_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "exchange", lambda one, other: False)
    store = filled(tmp_path)
    store.merge("hw", "s")
    assert len(files(tmp_path)) == 2
    assert (len(store.trials()), len(store.steps())) == (3, 12)


def test_only_the_columns_that_are_asked_for_are_read(tmp_path: Path) -> None:
    found = filled(tmp_path, count=1).trials(columns=("trial_id", "started_at", "outcome"))
    assert list(found.columns) == ["hardware_id", "sweep", "trial_id", "outcome", "started_at"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_where_files_cannot_have_two_names_they_are_merged_all_the_same(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path)
    before = list(store.trials()["trial_id"])
    damaged = tmp_path / "trials" / "hardware_id=hw" / "sweep=s" / "damaged.parquet"
    damaged.write_bytes(b"no parquet")

    def refuse(*arguments: object) -> None:
        raise OSError(number, "this file system has no links")

    monkeypatch.setattr(os, "link", refuse)
    store.merge("hw", "s")
    assert list(store.trials()["trial_id"]) == before
    assert damaged.read_bytes() == b"no parquet"
