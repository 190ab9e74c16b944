"""Pretrained values, read one tensor at a time from the safetensors files of a checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from harness.errors import InputError


@dataclass(frozen=True)
class Place:
    """Where a value is."""

    file: Path
    """A safetensors file."""
    key: str
    """Its name there."""


def places(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Place], str]:
    """(parameter -> where its value is, a hash of the files' headers and sizes).

    A parameter is called as in the checkpoint, or lacks or has the prefix of the model inside the model. Those of a new
    head are not there, and stay random.

    Args:
        folder: of the checkpoint.
        shapes: parameter -> shape.

    Raises:
        InputError: there are no weights, they do not fit, or they are kept in another form than the model's.
    """
    keys, digest = _keys(folder)
    prefixes = {"", *(f"{name.split('.')[0]}." for name in shapes)}
    found: dict[str, Place] = {}
    for name, shape in shapes.items():
        candidates = [name, *(f"{p}{name}" for p in prefixes if p), *(name.removeprefix(p) for p in prefixes)]
        key = next((c for c in candidates if c in keys), None)
        if key is None:
            continue
        file, there = keys[key]
        if there != shape:
            raise InputError(
                f"{file} does not fit the configuration: {key} is {list(there)}, but the model's {name} is "
                f"{list(shape)}"
            )
        found[name] = Place(file, key)
    used = {place.key for place in found.values()}
    missing, unused = [n for n in shapes if n not in found], [k for k in keys if k not in used]
    inner = [name for name in missing if any(name.startswith(p) and p.count(".") for p in _stacks(found))]
    if not found or (inner and unused):
        first = (inner or missing)[0]
        raise InputError(
            f"{folder} keeps its weights in another form than the model ({first} is not there, "
            f"{(unused or ['nothing'])[0]} is); load and save it once, by transformers' from_pretrained and "
            "save_pretrained(save_original_format=False)"
        )
    return found, digest


def value(place: Place) -> torch.Tensor:
    """The value in fp32."""
    tensor: torch.Tensor = _opened(place.file).get_tensor(place.key)
    return tensor.float()


def _stacks(found: Mapping[str, Place]) -> set[str]:
    """Prefixes of the numbered blocks of which a part was found."""
    return {
        ".".join(parts[: at + 1]) + "."
        for name in found
        for parts in [name.split(".")]
        for at, part in enumerate(parts)
        if part.isdigit()
    }


def _keys(folder: Path) -> tuple[dict[str, tuple[Path, tuple[int, ...]]], str]:
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    if not files:
        raise InputError(f"{folder} has no weights in safetensors files; leave weights=pretrained out for random ones")
    digest = hashlib.sha256()
    keys: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for file in files:
        try:
            opened = safe_open(file, "pt")
            shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118 - no mapping
            size = file.stat().st_size
        except Exception as error:  # the package raises its own kinds, and OSError
            raise InputError(f"{file} is not a readable safetensors file ({' '.join(str(error).split())})") from None
        digest.update(json.dumps([file.name, size, sorted(shapes.items())]).encode())
        digest.update(_some(file, size))
        keys |= {key: (file, shape) for key, shape in shapes.items()}
    return keys, digest.hexdigest()[:16]


def _some(file: Path, size: int, pieces: int = 64, length: int = 4096) -> bytes:
    """Pieces of a file, evenly spread: checkpoints of other values differ in nearly all of them."""
    with file.open("rb") as opened:
        read = []
        for number in range(pieces):
            opened.seek(size * number // pieces)
            read.append(opened.read(length))
    return b"".join(read)


@lru_cache(maxsize=64)
def _opened(file: Path) -> Any:
    from safetensors import safe_open

    return safe_open(file, "pt")
