"""Text to train on: documents read from .txt, .jsonl and .parquet files, or from the Python standard library."""

from __future__ import annotations

import codecs
import json
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError

STANDARD_LIBRARY_CAP_BYTES = 8 * 2**20
"""Most text taken from the standard library: ample for a sweep, and read in well under a second."""

PIECE = 1 << 20
"""Bytes that are decoded at once to see whether they are text."""

# Left out: what is installed beside the library, what distributions package apart or leave out, and what a build
# generates. The rest is the same wherever the same version of Python is installed.
_NOT_LIBRARY = {
    *("site-packages", "dist-packages", "__pycache__", "test", "tests", "sitecustomize.py", "usercustomize.py"),
    *("distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtledemo", "turtle.py"),
}
_GENERATED = ("_sysconfigdata", "config-")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents in the order in which they are read."""

    label: str
    """Where they come from, for people."""
    files: int
    """How many files were read."""
    documents: tuple[bytes, ...]
    """Valid UTF-8, at least one of them not empty."""

    @property
    def size_bytes(self) -> int:
        """Length of all documents together."""
        return sum(map(len, self.documents))


def existing(path: Path | str, kind: str) -> Path:
    """The path with "~" resolved; InputError, which calls it a `kind` ("data", "tokenizer"), if nothing is there."""
    try:
        resolved = Path(path).expanduser()
        resolved.stat()
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"the {kind} {path} cannot be read ({reason}); give the path of something readable") from None
    return resolved


def read_corpus(path: Path, field: str) -> Corpus:
    """The documents of a file, or of all files with a known suffix in a folder, sorted by path, hidden ones left out.

    Args:
        path: a .txt (one document), .jsonl (one a line) or .parquet (one a row) file, or a folder.
        field: name of the .jsonl field or .parquet column that holds the text.

    Raises:
        InputError: something is missing, cannot be read, is not text, or is empty.
    """
    files = _files(path)
    documents = [document for file in files for document in _read_file(file, field)]
    if not any(documents):
        raise InputError(f"{path} is empty: there is no text in it to train on")
    return Corpus(label=path.resolve().name, files=len(files), documents=tuple(documents))


def standard_library() -> Corpus:
    """The .py files of this Python's standard library, sorted by path, up to `STANDARD_LIBRARY_CAP_BYTES`.

    Raises:
        InputError: this Python came without its sources.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    documents: list[bytes] = []
    size_bytes = 0
    for file in sorted(_library_files(root), key=lambda file: file.relative_to(root).as_posix()):
        document = file.read_bytes()
        size_bytes += len(document)
        if size_bytes > STANDARD_LIBRARY_CAP_BYTES:
            break
        documents.append(document)
    if not documents:
        raise InputError(f"the Python standard library has no .py files in {root}; name a text file or folder instead")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Corpus(label=f"Python {version} standard library", files=len(documents), documents=tuple(documents))


def _library_files(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        # In place, so that the walk never enters what may be gigabytes of installed packages.
        subfolders[:] = filter(_is_library, subfolders)
        yield from (Path(folder, name) for name in files if name.endswith(".py") and _is_library(name))


def _is_library(name: str) -> bool:
    return name not in _NOT_LIBRARY and not name.startswith(_GENERATED)


def _files(path: Path) -> list[Path]:
    known = ", ".join(READERS)
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix.lower() in READERS]
        files = [file for file in found if not any(p.startswith(".") for p in file.relative_to(path).parts)]
        if not files:
            raise InputError(f"the folder {path} is empty: it has no file ending in {known}")
        return files
    if path.suffix.lower() not in READERS or not path.is_file():
        raise InputError(f"data must be a folder or a file ending in {known} or .npy, but got {path}")
    return [path]


def _read_file(path: Path, field: str) -> Sequence[bytes]:
    try:
        return READERS[path.suffix.lower()](path, field)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _read_txt(path: Path, field: str) -> list[bytes]:
    raw = path.read_bytes()
    problem = _no_utf8(raw) or (f"a zero byte at offset {raw.find(0)}" if b"\0" in raw else "")
    if problem:
        raise InputError(f"{path} is not text: it has {problem}; save it as UTF-8")
    return [raw[len(codecs.BOM_UTF8) :] if raw.startswith(codecs.BOM_UTF8) else raw]


def _no_utf8(raw: bytes) -> str:
    """What is wrong with the encoding, "" if nothing is. Piece by piece: decoded at once it takes up to five times as
    much memory."""
    decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
    while True:
        piece = memoryview(raw)[at : at + PIECE]
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            return f"no UTF-8 at offset {at - pending + error.start}"
        if not piece:
            return ""
        at += len(piece)


def _read_jsonl(path: Path, field: str) -> list[bytes]:
    lines = enumerate(path.read_bytes().split(b"\n"), start=1)
    return [_json_text(line, field, f"line {number} of {path}") for number, line in lines if line.strip()]


def _json_text(line: bytes, field: str, where: str) -> bytes:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); a .jsonl file holds one JSON object a line") from None
    if not isinstance(record, dict):
        raise InputError(f"{where} must be a JSON object, but is of type {type(record).__name__}")
    if field not in record:
        raise InputError(f"{where} has no field {field!r}; its fields are {', '.join(record) or 'none'}")
    return _utf8(record[field], f"field {field!r} in {where}")


def _read_parquet(path: Path, field: str) -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            rows = file.read(columns=[field]).column(field).to_pylist() if field in names else []
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable parquet file ({error})".replace("\n", " ")) from None
    if field not in names:
        raise InputError(f"{path} has no column {field!r}; its columns are {', '.join(names) or 'none'}")
    return [_utf8(text, f"column {field!r} of {path}") for text in rows if text is not None]


def _utf8(text: object, where: str) -> bytes:
    if not isinstance(text, str):
        raise InputError(f"{where} must hold text, but holds {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where} is not text: {error.reason}") from None


READERS: dict[str, Callable[[Path, str], Sequence[bytes]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
"""Suffix -> function(path, field) that reads a file's documents as UTF-8."""
