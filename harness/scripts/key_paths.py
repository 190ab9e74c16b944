"""JSON, YAML and TOML files that scripts read: loaded, changed at key paths, and written as copies."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

from harness.errors import InputError

SUFFIXES = (".json", ".yaml", ".yml", ".toml")


def load(path: Path) -> Any:
    """What a file holds.

    Raises:
        InputError: it cannot be read, or is of another kind.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is no file that knobs can be put into; it must end with {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        if path.suffix.lower() == ".json":
            return json.loads(text)
        if path.suffix.lower() == ".toml":
            return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no {path.suffix[1:].upper()}: {error}") from None
    yaml = _yaml(path)
    try:
        return _unshared(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no YAML: {error}") from None


def _unshared(content: Any) -> Any:
    """With a copy wherever YAML's aliases are one thing in several places: a knob goes into one of them."""
    if isinstance(content, dict):
        return {key: _unshared(each) for key, each in content.items()}
    return [_unshared(each) for each in content] if isinstance(content, list) else content


def save(content: Any, path: Path) -> None:
    """Write a file of the kind that its name ends with; comments of what was loaded are lost."""
    kind = path.suffix.lower()
    if kind == ".json":
        text = json.dumps(content, indent=2)
    elif kind == ".toml":
        text = toml(content)
    else:
        text = _yaml(path).safe_dump(content, sort_keys=False)
    path.write_text(text, encoding="utf-8")


def _yaml(path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise InputError(f"{path} needs the package pyyaml: pip install pyyaml") from None
    return yaml


# -- key paths


def step_into(content: Any, key: str, where: str) -> Any:
    """What lies under one part of a key path: a key of a mapping, or a number of a list.

    Raises:
        InputError: there is nothing; `where` says of what file and path.
    """
    try:
        return content[_index(content, key)]
    except (KeyError, IndexError, TypeError, ValueError):
        raise InputError(f"{where}: there is no {key!r}; {_there(content)}") from None


def put(content: Any, path: str, value: Any, where: str, *, new: bool = False) -> None:
    """Set the value under a key path such as "zero_optimization.stage" or "layers.0.width".

    Args:
        content: what `load` gave; changed in place.
        path: keys separated by dots; a number is a position in a list.
        value: the new value.
        where: the file, for messages.
        new: whether the key may be one that the file lacks.

    Raises:
        InputError: the file has nothing under the path.
    """
    *parents, last = path.split(".")
    for key in parents:
        if new and isinstance(content, dict) and key not in content:
            content[key] = {}
        content = step_into(content, key, f"{where} has no {path!r}")
    if not new:
        step_into(content, last, f"{where} has no {path!r}")
    elif not isinstance(content, dict):
        raise InputError(f"{where} has no {path!r}: a new key can be made in a table only")
    content[_index(content, last)] = value


def drop(content: Any, path: str) -> None:
    """Remove what lies under a key path, if there is anything."""
    *parents, last = path.split(".")
    for key in parents:
        content = content.get(key) if isinstance(content, dict) else None
    if isinstance(content, dict):
        content.pop(last, None)


def _index(content: Any, key: str) -> Any:
    return int(key) if isinstance(content, list) else key


def _there(content: Any) -> str:
    if isinstance(content, dict):
        return f"there are {', '.join(map(str, content)) or 'no keys'}"
    return f"there is a list of {len(content)}" if isinstance(content, list) else f"there is the value {content!r}"


# -- TOML, which the standard library reads and does not write


def toml(content: dict[str, Any]) -> str:
    """A table as TOML (https://toml.io/en/v1.0.0); dates and times as they were read."""
    return "\n".join(_table(content, ())) + "\n"


def _table(table: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    inner = {name: value for name, value in table.items() if isinstance(value, dict)}
    lists = {name: value for name, value in table.items() if _of_tables(value)}
    lines = [f"{_key(name)} = {_toml(value)}" for name, value in table.items() if name not in inner | lists]
    for name, each in inner.items():
        here = (*path, name)
        lines += ["", f"[{'.'.join(map(_key, here))}]", *_table(each, here)]
    for name, items in lists.items():
        here = (*path, name)
        for each in items:
            lines += ["", f"[[{'.'.join(map(_key, here))}]]", *_table(each, here)]
    return lines


def _of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else _quoted(name)


def _quoted(text: str) -> str:
    """As in JSON, but for characters beyond 16 bits, which stand for themselves, and DEL, which may not."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else f"{'-' if value < 0 else ''}inf"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):  # in a list beside values that are no tables
        return "{" + ", ".join(f"{_key(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)
