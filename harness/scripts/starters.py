"""Knobs files to start from: one for each tool that people train with, in the folder beside this file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from harness.errors import InputError, UnknownNameError

TO_FILL_IN = "FILL IN"
"""What marks a line of theirs that nobody but the user knows."""

_FOLDER = files("harness.scripts") / "starters"


def names() -> tuple[str, ...]:
    """The tools that there is one for, by name."""
    return tuple(sorted(each.name.removesuffix(".toml") for each in _FOLDER.iterdir() if each.name.endswith(".toml")))


def text(tool: str) -> str:
    """The knobs file of a tool, with its comments.

    Raises:
        InputError: there is none of this name.
    """
    if tool not in names():
        raise UnknownNameError("tool", tool, names())
    return (_FOLDER / f"{tool}.toml").read_text(encoding="utf-8")


def write(tool: str, path: Path) -> list[tuple[int, str]]:
    """Write the knobs file of a tool.

    Args:
        tool: one of `names()`.
        path: of a file that is not there.

    Returns:
        What is to be filled in: numbers of lines, from 1, and the lines.

    Raises:
        InputError: there is none for the tool, the file exists already, or it cannot be written.
    """
    content = text(tool)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise InputError(f"{path} exists already, and may be somebody's work; choose another --output") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None
    return [(number, line) for number, line in enumerate(content.splitlines(), 1) if TO_FILL_IN in line]
