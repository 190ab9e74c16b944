"""SweepView: one sweep as the panels see it, read from the store once."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.errors import InputError, UnknownNameError
from harness.labels import Named, Row, is_script, kind, labels, rate_of
from harness.report import format as fmt
from harness.report.figures import palette
from harness.store import older
from harness.store.records import Outcome
from harness.store.standings import USABLE, Standing, Standings, order, over, score, standings, step_tokens
from harness.store.store import plain_rows

if TYPE_CHECKING:
    import pandas as pd

    from harness.store.store import Store


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepView:
    """The trials of one sweep on one hardware, ranked by the sweep's objective."""

    sweep: str
    hardware_id: str
    trials: pd.DataFrame
    """Rows of `records.TRIALS`, oldest first."""
    steps: pd.DataFrame
    """Rows of `records.STEPS`."""
    references: Mapping[str, pd.DataFrame]
    """workload_id -> rows of `records.REFERENCES`; workloads without a recorded curve are absent."""
    info: Mapping[str, Any]
    """How the sweep was called and where it ran, as the sweep wrote it; every key is optional."""
    problems: tuple[str, ...] = ()
    """One sentence for each file that could not be read."""

    @classmethod
    def read(cls, store: Store, hardware_id: str, sweep: str) -> SweepView:
        """Everything the store has of one sweep.

        Raises:
            InputError: the store has no trial of this sweep on this hardware.
        """
        trials = store.trials(sweep, hardware_id)
        if trials.empty:
            raise _no_trials(store, hardware_id, sweep)
        agreed = set(trials["workload_id"][trials["reference"].isin(["twin", "agreement"])])
        curves = {
            workload: store.reference(workload, agreed=workload in agreed)
            for workload in sorted(set(trials["workload_id"]))
        }
        return cls(
            sweep=sweep,
            hardware_id=hardware_id,
            trials=trials,
            steps=store.steps(sweep, hardware_id),
            references={workload: curve for workload, curve in curves.items() if curve is not None},
            info=store.sweep_info(hardware_id, sweep),
            problems=tuple(store.problems),
        )

    # -- rows

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every trial as a mapping with None for what is missing, oldest first."""
        return tuple(plain_rows(self.trials))

    @cached_property
    def standings(self) -> tuple[Standings, ...]:
        """What is known of the plans, one for each workload, smallest global batch first."""
        apart: dict[tuple[int, str], list[Row]] = {}
        for row in self.rows:
            size = 0 if is_script(row) else row["global_batch_size"]
            apart.setdefault((size, row["workload_id"]), []).append(row)
        return tuple(standings(apart[workload]) for workload in sorted(apart))

    @cached_property
    def places_of_plans(self) -> tuple[tuple[Standings, tuple[Standing, ...]], ...]:
        """The plans that can be ranked, best first: one ranking for each workload, or a single one where the objective
        compares workloads.
        """
        apart = [(known, known.plans) for known in self.standings if known.plans]
        if self.objective == "time-to-loss" and apart:
            apart = [(apart[0][0], tuple(plan for _, plans in apart for plan in plans))]
        return tuple((known, tuple(order(plans, self.objective, self.ceiling))) for known, plans in apart)

    @cached_property
    def rankings(self) -> tuple[tuple[Row, ...], ...]:
        """The ranked plans as rows: each reads like a trial's, with the rate and interval of all launches that count,
        and `launches`, their number.
        """
        return tuple(tuple(plan.row for plan in plans) for _, plans in self.places_of_plans)

    @cached_property
    def ranked(self) -> tuple[Row, ...]:
        """The rankings one after another."""
        return tuple(row for ranking in self.rankings for row in ranking)

    @cached_property
    def failed(self) -> tuple[Row, ...]:
        """The trials whose numbers do not count, oldest first."""
        return tuple(row for row in self.rows if row["outcome"] not in USABLE)

    @cached_property
    def winners(self) -> tuple[Row, ...]:
        """The first of each ranking."""
        return tuple(ranking[0] for ranking in self.rankings)

    @cached_property
    def winner(self) -> Row | None:
        """The first winner, None if no trial succeeded."""
        return self.winners[0] if self.winners else None

    @cached_property
    def ties(self) -> tuple[Row, ...]:
        """The plans that cannot be told apart from the winner of their ranking, in order."""
        return tuple(row for winner in self.winners for row in self.ties_with(winner))

    def ties_with(self, winner: Row) -> tuple[Row, ...]:
        """The plans that cannot be told apart from a winner.

        Memory has no interval: under that objective a tie is an equal peak. Plans above the memory limit never tie.
        """
        known, (first, *others) = next(pair for pair in self.places_of_plans if pair[1][0].row is winner)
        return tuple(plan.row for plan in others if self._ties(known, first, plan))

    def difference(self, row: Row) -> tuple[float, float, float] | None:
        """How much faster than the winner of its ranking a plan is, as a share, with the ends of the 95 % interval.

        None for the winner itself, and unless both were launched again in the same rounds.
        """
        found = self._behind.get(row["trial_id"])
        return None if found is None else found[0].difference(found[1], found[2])

    @cached_property
    def _behind(self) -> dict[str, tuple[Standings, Standing, Standing]]:
        """trial_id of a ranked plan -> (standings, it, the winner); winners are absent."""
        return {
            plan.row["trial_id"]: (known, plan, winner)
            for known, (winner, *others) in self.places_of_plans
            for plan in others
        }

    @cached_property
    def places(self) -> dict[str, int]:
        """trial_id -> place in its ranking, from 1; trials that stand for no ranked plan are absent."""
        return {row["trial_id"]: place for ranking in self.rankings for place, row in enumerate(ranking, start=1)}

    def winner_of(self, row: Row) -> Row | None:
        """The winner of the ranking a trial belongs to; for a failed trial, of its workload's."""
        return next((w for w in self.winners if len(self.winners) == 1 or w["workload_id"] == row["workload_id"]), None)

    @cached_property
    def outcomes(self) -> dict[str, int]:
        """Number of trials by outcome, the most frequent first."""
        return dict(Counter(str(row["outcome"]) for row in self.rows).most_common())

    # -- what the sweep asked for

    @cached_property
    def objective(self) -> str:
        """throughput, memory, pareto or time-to-loss."""
        return str(self.info.get("objective") or "throughput")

    @cached_property
    def memory_limit(self) -> float | None:
        """Bytes that the worst rank may use, None if there is no limit."""
        limit = self.info.get("memory_limit_bytes")
        return float(limit) if limit else None

    @cached_property
    def ceiling(self) -> float | None:
        """Bytes that the winner's worst rank may have used: the limit less the headroom asked for."""
        return float(self.info.get("memory_ceiling_bytes") or 0) or self.memory_limit

    @cached_property
    def unit(self) -> str:
        """Unit of throughput: samples where a sample is not a sequence."""
        return "samples/s" if all(rate_of(row) == "samples" for row in self.rows) else "tokens/s"

    @cached_property
    def is_script(self) -> bool:
        """Whether the sweep turned the knobs of somebody's script."""
        return any(is_script(row) for row in self.rows)

    @cached_property
    def several_workloads(self) -> bool:
        """Whether the sweep compares workloads, such as several global batches."""
        return len({row["workload_id"] for row in self.rows}) > 1

    def over_limit(self, row: Row) -> bool:
        """Whether a trial used more memory than the sweep allows."""
        return over(row, self.ceiling)

    # -- the lines of the ranked table, which everything else refers to

    @cached_property
    def lines(self) -> tuple[Row, ...]:
        """The ranked plans, then the trials whose numbers do not count."""
        return (*self.ranked, *self.failed)

    @cached_property
    def _line_of(self) -> dict[str, int]:
        plans = {(row["workload_id"], row["plan_id"]): at for at, row in enumerate(self.ranked)}
        of_plans = {
            row["trial_id"]: plans[row["workload_id"], row["plan_id"]]
            for row in self.rows
            if (row["workload_id"], row["plan_id"]) in plans
        }
        return of_plans | {row["trial_id"]: at for at, row in enumerate(self.lines)}

    def at(self, row: Row) -> int | None:
        """Number of the line that a trial stands in: its own, or that of its plan."""
        return self._line_of.get(row["trial_id"])

    def note(self, row: Row) -> str:
        """What a trial came to, in a few words."""
        if row["outcome"] not in USABLE:
            return str(Outcome(row["outcome"]))
        return f"{fmt.rate(row['tokens_per_s'])} {self.unit} · {fmt.size(row['peak_memory_bytes'])}"

    def command(self, row: Row) -> str:
        """The command that runs a trial's plan again; "" if none was recorded."""
        return older.command(str((self.info.get("repeat") or {}).get(row["trial_id"], "")), row)

    # -- names and comparisons

    def colour(self, row: Row) -> str:
        """That of the trial's kind."""
        return self._palette[kind(row)]

    @cached_property
    def _palette(self) -> dict[str, str]:
        return palette(self.kinds)

    def named(self, row: Row) -> Named:
        """How a ranked trial appears in charts."""
        return Named(at=self.at(row), label=self.numbered(row), short=self.short(row), colour=self.colour(row))

    @cached_property
    def labels(self) -> dict[str, str]:
        """trial_id -> name for people, unique in the sweep."""
        return labels(self.rows)

    def label(self, row: Row) -> str:
        """Name of a trial for people."""
        return self.labels[row["trial_id"]]

    def numbered(self, row: Row) -> str:
        """Name of an ok trial with its place in the ranking, such as "#3 zero2 dp2 · mb 4"."""
        return f"#{self.places[row['trial_id']]} {self.label(row)}"

    def short(self, row: Row) -> str:
        """Name of an ok trial where space is short: its place in the ranking and its kind, such as "#3 zero2"."""
        return self.numbered(row) if is_script(row) else f"#{self.places[row['trial_id']]} {kind(row)}"

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The ways of dividing the training over ranks that were tried, sorted."""
        return tuple(sorted({kind(row) for row in self.rows}))

    def best(self, data_parallel: str, workload_id: str) -> Row | None:
        """The fastest ok trial of a data-parallel strategy on a workload."""
        fits = [r for r in self.ranked if r["data_parallel"] == data_parallel and r["workload_id"] == workload_id]
        return max(fits, key=lambda row: row["tokens_per_s"] or 0.0, default=None)

    def agreed(self, workload_id: str) -> Row | None:
        """The plan whose curve stands in for the reference of a model too large for one process; None if none does."""
        curve = self.references.get(workload_id)
        text = None if curve is None or curve.empty else curve.iloc[0].get("plan")
        if not isinstance(text, str):  # a column without a value is read as numbers
            return None
        plan: Row = json.loads(text)
        return plan

    def reference_rate(self, row: Row) -> float | None:
        """Tokens per second of the workload's single-process fp32 reference (median step), None if not recorded."""
        curve = self.references.get(row["workload_id"])
        if curve is None or curve.empty or self.agreed(row["workload_id"]) is not None:
            return None
        if is_script(row):  # it is the script as it stood, not one process
            return None
        return float(step_tokens(row) / curve["step_time_s"].median())

    def interval(self, row: Row) -> tuple[float | None, float | None, float | None]:
        """(tokens per second, lower and upper end of its 95 % interval); a missing end is the value itself."""
        middle = row["tokens_per_s"]
        low, high = row["tokens_per_s_low"], row["tokens_per_s_high"]
        return middle, middle if low is None else low, middle if high is None else high

    def _ties(self, known: Standings, winner: Standing, plan: Standing) -> bool:
        if self.over_limit(plan.row) and not self.over_limit(winner.row):
            return False
        if self.objective == "memory":
            return score(plan.row, "memory") == score(winner.row, "memory")
        if self.objective == "time-to-loss":
            # A time to loss is a number of steps x step time: its logarithm has the rate's variance.
            pair = [replace(p, log_rate=math.log(p.row["time_to_loss_s"] or math.inf)) for p in (winner, plan)]
            return known.tied(*pair)
        return known.tied(winner, plan)


def _no_trials(store: Store, hardware_id: str, sweep: str) -> InputError:
    if store.sweep_info(hardware_id, sweep):
        return InputError(f"sweep {sweep!r} has no recorded trial yet: resume it, then ask for its report")
    known = store.sweeps()
    if not known:
        return InputError(f"{store.root} has no sweep to report: run one first")
    here = [name for hardware, name in known if hardware == hardware_id]
    if here and sweep not in here:
        return UnknownNameError("sweep", sweep, here)
    places = sorted({hardware for hardware, name in known if name == sweep})
    if places:
        return InputError(f"sweep {sweep!r} was recorded on {', '.join(places)}, but not on {hardware_id!r}: name one")
    return UnknownNameError("hardware", hardware_id, {hardware for hardware, _ in known})
