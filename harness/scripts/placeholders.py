"""{name} in the words of a command; {{ and }} are braces."""

from __future__ import annotations

import re
from collections.abc import Mapping

from harness.errors import InputError

BUILT_IN = ("trial_dir", "port", "python")
"""What is there without a knob: the trial's own folder, a free port, the interpreter that runs the harness."""

_PARTS = re.compile(r"\{\{|\}\}|\{(\w+)\}|[{}]")


def names_in(word: str, where: str) -> list[str]:
    """Names of the placeholders of a word.

    Raises:
        InputError: a brace that belongs to none.
    """
    found = []
    for match in _PARTS.finditer(word):
        if match[0] in ("{", "}"):
            raise InputError(
                f"{where} has a {match[0]} in {word!r} that belongs to no placeholder; a brace is written twice"
            )
        if match[1]:
            found.append(match[1])
    return found


def fill(word: str, texts: Mapping[str, str]) -> str:
    """A word with its placeholders replaced, once: what comes in is not looked at again."""
    braces = {"{{": "{", "}}": "}"}
    return _PARTS.sub(lambda match: braces.get(match[0]) or texts[match[1]], word)


def is_placeholder(word: str) -> bool:
    """Whether a word is one placeholder and nothing else."""
    match = _PARTS.fullmatch(word)
    return match is not None and match[1] is not None
