"""Integer sequences of various lengths, such as the tokens and labels of examples: prepared once, in bounded memory, in
a folder whose files all ranks map.

A column is two files: its integers one after another (int32), and where each example ends among them (int64).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import InputError, StoreError
from harness.workloads import waiting_for, whole
from harness.workloads.data import counter_hash
from harness.workloads.rows import Row

Encode = Callable[[Sequence[Row]], Iterable[Mapping[str, Sequence[int]]]]
"""A batch of rows -> of each example that they give its integers, by column. A row may give none, or several."""
Integers = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

_JOURNAL = "journal.json"
"""Rows that are done, and of each file how much was written and its checksum; in a whole folder, of all of it."""
_LOW, _HIGH = -(2**31), 2**31 - 1
_NO_SAMPLE = 2**64 - 1
"""Index that no sample has, to draw what all samples of a step share."""


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """A store of examples. Pickles as a reference to its folder."""

    folder: Path
    """Where the files are, whole once `store` has run; its name should be an `address`."""
    columns: tuple[str, ...]
    """Names of the integer sequences that every example has."""
    label: str = "the data"
    """What it is made of, for sentences."""

    def __post_init__(self) -> None:
        wrong = [column for column in self.columns if not column.isidentifier()]
        if wrong or not self.columns:
            raise ValueError(f"columns must be one or more names like 'input_ids', but got {self.columns}")

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._ends(self.columns[0]))

    def flat(self, column: str) -> Integers:
        """All integers of all examples, one after another, `[sum of lengths]`."""
        return mapped(self._values_path(column), "int32")

    def lengths(self, column: str, indices: npt.ArrayLike | None = None) -> Places:
        """Length of these examples, or of all, `[len(indices)]`."""
        if indices is None:
            return np.diff(self._ends(column), prepend=0)
        begins, ends = self._spans(column, indices)
        return ends - begins

    def padded(self, column: str, indices: npt.ArrayLike, length: int, fill: int) -> Places:
        """These examples, `[len(indices), length]`: cut at `length`, and filled up to it at their end."""
        begins, ends = self._spans(column, indices)
        places = np.arange(length)
        taken = places < (ends - begins)[:, None]
        out = np.full(taken.shape, fill, np.int64)
        out[taken] = self.flat(column)[(begins[:, None] + places)[taken]]
        return out

    def chosen(self, step: int, indices: npt.ArrayLike, seed: int) -> Places:
        """The examples of the samples with these indices in a step, `[len(indices)]`, drawn with replacement."""
        return (counter_hash(seed, step, indices) % np.uint64(len(self))).astype(np.int64)

    def chosen_alike(self, column: str, step: int, indices: npt.ArrayLike, seed: int, width: int) -> Places:
        """As `chosen`, but all samples of a step are among `width` examples that are neighbours in length.

        The examples sorted by length are divided into buckets of `width`, and a step draws from one of them. It draws
        an example, whose bucket it is, so that every example is as likely as any other although the last bucket is
        smaller.
        """
        order = _by_length(self, column, whole.version(self._ends_path(column)))
        anchor = int(counter_hash(seed, step, [_NO_SAMPLE])[0] % np.uint64(len(order)))
        bucket = order[anchor // width * width :][:width]
        return bucket[(counter_hash(seed, step, indices) % np.uint64(len(bucket))).astype(np.int64)]

    def packed(self, column: str, length: int) -> Places:
        """Where rows of `length` integers begin if examples are laid one after another, `[rows, 2]`.

        Each is (example, how many of its integers lie in earlier rows); what does not fill a last row is left out.
        """
        starts = np.arange(0, len(self.flat(column)) - length + 1, length)
        examples, begins = self._examples_at(column, starts)
        return np.stack([examples, starts - begins], axis=1)

    def packed_rows(self, column: str, length: int, indices: npt.ArrayLike) -> tuple[Places, Places]:
        """(integers, positions) of rows of `packed`, both `[len(indices), length]`.

        Row i is the window [i * length, (i + 1) * length) of all integers. Positions count from 0 where the row begins,
        and from 0 again where an example does.
        """
        starts = np.asarray(indices, np.int64)[:, None] * length
        places = starts + np.arange(length)
        _, begins = self._examples_at(column, places)
        return self.flat(column)[places].astype(np.int64), places - np.maximum(begins, starts)

    def store(
        self,
        rows: Callable[[], Iterable[Row]],
        encode: Encode,
        *,
        batch: int = 256,
        total: int | None = None,
    ) -> None:
        """Write the examples of all rows, whole or not at all; a store that is already there is kept.

        What a process did until it was killed is not done again: its rows are read, but not encoded. Of several
        processes that store the same, one does, and the others wait for it.

        Args:
            rows: begins to read the rows; the same ones in the same order whenever it is called.
            encode: makes examples of a batch of rows.
            batch: rows that are in memory at a time.
            total: bytes that `rows` read, for those who wait.

        Raises:
            InputError: what `rows` and `encode` raise; there is no example; a column holds what is no 32-bit integer.
            StoreError: the folder cannot be written.
        """
        whole.fill(self.folder, self._is_whole, lambda partial: self._prepare(partial, rows, encode, batch, total))

    def _prepare(
        self,
        partial: Path,
        rows: Callable[[], Iterable[Row]],
        encode: Encode,
        batch: int,
        total: int | None,
    ) -> None:
        writer, name = _Writer(partial, self), Path(self.label).name
        waiting = itertools.islice(rows(), writer.rows, None)
        for some in _batches(waiting, batch):
            writer.append(some, encode(some))
            if total is None:
                waiting_for.tell(name, writer.rows, None, "rows")
            else:
                waiting_for.tell(name, some[-1].read_bytes, total, "bytes")
        if not writer.examples:
            raise InputError(f"{self.label} holds nothing to train on: none of its {writer.rows} rows gives an example")

    def _is_whole(self) -> bool:
        journal = _read_journal(self.folder, self._names())
        return journal is not None and all(_size(self.folder / name) == size for name, (size, _) in journal[1].items())

    def _names(self) -> list[str]:
        return [path.name for column in self.columns for path in (self._values_path(column), self._ends_path(column))]

    def _values_path(self, column: str) -> Path:
        return self.folder / f"{column}.values.int32"

    def _ends_path(self, column: str) -> Path:
        return self.folder / f"{column}.ends.int64"

    def _ends(self, column: str) -> Places:
        return mapped(self._ends_path(column), "int64")

    def _spans(self, column: str, indices: npt.ArrayLike) -> tuple[Places, Places]:
        """(begin, end) of these examples among all integers."""
        chosen, ends = np.asarray(indices, np.int64), self._ends(column)
        return np.where(chosen > 0, ends[chosen - 1], 0), ends[chosen]

    def _examples_at(self, column: str, places: Places) -> tuple[Places, Places]:
        """(example that lies at each place, where it begins)."""
        ends = self._ends(column)
        examples = np.searchsorted(ends, places, side="right")
        return examples, np.where(examples > 0, ends[examples - 1], 0)


class _Writer:
    """Appends examples to the files of a store, and keeps its journal."""

    def __init__(self, partial: Path, store: Ragged) -> None:
        self._partial, self._store = partial, store
        found = _read_journal(partial, store._names())
        self.rows, written = found or (0, dict.fromkeys(store._names(), (0, 0)))
        with whole.writing(partial):
            if not all(whole.holds(partial / name, *written[name]) for name in written):
                # The machine went down before what the journal says was on the disk.
                self.rows, written = 0, dict.fromkeys(written, (0, 0))
            for name, (size, _) in written.items():
                with (partial / name).open("ab") as file:
                    file.truncate(size)
        self._written = written

    @property
    def examples(self) -> int:
        """How many are written."""
        return self._written[self._store._ends_path(self._store.columns[0]).name][0] // 8

    def append(self, rows: Sequence[Row], examples: Iterable[Mapping[str, Sequence[int]]]) -> None:
        """Write the examples that a batch of rows gave, and that these rows are done."""
        found = list(examples)
        for column in self._store.columns:
            lists = [np.asarray(example[column]) for example in found]
            values = _int32(lists, column, f"between {rows[0].where} and {rows[-1].where}")
            values_name, ends_name = self._store._values_path(column).name, self._store._ends_path(column).name
            before = self._written[values_name][0] // 4
            self._write(values_name, values)
            self._write(ends_name, before + np.cumsum([len(one) for one in lists], dtype=np.int64))
        self.rows += len(rows)
        journal = self._partial / f".{_JOURNAL}"
        with whole.writing(self._partial):
            journal.write_text(json.dumps({"rows": self.rows, "written": self._written}))
            journal.replace(self._partial / _JOURNAL)

    def _write(self, name: str, array: npt.NDArray[Any]) -> None:
        size, checksum = self._written[name]
        content = array.tobytes()
        with whole.writing(self._partial), (self._partial / name).open("ab") as file:
            file.write(content)
        self._written[name] = size + len(content), zlib.crc32(content, checksum)


def address(cache: Path, *parts: str) -> Path:
    """The folder under `cache` for what these parts determine: named by 16 hexadecimal digits of their hash."""
    return cache.absolute() / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _batches(rows: Iterator[Row], batch: int) -> Iterator[list[Row]]:
    while some := list(itertools.islice(rows, batch)):
        yield some


def _int32(lists: Sequence[npt.NDArray[Any]], column: str, where: str) -> Integers:
    """All of them one after another."""
    filled = [one for one in lists if one.size]  # an empty list is an array of floats
    if not filled:
        return np.zeros(0, np.int32)
    for one in filled:
        if one.ndim != 1 or one.dtype.kind not in "iub":
            raise InputError(
                f"{column} must be a list of 32-bit integers, but {where} is one of "
                f"(shape={one.shape}, dtype={one.dtype})"
            )
    values = np.concatenate(filled)
    low, high = values.min(), values.max()
    if low < _LOW or high > _HIGH:
        raise InputError(f"-2**31 <= {column} < 2**31 must hold, but {where} it goes from {low} to {high}")
    return values.astype(np.int32)


def _read_journal(folder: Path, names: list[str]) -> tuple[int, dict[str, tuple[int, int]]] | None:
    """(rows that are done, file -> (bytes, checksum)); None where there is no journal of a store with these files."""
    try:
        found = json.loads((folder / _JOURNAL).read_bytes())
        written = {str(name): (int(size), int(checksum)) for name, (size, checksum) in found["written"].items()}
        return (int(found["rows"]), written) if sorted(written) == sorted(names) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # never written, or damaged: the work is done again


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def mapped(path: Path, dtype: str) -> npt.NDArray[Any]:
    """A file of these integers, mapped once for each version of it that this process meets.

    Raises:
        StoreError: it cannot be read.
    """
    return _mapped(path, dtype, whole.version(path))


@functools.lru_cache(maxsize=64)
def _mapped(path: Path, dtype: str, version: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        if not _size(path):  # an empty file cannot be mapped
            return np.zeros(0, dtype)
        # A plain view: indexing the memmap class itself costs more than reading the page.
        return np.memmap(path, dtype, mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"the prepared data {path} cannot be read ({error}); remove {path.parent} and run again"
        ) from None


@functools.lru_cache(maxsize=4)
def _by_length(store: Ragged, column: str, version: tuple[int, ...]) -> Places:
    """The examples, shorter ones first."""
    return np.argsort(store.lengths(column), kind="stable")
