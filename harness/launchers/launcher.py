"""What every launcher offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.launchers.job import Job


@dataclass(frozen=True)
class RankExit:
    """How a rank's process ended."""

    rank: int
    status: int | None
    """Exit status; minus the signal's number if a signal ended it; None if nobody knows, because what it was forked
    from died with it."""


class Ranks(ABC):
    """The running ranks of one trial."""

    @abstractmethod
    def wait(self, timeout: float) -> Sequence[RankExit]:
        """Sleep until a rank ends or `timeout` s have passed; the ranks that ended since the last call."""

    @property
    @abstractmethod
    def running(self) -> frozenset[int]:
        """Ranks that have not been reported as ended."""

    @abstractmethod
    def pids(self) -> dict[int, int]:
        """Rank -> process id, of the running ranks on this machine."""

    @abstractmethod
    def kill(self) -> None:
        """End every rank and whatever was started by one, daemons too, at once; returns when they are gone."""


class Launcher(ABC):
    """Starts ranks. A context manager: what it keeps running between trials ends with it.

    Args:
        preload: modules that ranks need; whatever keeps running between trials may import them once for all ranks.
    """

    def __init__(self, preload: Sequence[str] = ()) -> None:
        self.preload = tuple(preload)

    @abstractmethod
    def start(self, job: Job, target: Callable[[Any, int], None]) -> Ranks:
        """Start the ranks of a job.

        Args:
            job: what to run.
            target: called as target(job, rank) in each rank's process.

        Raises:
            MeasurementError: no process can be started here.
        """

    @abstractmethod
    def warm_up(self) -> None:
        """Begin whatever takes long and is needed only once, without waiting for it."""

    @abstractmethod
    def close(self) -> None:
        """End everything this launcher started."""

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
