"""Where ranks that hang are: the Python stack of each of their threads."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping

from harness.launchers.job import Launch

PATIENCE = 1.0
"""How long a rank may take to write its stacks, in s; a stopped process never does."""
LOOK = 0.02
"""Between two looks at what was written, in s."""


def collect(job: Launch, pids: Mapping[int, int]) -> dict[int, str]:
    """Have ranks write their stacks, and read them: rank -> text; a rank that writes nothing is missing.

    Args:
        job: what they run.
        pids: rank -> process id of the running ranks.
    """
    for pid in pids.values():
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(pid, job.stacks_signal)
    end, before = time.monotonic() + PATIENCE, dict.fromkeys(pids, "")
    while time.monotonic() < end:
        found = {rank: _read(job, rank) for rank in pids}
        if all(found.values()) and found == before:  # every rank has written, and none is still writing
            break
        before = found
        time.sleep(LOOK)
    return {rank: text for rank, text in before.items() if text}


def _read(job: Launch, rank: int) -> str:
    try:
        return job.stacks_of(rank).read_text(errors="replace")
    except FileNotFoundError:  # it did not come that far
        return ""
