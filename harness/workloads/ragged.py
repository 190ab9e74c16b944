"""Integer sequences of various lengths, such as the tokens and labels of examples: prepared once, in bounded memory, in
a folder whose files all ranks map.

A column is two files: its integers one after another (int32), and where each example ends among them (int64).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import InputError, StoreError
from harness.workloads import waiting_for, whole
from harness.workloads.appended import Appended, are_whole
from harness.workloads.data import counter_hash
from harness.workloads.rows import Row

Encode = Callable[[Sequence[Row]], Iterable[Mapping[str, Sequence[int]]]]
"""A batch of rows -> of each example that they give its integers, by column. A row may give none, or several."""
Integers = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

_LOW, _HIGH = -(2**31), 2**31 - 1


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

    def packed_rows(self, column: str, length: int, indices: npt.ArrayLike) -> tuple[Places, Places]:
        """(integers, positions) of rows of `length` integers where examples are laid one after another, both
        `[len(indices), length]`; what does not fill a last row is left out.

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
        files, name = Appended(partial, self._names()), Path(self.label).name
        waiting = itertools.islice(rows(), files.rows, None)
        for some in _batches(waiting, batch):
            self._append(files, encode(some), f"between {some[0].where} and {some[-1].where}")
            files.done(len(some))
            if total is None:
                waiting_for.tell(name, files.rows, None, "rows")
            else:
                waiting_for.tell(name, some[-1].read_bytes, total, "bytes")
        if not files.size(self._ends_path(self.columns[0]).name):
            raise InputError(f"{self.label} holds nothing to train on: none of its {files.rows} rows gives an example")

    def _append(self, files: Appended, examples: Iterable[Mapping[str, Sequence[int]]], where: str) -> None:
        found = list(examples)
        for column in self.columns:
            lists = [np.asarray(example[column]) for example in found]
            values = _int32(lists, column, where)
            values_name, ends_name = self._values_path(column).name, self._ends_path(column).name
            before = files.size(values_name) // 4
            files.append(values_name, values.tobytes())
            files.append(ends_name, (before + np.cumsum([len(one) for one in lists], dtype=np.int64)).tobytes())

    def _is_whole(self) -> bool:
        return are_whole(self.folder, self._names())

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
