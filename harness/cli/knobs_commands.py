"""What `knobs` does."""

from __future__ import annotations

import shlex
from pathlib import Path


def init(tool: str, output: Path) -> int:
    """Write the knobs file of a tool, and print what is to be filled in and what comes then.

    Raises:
        InputError: there is none for the tool, or the file exists already or cannot be written.
    """
    from harness.scripts import starters

    open_lines = starters.write(tool, output)
    name = shlex.quote(str(output))
    print(f"{output} is written; to be filled in:")
    for number, line in open_lines:
        print(f"  line {number:<4} {line.strip()}")
    print(f"then, to measure one plan:  python -m harness watch --knobs {name}")
    print(f"and to search all of them:  python -m harness sweep --knobs {name}")
    return 0
