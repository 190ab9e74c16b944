"""The results folder: parquet tables that pandas, DuckDB, Polars and Spark read as one each.

    results/trials/hardware_id=.../sweep=.../*.parquet     one row a trial
    results/steps/hardware_id=.../sweep=.../*.parquet      one row a step and rank
    results/references/WORKLOAD_ID.parquet                 the fp32 curve of a workload
    results/sweeps/hardware_id=.../sweep=....json          how the sweep was called, its environment
    results/hardware/HARDWARE_ID.json                      what the machine was measured to do at most
    results/studies/HARDWARE_ID/NAME.log                   the Optuna journal

A trial's steps are written before its row, so a row in `trials` is complete. Files are written under a hidden name,
synchronised and renamed: a reader sees a file whole or not at all. Now and then the small files of a sweep are merged,
and when it has ended into one. A merge makes a folder beside the tables and swaps it with the sweep's in one step: at
no moment are rows missing or there twice. Where the system cannot swap folders, the small files are removed after the
merged one appeared; then this module drops the rows that stand twice, other readers may see them for a moment.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import StoreError
from harness.store import older, records
from harness.store.exchange import exchange

if TYPE_CHECKING:
    import pandas as pd

MERGE_AT = 64
"""Trials of a sweep that are left in files of their own; the next one has them merged."""

_MERGED = "merged-"

_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


def arrow_schema(columns: Sequence[records.Column]) -> pa.Schema:
    """The arrow schema of a table, each field with its unit and meaning as metadata."""
    return pa.schema(
        [pa.field(c.name, _TYPES[c.type], metadata={"unit": c.unit, "meaning": c.meaning}) for c in columns]
    )


class Store:
    """Reads and appends to a results folder. Nothing is created before the first write."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.problems: list[str] = []
        """One sentence for each file that could not be read so far."""

    # -- writing

    def append(
        self, hardware_id: str, sweep: str, trial: Mapping[str, Any], steps: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """Record one trial and its steps, durably.

        Raises:
            StoreError: the folder cannot be written.
        """
        trial_row = records.row(records.TRIALS, trial)
        step_rows = [records.row(records.STEPS, step) for step in steps]
        name = f"{trial_row['trial_id']}.parquet"
        with self._unmerged(hardware_id, sweep):
            if step_rows:
                self._write(self._partition("steps", hardware_id, sweep) / name, records.STEPS, step_rows)
            self._write(self._partition("trials", hardware_id, sweep) / name, records.TRIALS, [trial_row])
        if len(_single_files(self._partition("trials", hardware_id, sweep))) > MERGE_AT:
            self._merge(hardware_id, sweep, _single_files)

    def write_reference(self, workload_id: str, rows: Sequence[Mapping[str, Any]], *, agreed: bool = False) -> None:
        """Keep a workload's fp32 curve, or the one that plans agreed on. Raises StoreError if it cannot be written."""
        complete = [records.row(records.REFERENCES, {"workload_id": workload_id, **r}) for r in rows]
        self._write(self._curve(workload_id, agreed), records.REFERENCES, complete)

    def _curve(self, workload_id: str, agreed: bool) -> Path:
        return self.root / "references" / f"{workload_id}{'.agreed' if agreed else ''}.parquet"

    def write_sweep_info(self, hardware_id: str, sweep: str, info: Mapping[str, Any]) -> None:
        """Keep how a sweep was called and where it ran, as JSON. Raises StoreError if the folder cannot be written."""
        text = json.dumps(info, indent=2, sort_keys=True, default=str)
        _replace(self._info_path(hardware_id, sweep), lambda path: path.write_text(text, encoding="utf-8"))

    def merge(self, hardware_id: str, sweep: str) -> None:
        """Put every file of a sweep into one per table. Safe to interrupt, to repeat, and beside readers and writers.

        Raises:
            StoreError: the folder cannot be written.
        """
        self._merge(hardware_id, sweep, _files)

    def files(self, hardware_id: str, sweep: str) -> int:
        """Number of parquet files of a sweep, both tables together."""
        return sum(len(_files(self._partition(table, hardware_id, sweep))) for table in ("trials", "steps"))

    def _merge(self, hardware_id: str, sweep: str, choose: Callable[[Path], list[Path]]) -> None:
        if not self._partition("trials", hardware_id, sweep).exists():
            return
        beside = self.root / ".merging" / f"{hardware_id},{sweep}"
        with self._unmerged(hardware_id, sweep):
            try:
                for table, columns in (("steps", records.STEPS), ("trials", records.TRIALS)):
                    shutil.rmtree(beside, ignore_errors=True)  # what a kill left
                    self._merge_files(self._partition(table, hardware_id, sweep), beside, columns, choose)
            except OSError as error:
                raise _unwritable(self.root, error) from error
            finally:
                shutil.rmtree(beside, ignore_errors=True)

    def _merge_files(
        self, folder: Path, beside: Path, columns: Sequence[records.Column], choose: Callable[[Path], list[Path]]
    ) -> None:
        read = {path: rows for path in choose(folder) if (rows := self._read_file(path, columns)) is not None}
        if len(read) < 2:
            return
        whole = _drop_repeated(pa.concat_tables(read.values()), columns)
        merged = f"{_MERGED}{secrets.token_hex(4)}.parquet"
        _replace(beside / merged, lambda path: pq.write_table(whole, path))
        written = folder.stat()
        linked = _link_others(folder, read, beside)
        os.utime(beside, ns=(written.st_atime_ns, written.st_mtime_ns))  # when a trial was last recorded
        if linked and exchange(folder, beside):
            _synchronise(folder.parent)
            return
        (beside / merged).replace(folder / merged)
        for path in read:
            path.unlink()

    @contextlib.contextmanager
    def _unmerged(self, hardware_id: str, sweep: str) -> Iterator[None]:
        """Nobody else appends to, or merges, the files of a sweep meanwhile."""
        path = self.root / "trials" / f"hardware_id={hardware_id}" / f".{sweep}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(path)
            lock.acquire()
        except OSError as error:
            raise _unwritable(path.parent, error) from error
        try:
            yield
        finally:
            lock.release()

    # -- reading

    def trials(
        self,
        sweep: str | None = None,
        hardware_id: str | None = None,
        columns: Sequence[str] | None = None,
        *,
        as_recorded: bool = False,
    ) -> pd.DataFrame:
        """Trials as a table with the columns of `records.PARTITIONS + records.TRIALS`, oldest first.

        Unreadable files are left out and named in `problems`.

        Args:
            sweep: None for every sweep.
            hardware_id: None for every hardware.
            columns: those of `records.TRIALS` that are wanted, `trial_id` and `started_at` among them; None for all.
            as_recorded: whether rows of earlier versions keep their words.
        """
        asked = {column.name for column in records.TRIALS if columns is None or column.name in columns}
        read = asked | set(older.NEEDED) if asked & set(older.READ) else asked
        frame = self._table("trials", [c for c in records.TRIALS if c.name in read], sweep, hardware_id)
        if read >= set(older.NEEDED) and not as_recorded:
            frame = older.upgrade(frame)
        frame = frame.drop(columns=list(read - asked))
        return frame.drop_duplicates("trial_id").sort_values("started_at", kind="stable", ignore_index=True)

    def rows(self, sweep: str | None = None, hardware_id: str | None = None) -> list[dict[str, Any]]:
        """`trials` as plain mappings, with None for what is missing."""
        return plain_rows(self.trials(sweep, hardware_id))

    def steps(self, sweep: str | None = None, hardware_id: str | None = None) -> pd.DataFrame:
        """Steps as a table with the columns of `records.PARTITIONS + records.STEPS`, in order of trial, rank and step.

        Unreadable files are left out and named in `problems`.
        """
        frame = self._table("steps", records.STEPS, sweep, hardware_id).drop_duplicates(["trial_id", "rank", "step"])
        return frame.sort_values(["trial_id", "rank", "step"], kind="stable", ignore_index=True)

    def reference(self, workload_id: str, *, agreed: bool = False) -> pd.DataFrame | None:
        """A workload's fp32 curve, or the one that plans agreed on; None if it was never recorded or cannot be read."""
        path = self._curve(workload_id, agreed)
        if path.parent != self.root / "references":  # the name comes from a file, which may be anybody's
            return None
        with contextlib.suppress(FileNotFoundError):
            rows = self._read_file(path, records.REFERENCES)
            return None if rows is None else rows.to_pandas()
        return None

    def sweep_info(self, hardware_id: str, sweep: str) -> dict[str, Any]:
        """What `write_sweep_info` kept; {} if there is nothing readable."""
        return self._json(self._info_path(hardware_id, sweep)) or {}

    def write_peaks(self, hardware_id: str, found: Mapping[str, Any]) -> None:
        """Keep what a machine was measured to do at most. Raises StoreError if the folder cannot be written."""
        text = json.dumps(found, indent=2, sort_keys=True)
        _replace(self._peaks_path(hardware_id), lambda path: path.write_text(text, encoding="utf-8"))

    def peaks(self, hardware_id: str) -> dict[str, Any] | None:
        """What `write_peaks` kept; None if there is nothing readable."""
        return self._json(self._peaks_path(hardware_id))

    def state(self, hardware_id: str, sweep: str) -> str:
        """A text that changes whenever something of a sweep is recorded."""
        places = (self._partition("trials", hardware_id, sweep), self._info_path(hardware_id, sweep))
        return "-".join(str(place.stat().st_mtime_ns) if place.exists() else "none" for place in places)

    def sweeps(self) -> list[tuple[str, str]]:
        """(hardware_id, sweep) of every sweep with a recorded trial, the one written last at the end."""
        folders = sorted(self.root.glob("trials/hardware_id=*/sweep=*"), key=lambda p: p.stat().st_mtime)
        return [(p.parent.name.partition("=")[2], p.name.partition("=")[2]) for p in folders]

    # -- inside

    def _partition(self, table: str, hardware_id: str, sweep: str) -> Path:
        return self.root / table / f"hardware_id={hardware_id}" / f"sweep={sweep}"

    def _peaks_path(self, hardware_id: str) -> Path:
        return self.root / "hardware" / f"{hardware_id}.json"

    def _json(self, path: Path) -> dict[str, Any] | None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._problem(path, error)
            return None
        return found if isinstance(found, dict) else None

    def _info_path(self, hardware_id: str, sweep: str) -> Path:
        return self.root / "sweeps" / f"hardware_id={hardware_id}" / f"sweep={sweep}.json"

    def _write(self, path: Path, columns: Sequence[records.Column], rows: list[dict[str, Any]]) -> None:
        table = pa.Table.from_pylist(rows, schema=arrow_schema(columns))
        _replace(path, lambda hidden: pq.write_table(table, hidden))

    def _table(
        self, table: str, columns: Sequence[records.Column], sweep: str | None, hardware_id: str | None
    ) -> pd.DataFrame:
        pattern = f"hardware_id={hardware_id or '*'}/sweep={sweep or '*'}/*.parquet"
        schema = arrow_schema((*records.PARTITIONS, *columns))
        parts = self._parts(pattern, table, columns)
        while parts is None:
            parts = self._parts(pattern, table, columns)
        whole = pa.concat_tables(parts) if parts else schema.empty_table()
        return whole.to_pandas()

    def _parts(self, pattern: str, table: str, columns: Sequence[records.Column]) -> list[pa.Table] | None:
        """The files' rows with their partition's values; None if a merge took a file away meanwhile."""
        parts = []
        for path in sorted((self.root / table).glob(pattern)):
            try:
                rows = self._read_file(path, columns)
            except FileNotFoundError:
                return None
            if rows is None:
                continue
            for at, folder in enumerate((path.parent.parent, path.parent)):
                value = pa.array([folder.name.partition("=")[2]] * rows.num_rows, pa.string())
                rows = rows.add_column(at, records.PARTITIONS[at].name, value)
            parts.append(rows)
        return parts

    def _read_file(self, path: Path, columns: Sequence[records.Column]) -> pa.Table | None:
        """The rows of a file, None if it cannot be read. Raises FileNotFoundError."""
        schema = arrow_schema(columns)
        try:
            file = pq.ParquetFile(path)
            rows = file.read(columns=[name for name in schema.names if name in file.schema_arrow.names])
            if rows.schema.equals(schema):
                return rows
            present = [
                rows.column(f.name).cast(f.type) if f.name in rows.column_names else pa.nulls(rows.num_rows, f.type)
                for f in schema
            ]
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            self._problem(path, error)
            return None
        return pa.table(present, schema=schema)

    def _problem(self, path: Path, error: Exception) -> None:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        sentence = f"{path} cannot be read ({reason}); move it out of the results folder, every other file was read"
        if sentence not in self.problems:
            self.problems.append(sentence)


_INTEGERS = {column.name for column in (*records.TRIALS, *records.STEPS) if column.type == "int64"}


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as mappings: None if missing, int where pandas made a float of an integer beside missing ones."""
    return [{name: _plain(name, value) for name, value in row.items()} for row in frame.to_dict("records")]


def _plain(name: str, value: Any) -> Any:
    if value is None or value != value:
        return None
    return int(value) if name in _INTEGERS else value


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def _single_files(folder: Path) -> list[Path]:
    return [path for path in _files(folder) if not path.name.startswith(_MERGED)]


def _drop_repeated(rows: pa.Table, columns: Sequence[records.Column]) -> pa.Table:
    keys = ["trial_id"] if columns is records.TRIALS else ["trial_id", "rank", "step"]
    frame = rows.select(keys).to_pandas()
    return rows.filter(pa.array(~frame.duplicated()))


def _link_others(folder: Path, merged: Collection[Path], beside: Path) -> bool:
    """Name the files that were not merged in the other folder too; whether the file system can give two names."""
    try:
        for path in folder.iterdir():
            if path not in merged and path.is_file() and not path.name.startswith("."):
                os.link(path, beside / path.name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        return False  # exFAT, SMB and some file systems in user space cannot
    return True


def _replace(path: Path, write: Any) -> None:
    """Make `path` appear whole: write a hidden file beside it, synchronise, rename."""
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(hidden)
        with hidden.open("rb") as file:
            os.fsync(file.fileno())
        hidden.replace(path)
        _synchronise(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder may not even exist
            hidden.unlink()
        if isinstance(error, OSError):
            raise _unwritable(path.parent, error) from error
        raise


def _synchronise(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritable(folder: Path, error: OSError) -> StoreError:
    return StoreError(f"{folder} cannot be written: {error.strerror or error}")
