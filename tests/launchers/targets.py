"""What ranks do in the tests of launchers, instead of training."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

import harness
from harness.launchers.job import Job

MEETING = "pids"
"""A named pipe in the job's folder: opening it waits for the other side."""


def end_with_status(job: Job, rank: int) -> None:
    """Exit statuses 0, 3, 6, ..."""
    os._exit(3 * rank)


def end_by_signal(job: Job, rank: int) -> None:
    """Rank 0 is terminated, every other one killed."""
    os.kill(os.getpid(), signal.SIGKILL if rank else signal.SIGTERM)


def wait(job: Job, rank: int) -> None:
    """Never end, and let a child never end either."""
    _start_child(job)
    threading.Event().wait()


def leave_a_child(job: Job, rank: int) -> None:
    """End at once, but the child does not."""
    _start_child(job)


def leave_a_daemon(job: Job, rank: int) -> None:
    """End at once, but a daemon does not: its parent has ended and its group is not the rank's."""
    parent = os.fork()
    if parent == 0:
        _start_child(job, start_new_session=True)
        os._exit(0)
    os.waitpid(parent, 0)


def wait_beside_a_daemon(job: Job, rank: int) -> None:
    """Never end, nor does a daemon."""
    leave_a_daemon(job, rank)
    threading.Event().wait()


def tell_where_the_harness_is(job: Job, rank: int) -> None:
    """Write the file that the harness was imported from."""
    (job.folder / f"harness{rank}").write_text(harness.__file__)


def ignore_sigterm(job: Job, rank: int) -> None:
    """Never end, least of all when asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait(job, rank)


def _start_child(job: Job, **options: bool) -> None:
    child = subprocess.Popen(["sleep", "1000"], **options)
    with (job.folder / MEETING).open("w") as pipe:
        pipe.write(f"{os.getpid()} {child.pid}\n")


if __name__ == "__main__":
    import sys
    from dataclasses import replace
    from pathlib import Path

    from harness import launchers
    from tests.launchers import targets  # by its name: ranks do not import the program that starts them
    from tests.trial.fake_ranks import job

    with launchers.create(sys.argv[1]) as launcher:
        ranks = launcher.start(replace(job(), folder=Path(sys.argv[2])), targets.wait)
        ranks.wait(60.0)
