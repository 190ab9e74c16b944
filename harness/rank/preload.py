"""Imported once by the fork server, so that ranks start with everything loaded. Runs no operator, touches no device."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator

from harness.rank.torch_build import built_for_an_accelerator

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
FOR_A_CPU = (
    "torchao.float8",
    "torchao.optim",
    "torchao.prototype.quantized_training.int8_mixed_precision",
)
"""Loaded if they are installed, and torch is not built for an accelerator: they ask for its devices as they are
imported, and what has asked cannot be forked any more. There the ranks that need them import them. Torchao reports
binaries that it cannot use on standard error, which says nothing here."""


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


def poisoned() -> str | None:
    """Why a process forked from this one could not use a device, in one sentence; None if it could.

    Torch marks forks of a process that has started a driver. Asked in a fork, as a rank would find it.
    """
    import torch

    pid = os.fork()
    if pid == 0:
        os._exit(int(torch.cuda._is_in_bad_fork() or torch.xpu._is_in_bad_fork()))
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        return None
    return (
        "something that was imported has started the device's driver, perhaps a strategy of another package; it must "
        "not ask for devices before a rank runs"
    )


def load() -> None:
    """Import what ranks need."""
    for name in NEEDED:
        importlib.import_module(name)
    with _quiet():
        for name in () if built_for_an_accelerator() else FOR_A_CPU:
            if importlib.util.find_spec(name.partition(".")[0]):
                importlib.import_module(name)
    import strategies
    from harness.workloads import initial

    strategies.registry()
    initial.quantiles()
    if built_for_an_accelerator() and (culprit := poisoned()):
        print(f"no rank can be forked: {culprit}", file=sys.stderr)
        os._exit(1)
    # Ranks inherit all of this. Frozen, none of their collections looks through it again.
    gc.collect()
    gc.freeze()


load()
