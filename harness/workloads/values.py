"""Initial values that the parent has made once, in a file that ranks map."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from harness.workloads import whole


def keep(path: Path, values: Mapping[str, torch.Tensor]) -> None:
    """Write values by their names, in fp32, whole or not at all.

    Raises:
        StoreError: the folder cannot be written.
    """
    plain = {name: value.detach().float() for name, value in values.items()}
    whole.write(path, lambda file: torch.save(plain, file))


@lru_cache
def kept(path: Path) -> dict[str, torch.Tensor]:
    """The values; each is read when it is used."""
    values: dict[str, torch.Tensor] = torch.load(path, mmap=True, weights_only=True)
    return values
