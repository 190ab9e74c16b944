"""What a sweep found, for people in a notebook and for code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import MeasurementError
from harness.labels import Row, settings
from harness.report import cell
from harness.report import format as fmt
from harness.report.sweep_view import SweepView
from harness.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from harness.sweeps.config import SweepConfig
    from harness.sweeps.sweep import Ended


@dataclass(frozen=True, kw_only=True)
class Winner:
    """The plan that a sweep found to be best."""

    label: str
    """Its name for people, such as "zero2 dp2 · mb 4"."""
    plan: Mapping[str, Any]
    """Knob -> setting, as `python -m harness run --set` takes them."""
    plan_id: str
    """A hash of the settings, the same in every sweep."""
    trial_id: str
    """Of the trial that stands for it."""
    tokens_per_s: float
    """Throughput over all ranks and launches; samples/s where samples are not sequences."""
    tokens_per_s_low: float
    """Lower end of its 95 % interval."""
    tokens_per_s_high: float
    """Upper end of it."""
    step_time_s: float
    """Median over steps of the slowest rank, in s."""
    peak_memory_bytes: float | None
    """Of the worst rank, in B."""
    command: str
    """Repeats it; "" where the workload was passed as objects, which no command can name."""

    @classmethod
    def of(cls, view: SweepView, row: Row) -> Winner:
        """The plan that a row of a ranking stands for."""
        middle, low, high = view.interval(row)
        return cls(
            label=view.label(row),
            plan=settings(row),
            plan_id=row["plan_id"],
            trial_id=row["trial_id"],
            tokens_per_s=float(middle or 0),
            tokens_per_s_low=float(low or 0),
            tokens_per_s_high=float(high or 0),
            step_time_s=float(row["step_time_s"]),
            peak_memory_bytes=row["peak_memory_bytes"],
            command=view.command(row),
        )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SweepResult:
    """Everything recorded of a sweep, earlier runs of its name included. A notebook shows the winner, the best plans
    and two plots."""

    name: str
    """Of the sweep; the same name resumes it."""
    winner: Winner | None
    """The best plan, of the smallest global batch if there are several; None if no plan succeeded."""
    results: Path
    """Folder of the parquet files."""
    page: Path
    """The sweep's HTML page."""
    stopped: str
    """Why the search ended, in words."""
    interrupted: bool
    """Whether it was by Ctrl-C."""
    view: SweepView = field(repr=False)
    """What the page is made of."""

    @classmethod
    def of(cls, ended: Ended, config: SweepConfig) -> SweepResult:
        """What stands in the store of a sweep that has ended.

        Raises:
            MeasurementError: it has no trial.
        """
        if ended.page is None:
            raise MeasurementError(f"the sweep {ended.name!r} ended without a trial: {ended.summary.stopped}")
        view = SweepView.read(Store(config.results), ended.hardware_id, ended.name)
        return cls(
            name=ended.name,
            winner=None if view.winner is None else Winner.of(view, view.winner),
            results=config.results,
            page=ended.page,
            stopped=ended.summary.stopped,
            interrupted=ended.summary.interrupted,
            view=view,
        )

    @property
    def frame(self) -> pd.DataFrame:
        """The trials of the sweep, oldest first, with the columns of the parquet files (results/README.md); a copy."""
        return self.view.trials.copy()

    def __repr__(self) -> str:
        counts = ", ".join(f"{number} {outcome}" for outcome, number in self.view.outcomes.items())
        best = "no plan succeeded"
        if self.winner is not None:
            memory = fmt.plain(fmt.size(self.winner.peak_memory_bytes))
            rate, step = fmt.rate(self.winner.tokens_per_s), fmt.plain(fmt.duration(self.winner.step_time_s))
            best = f"{self.winner.label}: {rate} {self.view.unit}, {step} a step, {memory}"
        return (
            f"SweepResult {self.name!r}: {fmt.count(len(self.view.rows), 'trial')} ({counts}); {self.stopped}\n"
            f"  winner   {best}\n  results  {self.results}\n  page     {self.page}"
        )

    def _repr_html_(self) -> str:
        return cell.render(self.view, str(self.page), self.stopped)
