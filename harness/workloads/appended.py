"""Files of a folder that grow together, and the journal that lets another process go on where one was ended."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

from harness.workloads import whole

JOURNAL = "journal.json"
"""Rows that are done, and of each file how much was written and its checksum; in a whole folder, of all of it."""


class Appended:
    """The files as a process left them that was ended; empty ones, where none was or its work is damaged.

    Args:
        folder: where they are.
        names: of the files.

    Raises:
        StoreError: the folder cannot be written, here and in what follows.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self.rows, self._written = _read(folder, names) or (0, dict.fromkeys(names, (0, 0)))
        with whole.writing(folder):
            if not all(whole.holds(folder / name, *written) for name, written in self._written.items()):
                # The machine went down before what the journal says was on the disk.
                self.rows, self._written = 0, dict.fromkeys(names, (0, 0))
            for name, (size, _) in self._written.items():
                with (folder / name).open("ab") as file:
                    file.truncate(size)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return self._written[name][0]

    def append(self, name: str, content: bytes) -> None:
        """Append to a file; without `done` another process does it again."""
        size, checksum = self._written[name]
        with whole.writing(self._folder), (self._folder / name).open("ab") as file:
            file.write(content)
        self._written[name] = size + len(content), zlib.crc32(content, checksum)

    def done(self, rows: int) -> None:
        """Note that so many more rows stand in the files."""
        self.rows += rows
        hidden = self._folder / f".{JOURNAL}"
        with whole.writing(self._folder):
            hidden.write_text(json.dumps({"rows": self.rows, "written": self._written}))
            hidden.replace(self._folder / JOURNAL)


def are_whole(folder: Path, names: Sequence[str]) -> bool:
    """Whether the files have the sizes of the journal."""
    journal = _read(folder, names)
    return journal is not None and all(_size(folder / name) == size for name, (size, _) in journal[1].items())


def _read(folder: Path, names: Sequence[str]) -> tuple[int, dict[str, tuple[int, int]]] | None:
    """(rows that are done, file -> (bytes, checksum)); None where there is no journal of these files."""
    try:
        found = json.loads((folder / JOURNAL).read_bytes())
        written = {str(name): (int(size), int(checksum)) for name, (size, checksum) in found["written"].items()}
        return (int(found["rows"]), written) if sorted(written) == sorted(names) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # never written, or damaged: the work is done again


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
