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


@dataclass(frozen=True)
class Checkpoint:
    """The values of a model."""

    digest: str
    """A hash of the files' headers, their sizes and some of their bytes."""
    places: Mapping[str, Place]
    """Parameter -> where its value is."""
    same_form: bool
    """Whether these are all that there are: if not, some may have other names there or be parts of others, and only
    transformers knows."""


def read(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> Checkpoint:
    """Where values are, from the headers of files.

    A parameter is called as in the checkpoint, or lacks or has the prefix of the model inside the model. If every one
    is found, or all that is there is used, the rest of the parameters is new, such as those of another head.

    Args:
        folder: of the checkpoint.
        shapes: parameter -> shape.

    Raises:
        InputError: there are no weights, or they do not fit.
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
    return Checkpoint(digest, found, same_form=len(found) == len(shapes) or used == keys.keys())


def value(place: Place) -> torch.Tensor:
    """The value in fp32."""
    tensor: torch.Tensor = _opened(place.file, place.file.stat().st_mtime_ns).get_tensor(place.key)
    return tensor.float()


def _keys(folder: Path) -> tuple[dict[str, tuple[Path, tuple[int, ...]]], str]:
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = sorted({folder / name for name in json.loads(index.read_bytes())["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index} does not say in which files weights are ({error!r})") from None
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


def converted(auto: Any, folder: Path, config: Any) -> tuple[dict[str, torch.Tensor], set[str]]:
    """(values by the model's own names, as transformers loads them; the names of those that the checkpoint lacks).

    Args:
        auto: transformers' class for the task.
        folder: of the checkpoint.
        config: of the model.

    Raises:
        InputError: transformers cannot load it.
    """
    try:
        model, told = auto.from_pretrained(folder, config=config, dtype="float32", output_loading_info=True)
    except Exception as error:  # whatever a damaged or unknown checkpoint makes it raise
        raise InputError(f"transformers cannot load {folder}: {' '.join(str(error).split())[:300]}") from None
    return dict(model.named_parameters()), set(told["missing_keys"])


@lru_cache(maxsize=64)
def _opened(file: Path, written_ns: int) -> Any:
    from safetensors import safe_open

    return safe_open(file, "pt")
