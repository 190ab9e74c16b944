"""Imported once by the fork server, so that ranks start with everything loaded. Runs no operator, touches no device."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator

NEEDED = (
    "torch",
    "torch._dynamo",
    "torch.distributed.device_mesh",
    "torch.distributed.fsdp",
    "torch.distributed.optim",
    "torch.distributed.pipelining",
    "torch.nn.parallel",
    "torch.profiler",
    "torch.utils.checkpoint",
    "harness.rank.main",
    "harness.workloads.gpt",
)
OPTIONAL = (
    "torchao.float8",
    "torchao.optim",
    "torchao.prototype.quantized_training.int8_mixed_precision",
)
"""Loaded if they are installed; torchao reports binaries it cannot use on standard error, which says nothing here."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    kept = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        os.dup2(kept, 2)
        os.close(kept)


def load() -> None:
    """Import what ranks need."""
    for name in NEEDED:
        importlib.import_module(name)
    with _quiet():
        for name in OPTIONAL:
            if importlib.util.find_spec(name.partition(".")[0]):
                importlib.import_module(name)
    import strategies

    strategies.registry()
    # Ranks inherit all of this. Frozen, none of their collections looks through it again.
    gc.collect()
    gc.freeze()


load()
