"""Comparison: what was recorded of workloads in several places, read from any number of results folders."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InputError, UnknownNameError
from harness.labels import Row, is_script, kind, labels, rate_of
from harness.store.records import Role
from harness.store.standings import USABLE, Standing, Standings, over, standings
from harness.store.store import Store, plain_rows

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("trial_id", "plan_id", "workload_id", "workload", "outcome", "role", "round", "started_at", "knobs"),
    *("data_parallel", "dp", "tp", "pp", "micro_batch_size", "precision", "activation_checkpoint", "quantization"),
    *("compile", "global_batch_size", "seq_len", "world_size", "tokens_per_s", "tokens_per_s_low", "disturbed"),
    *("tokens_per_s_high", "step_time_s", "time_to_loss_s", "peak_memory_bytes", "memory_limit_bytes", "mfu"),
    *("memory_params_bytes", "memory_grads_held_bytes", "memory_optimizer_bytes", "tokens_per_j"),
    *("predicted_step_time_s", "torch_version", "harness_version", "source", "rate_of"),
)
"""What is read of a trial."""


@dataclass(frozen=True, order=True)
class Place:
    """Where a workload was run: two places are different measurements, never the same."""

    hardware_id: str
    world_size: int
    torch_version: str
    harness_version: str
    sweep: str = ""
    """Only where sweeps are compared by name."""

    @property
    def devices(self) -> str:
        """The processor or the devices that the `hardware_id` names, such as "cpu-amd-epyc" or "8xh100-80g"."""
        pattern = r"(?P<cpu>cpu-.*?)-\d+c-\d+g|(?P<devices>\d+x.*?-\d+g(-\d+x.*?-\d+g)*)"
        found = re.match(pattern, self.hardware_id)
        return (found["cpu"] or found["devices"]) if found else self.hardware_id.rpartition("-")[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """What one place reached for one workload."""

    place: Place
    known: Standings
    plans: tuple[Standing, ...]
    """Best first."""

    @property
    def winner(self) -> Standing:
        """The best plan."""
        return self.plans[0]

    @property
    def ties(self) -> tuple[Standing, ...]:
        """The plans that cannot be told apart from the winner."""
        return tuple(plan for plan in self.plans[1:] if self.known.tied(self.winner, plan))

    def best(self) -> dict[str, Standing]:
        """Kind of plan -> the best of it, the fastest kind first."""
        found: dict[str, Standing] = {}
        for plan in self.plans:
            found.setdefault(kind(plan.row), plan)
        return dict(sorted(found.items(), key=lambda pair: -pair[1].log_rate))

    def plan(self, plan_id: str) -> Standing | None:
        """What the place knows of a plan."""
        return next((plan for plan in self.plans if plan.row["plan_id"] == plan_id), None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Contest:
    """One workload in every place that ran it: only here may speeds be compared."""

    workload_id: str
    name: str
    """Of the workload, with its batch."""
    unit: str
    entries: tuple[Entry, ...]
    """In the order of their places."""
    facts: Mapping[str, Mapping[str, Any]]
    """hardware_id -> what was measured of it."""
    prices: Mapping[str, float]
    """hardware_id -> price of an hour."""

    @cached_property
    def place_names(self) -> dict[Place, str]:
        """Names that say in what the places differ."""
        return _names([entry.place for entry in self.entries])

    @cached_property
    def plan_names(self) -> dict[str, str]:
        """plan_id -> name, of the winners."""
        rows = [entry.winner.row for entry in self.entries]
        named = labels(rows)
        return {row["plan_id"]: named[row["trial_id"]] for row in rows}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of plans that ran anywhere, sorted."""
        return tuple(sorted({kind(plan.row) for entry in self.entries for plan in entry.plans}))

    def fact(self, place: Place, *path: str) -> float | None:
        """A number that was measured of a place's hardware."""
        found = self.known_of(place, *path)
        return float(found) if isinstance(found, (int, float)) else None

    def known_of(self, place: Place, *path: str) -> Any:
        """Whatever is kept of a place's hardware; None if nothing is."""
        found: Any = self.facts.get(place.hardware_id, {})
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Everything that is compared."""

    contests: tuple[Contest, ...]
    trials: int
    """Read, each once."""
    repeated: int
    """Trials that stood in more than one folder."""
    folders: tuple[str, ...]
    problems: tuple[str, ...] = field(default=())
    """One sentence for each file that could not be read."""

    @classmethod
    def read(
        cls,
        folders: Sequence[Path],
        *,
        workload: str | None = None,
        sweeps: Sequence[str] | None = None,
        prices: Mapping[str, float] | None = None,
    ) -> Comparison:
        """Read and group the trials of results folders.

        Args:
            folders: results folders, of any number of machines.
            workload: name or id; None for every workload.
            sweeps: compare these, each as a place of its own; None: sweeps of one place count together.
            prices: hardware_id -> price of an hour.

        Raises:
            InputError: a folder holds no trial, or the sweeps have no workload in common.
            UnknownNameError: no such workload or sweep.
        """
        stores = [Store(folder) for folder in folders]
        frame, repeated = _frame(stores)
        if sweeps:
            frame = _of_sweeps(frame, sweeps)
        frame = _of_workload(frame, workload)
        facts = {name: _facts(stores, name) for name in sorted(set(frame["hardware_id"]))}
        contests = _contests(plain_rows(_counted(frame)), facts, prices or {}, by_sweep=bool(sweeps))
        if not contests:
            raise InputError("no trial of these folders succeeded, so there is nothing to compare")
        return cls(
            contests=tuple(contests),
            trials=len(frame),
            repeated=repeated,
            folders=tuple(map(str, folders)),
            problems=tuple(problem for store in stores for problem in store.problems),
        )


def _frame(stores: Sequence[Store]) -> tuple[pd.DataFrame, int]:
    """The trials of every folder, each once, and how many stood in more than one."""
    import pandas as pd

    frames = []
    for store in stores:
        found = store.trials(columns=COLUMNS)
        if found.empty:
            raise InputError(f"{store.root} holds no trial; give a results folder, or run a sweep first")
        frames.append(found)
    whole = pd.concat(frames, ignore_index=True)
    once = whole.drop_duplicates("trial_id", ignore_index=True)
    return once, len(whole) - len(once)


def _of_workload(frame: pd.DataFrame, workload: str | None) -> pd.DataFrame:
    if workload is None:
        return frame
    found = frame[(frame["workload"] == workload) | (frame["workload_id"] == workload)]
    if found.empty:
        raise UnknownNameError("workload", workload, {*frame["workload"], *frame["workload_id"]})
    return found


def _of_sweeps(frame: pd.DataFrame, sweeps: Sequence[str]) -> pd.DataFrame:
    for name in sweeps:
        if name not in set(frame["sweep"]):
            raise UnknownNameError("sweep", name, set(frame["sweep"]))
    found = frame[frame["sweep"].isin(sweeps)]
    of_each = [set(found[found["sweep"] == name]["workload_id"]) for name in sweeps]
    common = set.intersection(*of_each)
    if not common:
        named = "; ".join(f"{name}: {', '.join(sorted(ids))}" for name, ids in zip(sweeps, of_each, strict=True))
        raise InputError(f"these sweeps trained different things, so their speeds cannot be compared ({named})")
    return found[found["workload_id"].isin(common)]


def _counted(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows that a standing may be made of: most of a large store's failures are none."""
    return frame[frame["outcome"].isin(USABLE) | (frame["role"] == Role.FINAL)]


