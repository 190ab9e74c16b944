"""What was asked of a workload, as it was written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError, UnknownNameError


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked of a workload."""

    name: str
    """The part of `--workload` before the colon."""
    fields: Mapping[str, str]
    """The part after it: field -> value as written."""
    data: Path | None
    """File or folder to train on; None for the family's own data."""
    field: str
    """Field or column of `data` that holds the text."""
    tokenizer: Path | None
    """A JSON file of the package `tokenizers`; None for the family's own tokens."""
    cache: Path
    """Folder for prepared data; a factory writes nothing to it."""
    global_batch_size: int | None
    """Samples of one optimizer step; None for the family's default."""
    seq_len: int | None
    """Tokens of one sample; None for the family's default."""
    seed: int
    """Seed of the initial weights and of the order of the data."""
    trust_remote_code: bool = False
    """Whether code that a model's folder brings may be run."""

    def parsed(self, **types: type[int] | type[bool] | type[str]) -> dict[str, Any]:
        """The given fields as values of these types; integers are at least 1.

        Raises:
            UnknownNameError: a field is none of these.
            InputError: a value is not of its field's type.
        """
        for name in self.fields:
            if name not in types:
                raise UnknownNameError(f"field of workload {self.name}", name, types)
        return {name: _value(name, text, types[name]) for name, text in self.fields.items()}

    def parsed_some(self, **types: type[int] | type[bool] | type[str]) -> dict[str, Any]:
        """As `parsed`, of these fields alone."""
        return {name: _value(name, self.fields[name], type_) for name, type_ in types.items() if name in self.fields}

    def refuse(self, *options: str) -> None:
        """Raise InputError if one of these options, which mean nothing to the family, was given."""
        for option in options:
            if getattr(self, option) is not None:
                raise InputError(f"{self.name} takes no {option}, but got {getattr(self, option)}; leave it out")


def _value(name: str, text: str, type_: type[int] | type[bool] | type[str]) -> int | bool | str:
    if type_ is str:
        return text
    if type_ is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{name} must be true or false, but got {text!r}")
        return text.lower() == "true"
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise InputError(f"{name} must be an integer from 1 to 999999999, but got {text!r}")
    return int(text)
