"""What a script's knobs mean in the words of the harness, for labels, colours and tolerances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import InputError, UnknownNameError
from strategies.knob import Choice, Knob, Setting

COLUMNS: Mapping[str, type] = {
    "data_parallel": str,
    "dp": int,
    "tp": int,
    "pp": int,
    "pp_schedule": str,
    "micro_batch_size": int,
    "grad_accumulation": int,
    "global_batch_size": int,
    "seq_len": int,
    "precision": str,
    "bucket_mb": float,
    "activation_checkpoint": str,
    "quantization": str,
    "compile": bool,
}
"""Column of trials that a knob may stand for -> type of its values."""

Means = Mapping[str, tuple[Setting, ...] | None]
"""Column -> what each value of a knob is there; None: the values are that themselves."""


def read(name: str, given: Any, knob: Knob | None, where: str) -> Means:
    """What a knobs file says that a knob means; a knob that is called as a column means it.

    Args:
        name: of the knob.
        given: a column, or a table of columns with what each of the knob's values is there; None: nothing is said.
        knob: its values; None if it follows from others.
        where: of the file, for sentences.

    Raises:
        InputError: it is no column, or there are not as many words as values.
    """
    if given is None:
        return {name: None} if name in COLUMNS else {}
    table = {given: None} if isinstance(given, str) else given
    if not isinstance(table, dict):
        raise InputError(f"{where} means {given!r}, which is neither a column nor a table of columns")
    found: dict[str, tuple[Setting, ...] | None] = {}
    for column, words in table.items():
        if column not in COLUMNS:
            raise UnknownNameError("column that a knob may mean", column, COLUMNS)
        values = knob.values if isinstance(knob, Choice) else ()
        if words is not None and not (isinstance(words, list) and len(words) == len(values)):
            raise InputError(f"{where} has {len(values)} values, so means.{column} is a list of as many words")
        found[column] = None if words is None else tuple(words)
    return found


def columns(value: Setting, knob: Knob | None, means: Means) -> dict[str, Setting]:
    """The columns that a value of a knob stands for; none where it is not of their type."""
    found: dict[str, Setting] = {}
    for column, words in means.items():
        word = value if words is None or not isinstance(knob, Choice) else words[_place(knob, value)]
        kind = COLUMNS[column]
        if type(word) is kind or (kind is float and type(word) is int):
            found[column] = kind(word)
    return found


def _place(knob: Choice, value: Setting) -> int:
    return next(at for at, each in enumerate(knob.values) if each == value and type(each) is type(value))
