"""Rows of table-like data, one after another: of .jsonl, .csv, .parquet and .txt files, of folders of them, and of data
sets that the package `datasets` saved. A file may be larger than the memory."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

PIECE_BYTES = 64 * 2**10
"""Longest row of a .txt file."""
MOST_LINE_BYTES = 2**28
"""Longest line of a .jsonl file and longest value of a .csv file: what is longer is no line but a whole file."""
BATCH = 256
"""Rows of a column-wise format that are Python objects at a time."""
_MOST_NAMES = 20
"""Names of fields that a sentence lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of the data, and where to look for it."""

    values: Mapping[str, Any]
    """Field -> value, as the format has it: text, numbers, lists, None. At least the fields that were asked for."""
    where: str
    """For sentences, such as "line 3 of reviews.jsonl" or "row 7 of reviews.parquet"."""
    read_bytes: int = dataclasses.field(default=0, compare=False)
    """Of all that is read, about how much lies before the row's end."""
    goes_on: bool = dataclasses.field(default=False, compare=False)
    """Whether it is a piece of a text whose next piece follows."""


def existing(path: Path | str, kind: str) -> Path:
    """The path with "~" resolved; InputError, which calls it a `kind` ("data", "tokenizer"), if nothing is there."""
    try:
        resolved = Path(path).expanduser()
        resolved.stat()
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"the {kind} {path} cannot be read ({reason}); give the path of something readable") from None
    return resolved


