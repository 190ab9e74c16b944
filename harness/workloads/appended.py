"""A file to which pictures are appended, and the journal that lets another process go on where one was ended."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from harness.workloads import whole

JOURNAL = "journal.json"
"""Pictures that are done, and the bytes and the checksum of their file."""


@dataclass(frozen=True)
class Written:
    """What of a file is on the disk."""

    pictures: int = 0
    size: int = 0
    checksum: int = 0

    @classmethod
    def of(cls, file: Path) -> Written:
        """As a process left it that was ended; nothing, where none was or its work is damaged."""
        try:
            found = cls(*map(int, json.loads((file.parent / JOURNAL).read_bytes())))
        except (OSError, ValueError, TypeError):
            return cls()
        return found if whole.holds(file, found.size, found.checksum) else cls()

    def after(self, file: BinaryIO, content: bytes, pictures: int) -> Written:
        """Append so many pictures."""
        file.write(content)
        return Written(self.pictures + pictures, self.size + len(content), zlib.crc32(content, self.checksum))

    def note(self, folder: Path) -> None:
        """Write it down."""
        hidden = folder / f".{JOURNAL}"
        hidden.write_text(json.dumps([self.pictures, self.size, self.checksum]))
        hidden.replace(folder / JOURNAL)
