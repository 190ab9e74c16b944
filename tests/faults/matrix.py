"""Every fault at every moment, on one rank and on all, in one process with one fork server."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.tiny import Laboratory

PLAN = {"dp": 2, "micro_batch_size": 2}
START_S, STEP_S = 12.0, 4.0
"""Deadlines of the trials, in s."""
SLACK_S = 5.0
"""A trial must be over this long after its deadline at the latest, in s."""
LIMIT = 300 << 20
"""Memory limit of trials that allocate, in B."""
ROOM = 1500 << 20
"""What trials that allocate without a limit may take until the machine counts as full, in B."""
BACK = 100 << 20
"""Memory is back when no more than this is missing, in B."""

EXPECTED = {
    **dict.fromkeys(("fail", "leave", "kill", "close_events"), "crash"),
    **dict.fromkeys(("loop", "block", "ignore_sigterm"), "hang"),
    **dict.fromkeys(("allocate", "allocate_all"), "oom_host"),
    **dict.fromkeys(("leak", "child", "daemon", "flood", "garbage", "close_output"), "ok"),
    "terminate": "preempted",
    "nan": "nan",
    "wrong_gradient": "numerics",
}
"""Fault -> outcome. "allocate_all" is "allocate" without a limit, until the machine is short of memory."""

PHASES = ("build", "first", "middle", "last", "teardown")
REACHED = {"build": "build", "first": "warmup", "middle": "warmup", "last": "measure", "teardown": "teardown"}
"""When a fault happens -> phase that the record names."""


@dataclass(frozen=True)
class Case:
    """A fault, when, and where."""

    fault: str
    phase: str
    ranks: str

    @property
    def expected(self) -> str:
        """The right outcome. Ranks that hang when all have said what they measured take nothing back."""
        return "ok" if self.hangs and self.phase == "teardown" else EXPECTED[self.fault]

    @property
    def hangs(self) -> bool:
        """Whether a deadline ends it."""
        return EXPECTED[self.fault] == "hang"

    @property
    def possible(self) -> bool:
        """What a step returns can only be wrong in a step."""
        return self.fault not in ("nan", "wrong_gradient") or self.phase in ("first", "middle", "last")

    @property
    def allowed_s(self) -> float:
        """The deadline that ends it, counted from the launch, without the steps before it."""
        if not self.hangs:
            return 0.0
        return START_S if self.phase in ("build", "first") else STEP_S


@dataclass(frozen=True)
class Seen:
    """What came of a case."""

    case: Case
    outcome: str
    reason: str | None
    evidence: dict[str, Any]
    wrong: tuple[str, ...]
    """What is not as it should be, one sentence each."""
    over_s: float
    """Wall time beyond that of a sound trial and the deadline, in s; below 0 if the trial ended before its end."""

    @property
    def late(self) -> bool:
        """Whether it ended too late on a machine that has nothing else to do."""
        return self.over_s > SLACK_S

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self))


ALL = tuple(c for c in itertools.starmap(Case, itertools.product(EXPECTED, PHASES, ("one", "all"))) if c.possible)
COVERING = tuple(
    Case(*words.split())
    for words in (
        *("fail build one", "fail teardown all", "leave first one", "leave teardown all", "kill last all"),
        *("terminate middle one", "loop middle one", "block middle all", "ignore_sigterm last one"),
        *("block teardown one", "loop build one"),
        *(
            "allocate first one",
            "allocate_all middle all",
            "nan last one",
            "wrong_gradient middle one",
            "wrong_gradient last one",
        ),
        *("leak build all", "child middle all", "daemon teardown one", "daemon first all", "flood middle one"),
        *("garbage first one", "close_events middle one", "close_output build all"),
    )
)
"""Every fault, every phase, one rank and all, but not every combination."""


def run(cases: Iterable[Case], laboratory: Laboratory) -> Iterator[Seen]:
    """Run each case and after it a trial without a fault, which must be sound."""
    sound_s = min(_sound(laboratory)[0] for _ in range(2))
    for case in cases:
        before, memory = _processes(), _held()
        begin = time.monotonic()
        row = laboratory.run(_settings(case), _workload(), **_changes(case))
        wall_s = time.monotonic() - begin
        over_s = wall_s - case.allowed_s - (0.0 if case.allowed_s == START_S else sound_s)
        wrong = [*_wrong(case, row), *_left(before, memory)]
        after = _sound(laboratory)[1]
        if after["outcome"] != "ok":
            wrong.append(f"the sound trial after it ended with {after['outcome']}: {after['outcome_reason']}")
        evidence = json.loads(row["evidence"] or "{}")
        yield Seen(case, str(row["outcome"]), row["outcome_reason"], evidence, tuple(wrong), over_s)


def _wrong(case: Case, row: dict[str, Any]) -> Iterator[str]:
    if row["outcome"] != case.expected:
        yield f"{case.expected} is right, but it is {row['outcome']}: {row['outcome_reason']}"
    elif case.expected == "ok":
        if row["evidence"] is not None:
            yield "an ok trial needs no evidence"
    elif case.expected != "numerics":
        phase = "teardown" if case.expected == "nan" else REACHED[case.phase]
        if row["failed_phase"] != phase and not (case.fault == "close_events" and case.phase == "last"):
            yield f"it failed in {case.phase}, but {row['failed_phase']} is recorded"
        if case.ranks == "one" and case.expected != "hang" and row["failed_rank"] != 1:
            yield f"rank 1 failed, but {row['failed_rank']} is recorded"
    if case.expected == "hang":
        stacks = [rank.get("stacks", "") for rank in json.loads(row["evidence"])["ranks"]]
        if not all(re.search(r'File ".*", line \d+ in ', text) for text in stacks):
            yield "a rank's stack is missing"


def _left(before: set[int], memory: int) -> Iterator[str]:
    for pid in _processes() - before:
        yield f"process {pid} is left"
    if _held() - memory > BACK:
        yield f"{_held() - memory} B of memory are not back"


def _settings(case: Case) -> dict[str, Any]:
    fault = "allocate" if case.fault == "allocate_all" else case.fault
    return {**PLAN, "fault": fault, "fault_phase": case.phase, "fault_ranks": case.ranks}


def _changes(case: Case) -> dict[str, Any]:
    from harness.launchers.job import Deadlines
    from harness.machine.cgroups import available_bytes

    changes: dict[str, Any] = {"deadlines": Deadlines(start=START_S, step=STEP_S)}
    if case.fault == "allocate":
        changes["memory_limit"] = LIMIT
        changes["deadlines"] = Deadlines(start=60.0, step=60.0)
    if case.fault == "allocate_all":
        changes["memory_floor"] = available_bytes() - ROOM
        changes["deadlines"] = Deadlines(start=60.0, step=60.0)
    if case.fault == "flood":
        changes["deadlines"] = Deadlines(start=60.0, step=60.0)
    return changes


def _sound(laboratory: Laboratory) -> tuple[float, dict[str, Any]]:
    begin = time.monotonic()
    row = laboratory.run(PLAN, _workload())
    return time.monotonic() - begin, row


def _workload() -> Any:
    from tests.tiny import gpt

    return gpt()


def _held() -> int:
    """Bytes that shared memory and the fork server hold, and what else is left of it; other processes come and go."""
    import psutil

    shared = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Shmem:"))
    return (int(shared.split()[1]) << 10) + sum(psutil.Process(pid).memory_info().rss for pid in _processes())


def _processes() -> set[int]:
    """Every process that was started by this one's fork server, wherever it hangs by now; zombies apart."""
    import psutil

    from harness.launchers.local import MARK

    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            marked = "=".join(MARK).encode() in path.read_bytes()
            if marked and psutil.Process(int(path.parent.name)).status() != psutil.STATUS_ZOMBIE:
                found.add(int(path.parent.name))
        except (OSError, psutil.Error):  # it ended meanwhile, or is not ours
            continue
    return found