def visible(folder: Path) -> list[Path]:
    """All files of a folder and of those in it, sorted by path, hidden ones left out."""
    found = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def read(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    """The rows of a file, of all files with a known suffix in a folder (sorted by path, hidden ones left out), or of a
    folder that `datasets.save_to_disk` wrote, in order.

    Of a line, of a piece of text or of `BATCH` rows at a time; of .parquet one row group is decoded at a time.

    Args:
        path: what to read. A .txt file has the field "text" alone: pieces of at most `PIECE_BYTES`, cut after a line.
        fields: names of .jsonl fields or of columns that every row must have. What they hold is not looked at.

    Raises:
        InputError: something is missing, cannot be read, is of another kind, or has no rows. What `path` is, is seen at
            once; what is in it, when the rows are taken.
    """
    found = existing(path, "data")
    saved = _is_saved(found)
    files = _arrow_files(found) if saved else _listed(found)
    return _rows(found, files, _read_arrow if saved else None, tuple(fields))


def size_bytes(path: Path) -> int:
    """Of all files that `read` reads."""
    found = existing(path, "data")
    return sum(file.stat().st_size for file in (_arrow_files(found) if _is_saved(found) else _listed(found)))


def of_file(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    """The rows of one file with a known suffix; none, if it is empty."""
    return _guarded(READERS[path.suffix.lower()], path, tuple(fields))


def text_of(value: object, where: str) -> str:
    """The value, if it is text that can be encoded as UTF-8; otherwise an InputError about `where`."""
    if not isinstance(value, str):
        kind = "nothing (null)" if value is None else type(value).__name__
        raise InputError(f"{where} must hold text, but holds {kind}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where} is not text: {error.reason}") from None
    return value


def pieces(path: Path) -> Iterator[tuple[int, str]]:
    """(offset in bytes, text) of the pieces of a text file, each at most `PIECE_BYTES` long and cut after a line, or
    between two characters where a line is longer.

    Raises:
        InputError: it is not UTF-8, or has a zero byte.
    """
    with path.open("rb") as file:
        offset = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
        file.seek(offset)
        pending = b""
        while block := pending + file.read(PIECE_BYTES - len(pending)):
            end = len(block) if len(block) < PIECE_BYTES else block.rfind(b"\n") + 1 or _before_character(block)
            yield offset, _plain_text(path, block[:end], offset)
            offset, pending = offset + end, block[end:]


def _rows(path: Path, files: Sequence[Path], reader: Reader | None, fields: tuple[str, ...]) -> Iterator[Row]:
    any_row, before = False, 0
    for file in files:
        for row in _guarded(reader or READERS[file.suffix.lower()], file, fields):
            any_row = True
            yield replace(row, read_bytes=before + row.read_bytes) if before else row
        before += file.stat().st_size
    if not any_row:
        raise InputError(f"{path} is empty: it has no rows to train on")


def _guarded(reader: Reader, path: Path, fields: tuple[str, ...]) -> Iterator[Row]:
    try:
        yield from reader(path, fields)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {_line(error.strerror or error)}") from None


def _listed(path: Path) -> list[Path]:
    known = ", ".join(READERS)
    if path.is_dir():
        if (path / "dataset_dict.json").is_file():
            raise InputError(
                f"{path} holds several splits, each in a folder of its own; give the folder of one of them"
            )
        if files := [file for file in visible(path) if file.suffix.lower() in READERS]:
            return files
        raise InputError(f"the folder {path} is empty: it has no file ending in {known}")
    if path.suffix.lower() not in READERS or not path.is_file():
        raise InputError(f"data must be a folder or a file ending in {known}, but got {path}")
    return [path]


# -- text


def _read_txt(path: Path, fields: tuple[str, ...]) -> Iterator[Row]:
    for field in fields:
        if field != "text":
            raise InputError(
                f"{path} has no field {field!r}: a .txt file has the field 'text' alone; give files ending in .jsonl, "
                ".csv or .parquet, and nothing else in their folder"
            )
    size = path.stat().st_size
    for offset, text in pieces(path):
        end = offset + len(text.encode())
        yield Row(values={"text": text}, where=f"offset {offset} of {path}", read_bytes=end, goes_on=end < size)


def _before_character(block: bytes) -> int:
    """Where to cut a block without line ends: before its last character, which may be there in part."""
    end = len(block) - 1
    while end > len(block) - 4 and block[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _plain_text(path: Path, raw: bytes, offset: int) -> str:
    try:
        text = raw.decode()
        problem = f"a zero byte at offset {offset + raw.find(0)}" if b"\0" in raw else ""
    except UnicodeDecodeError as error:
        problem = f"no UTF-8 at offset {offset + error.start}"
    if problem:
        raise InputError(f"{path} is not text: it has {problem}; save it as UTF-8")
    return text


def _lines(path: Path, newline: str, kind: str) -> Iterator[tuple[str, str, int]]:
    """(line with its end, where it is, bytes that were read until then) of all lines of a file that is UTF-8, with or
    without a byte order mark."""
    # Decoding fails for a block of lines at once; with what it cannot decode kept, the line is known.
    with (
        path.open("rb") as raw,
        io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline=newline) as file,
    ):
        for number, line in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES), ""), start=1):
            where = f"line {number} of {path}"
            if len(line) == MOST_LINE_BYTES:
                raise InputError(
                    f"{where} is not {kind}: it is longer than {MOST_LINE_BYTES >> 20} MiB; give one row a line"
                )
            if not line.isascii():
                _check_decoded(line, where, kind)
            yield line, where, raw.tell()


def _check_decoded(line: str, where: str, kind: str) -> None:
    try:
        line.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where} is not {kind}: it is not UTF-8; save the file as UTF-8") from None


def _read_jsonl(path: Path, fields: tuple[str, ...]) -> Iterator[Row]:
    for line, where, read_bytes in _lines(path, "\n", "JSON"):
        if not line.isspace():
            yield Row(values=_json_object(line, where, fields), where=where, read_bytes=read_bytes)


def _json_object(line: str, where: str, fields: tuple[str, ...]) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); a .jsonl file holds one JSON object a line") from None
    if not isinstance(record, dict):
        raise InputError(f"{where} must be a JSON object, but is of type {type(record).__name__}")
    for field in fields:
        if field not in record:
            raise InputError(f"{where} has no field {field!r}; its fields are {_some(record)}")
    return record


def _read_csv(path: Path, fields: tuple[str, ...]) -> Iterator[Row]:
    csv.field_size_limit(MOST_LINE_BYTES)  # by default a value of 128 KiB is an error
    header: list[str] | None = None
    for values, where, read_bytes in _csv_records(path):
        if header is None:
            header = values
            _check_columns(path, header, fields)
        elif len(values) != len(header):
            raise InputError(
                f"{where} has {len(values)} values, but the header names {len(header)} columns ({_some(header)}); "
                "quote values that hold commas or line ends"
            )
        else:
            yield Row(values=dict(zip(header, values, strict=True)), where=where, read_bytes=read_bytes)


