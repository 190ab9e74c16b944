from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import StoreError
from harness.store import store as store_module
from harness.store.records import PARTITIONS, STEPS, TRIALS, Column
from harness.store.store import Store, arrow_schema
from tests.store.stores import files, filled, read_by_pandas, steps, trial

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(),
    "bool": st.booleans(),
    "timestamp": st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
}


def rows(columns: tuple[Column, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """Any row of a table; columns that need no value are sometimes missing or None."""
    needed = {c.name: VALUES[c.type] for c in columns if c.required}
    others = {c.name: st.none() | VALUES[c.type] for c in columns if not c.required}
    return st.fixed_dictionaries(needed, optional=others)


def same(ours: Any, theirs: Any) -> bool:
    missing = theirs is None or (isinstance(theirs, float) and math.isnan(theirs))
    return bool(pd.isna(ours)) if missing else bool(ours == theirs)


# -- a power cut


@pytest.mark.parametrize("table", ["trials", "steps"])
def test_a_file_cut_short_anywhere_is_named_and_no_other_is_lost(table: str, tmp_path: Path) -> None:
    filled(tmp_path, count=3)
    last = tmp_path / table / "hardware_id=hw" / "sweep=s" / "t2.parquet"
    data, columns = last.read_bytes(), TRIALS if table == "trials" else STEPS
    near_an_end = 48
    sizes = [n for n in range(len(data)) if n < near_an_end or n >= len(data) - near_an_end or n % 97 == 0]
    for length in reversed(sizes):
        os.truncate(last, length)
        store = Store(tmp_path)
        assert store._read_file(last, columns) is None
        assert [problem.partition(" cannot be read")[0] for problem in store.problems] == [str(last)]
        assert "move it out of the results folder, every other file was read" in store.problems[0]
    assert list(getattr(Store(tmp_path), table)("s")["trial_id"].unique()) == ["t0", "t1"]


# -- round trip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trial_row=rows(TRIALS), step_row=rows(STEPS))
def test_what_was_appended_is_read_again(
    trial_row: dict[str, Any], step_row: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(tmp_path_factory.mktemp("results"))
    trial_row["trial_id"] = "t0"
    store.append("hw", "s", trial_row, [step_row])
    for read, written, columns in ((store.trials(), trial_row, TRIALS), (store.steps(), step_row, STEPS)):
        assert list(read.columns) == [column.name for column in (*PARTITIONS, *columns)]
        [row] = read.to_dict("records")
        assert (row["hardware_id"], row["sweep"]) == ("hw", "s")
        differing = [c.name for c in columns if not same(row[c.name], written.get(c.name))]
        assert differing == []


def test_trials_come_oldest_first_and_steps_in_order(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in (2, 0, 1):
        store.append("hw", "s", trial(number), reversed(steps(number)))
    assert list(store.trials()["trial_id"]) == ["t0", "t1", "t2"]
    read = store.steps()[["trial_id", "rank", "step"]]
    assert read.equals(read.sort_values(["trial_id", "rank", "step"], ignore_index=True))


def test_a_sweep_or_a_machine_is_read_alone(tmp_path: Path) -> None:
    store = filled(tmp_path, "one", 2)
    filled(tmp_path, "two", 3, first=2)
    store.append("other", "one", trial(9))
    assert (len(store.trials()), len(store.trials("one")), len(store.trials("two", "hw"))) == (6, 3, 3)
    assert list(store.trials("one", "other")["trial_id"]) == ["t9"]
    assert set(store.sweeps()) == {("hw", "one"), ("hw", "two"), ("other", "one")}


def test_reading_nothing_gives_empty_tables_and_creates_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "absent")
    assert (len(store.trials()), len(store.steps()), store.sweeps()) == (0, 0, [])
    assert (store.reference("w"), store.sweep_info("hw", "s")) == (None, {})
    assert list(store.trials().columns) == [column.name for column in (*PARTITIONS, *TRIALS)]
    assert not (tmp_path / "absent").exists()


def test_references_and_sweep_infos_are_read_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    curve = [{"step": i, "loss": 4.0 - i, "grad_norm": 1.0, "step_time_s": 0.1} for i in range(3)]
    store.write_reference("w", curve)
    store.write_sweep_info("hw", "s", {"seed": 3})
    read = store.reference("w")
    assert read is not None
    assert list(read["loss"]) == [4.0, 3.0, 2.0]
    assert store.sweep_info("hw", "s") == {"seed": 3}


def test_files_carry_units_and_meanings(tmp_path: Path) -> None:
    filled(tmp_path, count=1)
    [path] = (tmp_path / "trials").rglob("*.parquet")
    assert pq.read_schema(path).equals(arrow_schema(TRIALS), check_metadata=False)
    assert pq.read_schema(path).field("step_time_s").metadata[b"unit"] == b"s"


# -- one table for others


def read_by_pyarrow(folder: Path) -> pd.DataFrame:
    return ds.dataset(folder, partitioning="hive").to_table().to_pandas()


def read_by_duckdb(folder: Path) -> pd.DataFrame:
    duckdb = pytest.importorskip("duckdb")
    return duckdb.sql(f"from read_parquet('{folder}/**/*.parquet', hive_partitioning = true)").df()


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("read", [read_by_pandas, read_by_pyarrow, read_by_duckdb])
def test_others_read_each_table_whole_with_no_row_twice(read: Any, merged: bool, tmp_path: Path) -> None:
    store = filled(tmp_path, "one")
    store.append("hw", "two", trial(7, tokens_per_s=5.0), steps(7))
    if merged:
        store.merge("hw", "one")
    trials, all_steps = read(tmp_path / "trials"), read(tmp_path / "steps")
    assert sorted(trials["trial_id"]) == ["t0", "t1", "t2", "t7"]
    assert {column.name for column in (*PARTITIONS, *TRIALS)} == set(trials.columns)
    assert trials.set_index("trial_id").loc["t7", ["sweep", "tokens_per_s"]].tolist() == ["two", 5.0]
    assert len(all_steps) == 16
    assert not all_steps.duplicated(["trial_id", "rank", "step"]).any()


# -- interrupted and damaged


KILLED = """
import os, signal, sys
from pathlib import Path
Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
from tests.store.test_store import filled
filled(Path(sys.argv[1]))
"""


def test_a_writer_killed_before_the_rename_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    filled(tmp_path, "before", 1)
    root = Path(store_module.__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob(".*.parquet.*"))) == 1
    for read in (read_by_pandas, read_by_pyarrow, read_by_duckdb):
        assert len(read(tmp_path / "trials")) == 1
    store = Store(tmp_path)
    assert (len(store.trials()), len(store.steps()), store.problems) == (1, 4, [])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", None])
def test_a_damaged_file_is_named_and_every_other_is_read(content: bytes | None, tmp_path: Path) -> None:
    store = filled(tmp_path)
    damaged = tmp_path / "trials" / "hardware_id=hw" / "sweep=s" / "t1.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-100] if content is None else content)
    assert list(store.trials()["trial_id"]) == ["t0", "t2"]
    store.trials()
    [problem] = store.problems
    assert problem.startswith(f"{damaged} cannot be read (")
    assert "move it out of the results folder" in problem


def test_a_file_of_other_types_is_named(tmp_path: Path) -> None:
    store = filled(tmp_path, count=1)
    folder = tmp_path / "trials" / "hardware_id=hw" / "sweep=s"
    pd.DataFrame({"trial_id": ["t5"], "dp": ["two"]}).to_parquet(folder / "other.parquet")
    assert list(store.trials()["trial_id"]) == ["t0"]
    assert str(folder / "other.parquet") in store.problems[0]


def test_columns_of_a_later_version_are_left_out_and_missing_ones_are_empty(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "hardware_id=hw" / "sweep=s"
    folder.mkdir(parents=True)
    pd.DataFrame({"trial_id": ["t5"], "colour": ["red"]}).to_parquet(folder / "a.parquet")
    read = Store(tmp_path).trials()
    assert "colour" not in read.columns
    assert read["tokens_per_s"].isna().all()


def test_damaged_sweep_info_and_references_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_sweep_info("hw", "s", {})
    store.write_reference("w", [{"step": 0, "loss": 1.0, "grad_norm": 1.0, "step_time_s": 1.0}])
    for path in files(tmp_path):
        path.write_bytes(b"{")
    assert (store.sweep_info("hw", "s"), store.reference("w")) == ({}, None)
    assert len(store.problems) == 2


# -- what cannot be written


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"trials/hardware_id=hw cannot be written: Not a directory"):
        filled(tmp_path / "file")


def test_a_write_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        filled(tmp_path)
    assert files(tmp_path) == []


def test_a_row_that_breaks_the_schema_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="tokens_per_second"):
        Store(tmp_path).append("hw", "s", trial(0, tokens_per_second=1.0))
    assert files(tmp_path) == []
