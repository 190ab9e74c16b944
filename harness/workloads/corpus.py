"""Text to train on: documents read from .txt, .jsonl and .parquet files, or from the Python standard library."""

from __future__ import annotations

import codecs
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError
from harness.workloads.rows import Row, of_file, pieces, text_of, visible

STANDARD_LIBRARY_CAP_BYTES = 8 * 2**20
"""Most text taken from the standard library: ample for a sweep, and read in well under a second."""

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
    documents = tuple(document for _, document in standard_library_files())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Corpus(label=f"Python {version} standard library", files=len(documents), documents=documents)


def standard_library_files() -> list[tuple[str, bytes]]:
    """(path within the library, such as "json/decoder.py", content) of the files of `standard_library`.

    Raises:
        InputError: this Python came without its sources.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found: list[tuple[str, bytes]] = []
    size_bytes = 0
    for name, file in sorted((file.relative_to(root).as_posix(), file) for file in _library_files(root)):
        content = file.read_bytes()
        size_bytes += len(content)
        if size_bytes > STANDARD_LIBRARY_CAP_BYTES:
            break
        found.append((name, content))
    if not found:
        raise InputError(f"the Python standard library has no .py files in {root}; name a text file or folder instead")
    return found


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
        files = [file for file in visible(path) if file.suffix.lower() in READERS]
        if not files:
            raise InputError(f"the folder {path} is empty: it has no file ending in {known}")
        return files
    if path.suffix.lower() not in READERS or not path.is_file():
        raise InputError(f"data must be a folder or a file ending in {known} or .npy, but got {path}")
    return [path]


def _read_file(path: Path, field: str) -> list[bytes]:
    try:
        return READERS[path.suffix.lower()](path, field)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _read_txt(path: Path, field: str) -> list[bytes]:
    for _ in pieces(path):
        pass  # says what is not text; all of it decoded at once takes up to five times as much memory
    raw = path.read_bytes()
    return [raw[len(codecs.BOM_UTF8) :] if raw.startswith(codecs.BOM_UTF8) else raw]


def _read_jsonl(path: Path, field: str) -> list[bytes]:
    return [_document(row, field) for row in of_file(path, (field,))]


def _read_parquet(path: Path, field: str) -> list[bytes]:
    return [_document(row, field) for row in of_file(path, (field,)) if row.values[field] is not None]


def _document(row: Row, field: str) -> bytes:
    return text_of(row.values[field], f"field {field!r} in {row.where}").encode()


READERS: dict[str, Callable[[Path, str], list[bytes]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
"""Suffix -> function(path, field) that reads a file's documents as UTF-8."""