def _contests(
    rows: Iterable[Row], facts: Mapping[str, Mapping[str, Any]], prices: Mapping[str, float], *, by_sweep: bool
) -> list[Contest]:
    apart: dict[str, dict[Place, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        versions = (row["torch_version"], row["harness_version"])
        place = Place(row["hardware_id"], row["world_size"] or 0, *versions, row["sweep"] if by_sweep else "")
        apart[row["workload_id"]][place].append(row)
    contests = []
    for workload_id, places in apart.items():
        entries = [entry for place in sorted(places) if (entry := _entry(place, places[place])) is not None]
        if entries:
            row = entries[0].winner.row
            contests.append(
                Contest(
                    workload_id=workload_id,
                    name=row["workload"] if is_script(row) else f"{row['workload']}, batch {row['global_batch_size']}",
                    unit=f"{rate_of(row)}/s",
                    entries=tuple(entries),
                    facts=facts,
                    prices=prices,
                )
            )
    return sorted(contests, key=lambda contest: (contest.name, contest.workload_id))


def _entry(place: Place, rows: Sequence[Row]) -> Entry | None:
    # A plan that broke its own sweep's limit did not fit there.
    known = standings([row for row in rows if not over(row, row["memory_limit_bytes"])])
    plans = sorted((plan for plan in known.plans if not plan.failures), key=lambda plan: -plan.log_rate)
    if not plans:
        return None
    # Of plans that cannot be told apart, one that was launched again is the safer winner. A sweep would put it first in
    # any case; here a plan may have been tried long after the sweep, and be far better.
    fastest = plans[0]
    decided = [plan for plan in plans if plan.decided and (plan is fastest or known.tied(fastest, plan))]
    if decided:
        plans.remove(decided[0])
        plans.insert(0, decided[0])
    return Entry(place=place, known=known, plans=tuple(plans))


def _facts(stores: Sequence[Store], hardware_id: str) -> Mapping[str, Any]:
    return next((found for store in stores if (found := store.peaks(hardware_id))), {})


def short_hardware(ids: Sequence[str]) -> dict[str, str]:
    """hardware_id -> what of it differs: without the words that all begin with, and without the hash if that leaves the
    names unique.
    """
    words = {name: name.split("-") for name in dict.fromkeys(ids)}
    if len(words) < 2:
        return {name: name for name in words}
    common = 0
    while len({tuple(parts[: common + 1]) for parts in words.values()}) == 1:
        common += 1
    without = {name: "-".join(parts[common:-1]) for name, parts in words.items()}
    if len(set(without.values())) == len(words) and all(without.values()):
        return without
    return {name: "-".join(parts[common:]) for name, parts in words.items()}


_PARTS: Mapping[str, Callable[[Place], str]] = {
    "hardware": lambda place: place.hardware_id,
    "ranks": lambda place: f"{place.world_size} {'rank' if place.world_size == 1 else 'ranks'}",
    "torch": lambda place: f"torch {place.torch_version}",
    "harness": lambda place: f"harness {place.harness_version}",
    "sweep": lambda place: place.sweep,
}


def _names(places: Sequence[Place]) -> dict[Place, str]:
    parts = {name: {of(place) for place in places} for name, of in _PARTS.items()}
    shown = [name for name, values in parts.items() if len(values) > 1] or ["hardware"]
    if "hardware" in shown and len(shown) > 1 and len(parts["hardware"]) == len(places):
        # The hardware alone tells them apart; a torch build is part of its id.
        shown = [name for name in shown if name in ("hardware", "ranks")]
    short = short_hardware([place.hardware_id for place in places])
    return {
        place: " · ".join(short[place.hardware_id] if name == "hardware" else _PARTS[name](place) for name in shown)
        for place in places
    }