def _csv_records(path: Path) -> Iterator[tuple[list[str], str, int]]:
    """(values, where the first of their lines is, bytes that were read until then) of all that are not empty lines."""
    read_bytes = 0

    def lines() -> Iterator[str]:
        nonlocal read_bytes
        for line, where, until in _lines(path, "", "CSV"):
            read_bytes = until
            if "\0" in line:
                raise InputError(f"{where} is not CSV: it has a zero byte; save the file as UTF-8")
            yield line

    # Strict: without it, a quote that is never closed takes the rest of the file for one value.
    reader = csv.reader(lines(), strict=True)
    while True:
        where = f"line {reader.line_num + 1} of {path}"
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{where} is not CSV ({error}); separate by commas and double the quotes in values"
            ) from None
        if values is None:
            return
        if values:
            yield values, where, read_bytes


# -- columns


def _read_parquet(path: Path, fields: tuple[str, ...]) -> Iterator[Row]:
    import pyarrow.parquet as pq

    rows = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        with pq.ParquetFile(path) as file:
            rows = file.metadata.num_rows
            _check_columns(path, file.schema_arrow.names, fields)
            # Where no column is asked for, the rows are still counted.
            yield from file.iter_batches(BATCH, columns=list(fields))

    size = path.stat().st_size
    return _of_batches(path, fields, batches(), "parquet", lambda number: size * number // max(rows, 1))


def _read_arrow(path: Path, fields: tuple[str, ...]) -> Iterator[Row]:
    import pyarrow as pa

    read_bytes = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal read_bytes
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            _check_columns(path, stream.schema.names, fields)
            for batch in stream:
                read_bytes = file.tell()
                chosen = batch.select(list(fields))
                yield from (chosen.slice(at, BATCH) for at in range(0, batch.num_rows, BATCH))

    return _of_batches(path, fields, batches(), "arrow", lambda number: read_bytes)


def _of_batches(
    path: Path,
    fields: tuple[str, ...],
    batches: Iterator[pa.RecordBatch],
    kind: str,
    read_bytes: Callable[[int], int],
) -> Iterator[Row]:
    import pyarrow as pa

    number = 0
    try:
        for batch in batches:
            columns = [batch.column(field).to_pylist() for field in fields]
            for at in range(batch.num_rows):
                number += 1
                values = {field: column[at] for field, column in zip(fields, columns, strict=True)}
                yield Row(values=values, where=f"row {number} of {path}", read_bytes=read_bytes(number))
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path} is not a readable {kind} file ({_line(error)})") from None


def _check_columns(path: Path, names: Sequence[str], fields: tuple[str, ...]) -> None:
    for field in fields:
        if field not in names:
            raise InputError(f"{path} has no column {field!r}; its columns are {_some(names)}")
        if names.count(field) > 1:
            raise InputError(f"{path} has {names.count(field)} columns called {field!r}; give each a name of its own")


# -- data sets of the package `datasets`


def _is_saved(path: Path) -> bool:
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def _arrow_files(folder: Path) -> list[Path]:
    """The files of a saved data set, in order."""
    state = folder / "state.json"
    try:
        found = [str(file["filename"]) for file in json.loads(state.read_bytes())["_data_files"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{state} does not say which files the data set has ({_line(error)}); save it again") from None
    for name in found:
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(f"{state} names the file {name!r}, which is not in its folder; save the data set again")
    return [folder / name for name in found]


def _some(names: Sequence[str] | Mapping[str, Any]) -> str:
    first = list(names)[:_MOST_NAMES]
    return ", ".join(first + ["..."] * (len(names) > _MOST_NAMES)) or "none"


def _line(error: object) -> str:
    return " ".join(str(error).split())


Reader = Callable[[Path, tuple[str, ...]], Iterator[Row]]

READERS: dict[str, Reader] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""Suffix -> function(path, fields) that reads a file's rows."""
