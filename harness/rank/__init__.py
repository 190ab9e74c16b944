"""What runs inside a rank. It loads torch: here is what the parent needs to start one without that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.workloads.minis import MINIS

if TYPE_CHECKING:
    from harness.launchers.job import Job

PRELOAD = ("harness.rank.preload",)
"""What a launcher may import once for all ranks."""


def preload_for(workload: str | None) -> tuple[str, ...]:
    """Likewise for a workload as it is written: what is imported last sees to it that ranks share all of it."""
    of_transformers = workload is not None and workload.startswith(("hf:", *MINIS))
    return (*(("harness.rank.preload_transformers",) if of_transformers else ()), *PRELOAD)


def train(job: Job, rank: int) -> None:
    """A trial's part in one rank's process, which ends with it."""
    from harness.rank import main

    main.main(job, rank)
