"""Variables of the environment that change what ranks are measured to do."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

UNWANTED = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "TORCH_DISTRIBUTED_DEBUG")
"""What neither this process nor its ranks keep. OpenMP binds a process to its first place as torch is imported, and all
ranks, forked from it, would share that place; debugging puts checks around every collective, which take the time."""
SLOW = ("CUDA_LAUNCH_BLOCKING", "TORCH_NCCL_BLOCKING_WAIT", "NCCL_DEBUG", "TORCH_LOGS")
"""What ranks keep although it slows them: somebody looks for a fault."""
COPIES = ("SLURM_PROCID", "RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Which of several copies of a command this one is, by who started it."""


CLEARED: dict[str, str] = {}
"""What this process has forgotten."""


def clear() -> None:
    """Forget what is not wanted, before anything is imported that reads it."""
    for name in UNWANTED:
        if name in os.environ:
            CLEARED[name] = os.environ.pop(name)


def nobody(environ: Mapping[str, str]) -> dict[str, str]:
    """A name for a user who has none, as in containers that run as any number: libraries call their caches after it."""
    if any(environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):  # where getpass.getuser looks
        return {}
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return {"USER": f"uid{os.getuid()}"}
    return {}


def remarks(environ: Mapping[str, str]) -> list[str]:
    """What is to be said of an environment, a sentence each."""
    environ = {**CLEARED, **environ}
    said = [f"{name} is set and not passed on to ranks" for name in UNWANTED if environ.get(name)]
    said += [f"{name} is set, which slows ranks down" for name in SLOW if environ.get(name) not in (None, "", "0")]
    copies = [name for name in COPIES if environ.get(name, "0") != "0"]
    said += [f"{name}={environ[name]}: this is one of several copies, which disturb each other" for name in copies]
    return said
