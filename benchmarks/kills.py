"""Is anything of a sweep lost when it is killed at a random moment, and taken up again?

A short sweep is started, hit at a random moment, and resumed, over and over under one name. Goal: 0 trials lost, 0
twice, 0 left running; journal and parquet readable after each hit, and the report builds.

--hit kill     SIGKILL to the sweep
--hit int      SIGINT: it must end within 5 s with exit status 130 and print how to resume, if it had begun
--hit term     SIGTERM, likewise
--hit server   SIGKILL to its fork server: the sweep itself must go on
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common

TINY = (
    "--workload",
    "gpt:blocks=2,width=64,heads=2",
    "--seq-len",
    "32",
    "--measure",
    "0.3s",
    "--sampler",
    "random",
    "--relaunches",
    "0",
)
NAME = "night"
LATEST_S = 9.0
"""A sweep is hit within this time of its start, or of the last hit to its server, in s."""
STOP_S = 5.0
"""How long a sweep may take to stop when asked to, in s."""


@dataclass
class Found:
    """What the hits did."""

    known: set[str] = field(default_factory=set)
    """Trials that stood in the store after an earlier hit."""
    lost: int = 0
    twice: int = 0
    running: list[int] = field(default_factory=list)
    """Trials that were under way at each hit."""
    wrong: list[str] = field(default_factory=list)
    stops_s: list[float] = field(default_factory=list)


def start(folder: Path, trials: int) -> subprocess.Popen[str]:
    """Start or resume the sweep."""
    command = [sys.executable, "-m", "harness", "sweep", *TINY, "--name", NAME, "--trials", str(trials)]
    environment = {**os.environ, "HARNESS_KILLS": str(folder)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def after(process: subprocess.Popen[str], seconds: float) -> None:
    """Let the sweep run for so long."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
    sys.exit(f"the sweep ended by itself with status {process.returncode}:\n{process.communicate()[0]}")


def left(folder: Path) -> Iterator[int]:
    """Processes of the sweep."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"HARNESS_KILLS={folder}\0".encode() in path.read_bytes():
                yield int(path.parent.name)
        except OSError:
            continue


def server(process: subprocess.Popen[str]) -> int | None:
    """The fork server of a sweep."""
    import psutil

    for child in psutil.Process(process.pid).children():
        try:
            if "forkserver" in " ".join(child.cmdline()):
                return int(child.pid)
        except psutil.Error:
            continue
    return None


def hit(process: subprocess.Popen[str], how: str, folder: Path, found: Found) -> None:
    """Hit the sweep and note how it took that."""
    number = {"kill": signal.SIGKILL, "int": signal.SIGINT, "term": signal.SIGTERM}[how]
    begin = time.monotonic()
    process.send_signal(number)
    out = process.communicate()[0]
    found.stops_s.append(time.monotonic() - begin)
    if how != "kill":
        if process.returncode != 130:
            found.wrong.append(f"exit status {process.returncode}: {out[-500:]}")
        begun = "searching" in out  # else nothing was started yet, and there is nothing to resume
        if begun and f"--name {NAME}" not in out:
            found.wrong.append(f"it does not say how to resume: {out[-500:]}")
        if found.stops_s[-1] > STOP_S:
            found.wrong.append(f"it took {found.stops_s[-1]:.1f} s to stop")
    end = time.monotonic() + STOP_S
    while (processes := list(left(folder))) and time.monotonic() < end:
        time.sleep(0.05)
    if processes:
        found.wrong.append(f"{len(processes)} processes are left")


def check(folder: Path, found: Found, *, running: bool = True) -> None:
    """Read everything as a user would, and compare with what was there before."""
    from harness import report
    from harness.store.store import Store

    store = Store(folder / "results")
    trials, steps = store.trials(NAME), store.steps(NAME)
    found.wrong += store.problems
    ids = set(trials["trial_id"])
    found.lost += len(found.known - ids)
    found.known |= ids
    # Final launches, and disturbed ones that were repeated, stand for no trial of the study.
    settled = trials[~trials["outcome"].isin(["interrupted", "preempted"]) & trials["study_trial"].notna()]
    found.twice += int(settled["plan_id"].duplicated().sum())
    ok = set(trials[trials["outcome"] == "ok"]["trial_id"])
    if bare := ok - set(steps["trial_id"]):
        found.wrong.append(f"{len(bare)} trials have no steps")
    states = journal(folder, found, ids=set(settled["trial_id"]), ended=not running)
    found.running.append(states.count("RUNNING"))
    if not running and states.count("RUNNING"):
        found.wrong.append(f"{states.count('RUNNING')} trials run for ever")
    for hardware_id, name in store.sweeps():
        report.build(store, hardware_id, name, folder / "reports")


def journal(folder: Path, found: Found, *, ids: set[str], ended: bool) -> list[str]:
    """State of each trial of the study, read from a copy of the journal."""
    from harness.errors import HarnessError
    from harness.search.study import open_study

    states: list[str] = []
    for path in folder.glob("results/studies/*/*.log"):
        copy = folder / "copy.log"
        shutil.copy(path, copy)
        try:
            trials: Any = open_study(copy, NAME, ["maximize"]).get_trials(deepcopy=False)
        except HarnessError as error:
            found.wrong.append(str(error))
            continue
        states += [trial.state.name for trial in trials]
        told = [t.user_attrs.get("trial_id") for t in trials if "repeats" not in t.user_attrs]
        if ended and (missing := ids - set(told)):
            found.wrong.append(f"{len(missing)} recorded trials are not in the study")
        found.twice += sum(told.count(each) - 1 for each in ids & set(told))
    return states


def kills(how: str, number: int, folder: Path, rng: random.Random) -> Found:
    """Hit a sweep, check, resume; at last let it end."""
    found = Found()
    for at in range(number):
        process = start(folder, trials=100_000)
        after(process, rng.uniform(1.0, LATEST_S))
        hit(process, how, folder, found)
        check(folder, found)
        print(f"{at + 1}/{number}: {len(found.known)} trials, {found.wrong}", file=sys.stderr)
    finish(folder, found)
    return found


def server_kills(number: int, folder: Path, rng: random.Random) -> Found:
    """Hit the fork server of one running sweep; at last stop the sweep, resume it and let it end."""
    found = Found()
    process, hits = start(folder, trials=100_000), 0
    while hits < number:
        after(process, rng.uniform(0.1, LATEST_S))
        pid = server(process)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            hits += 1
            print(f"{hits}/{number}", file=sys.stderr)
    after(process, LATEST_S)
    hit(process, "int", folder, found)
    check(folder, found)
    finish(folder, found)
    return found


def finish(folder: Path, found: Found) -> None:
    """Resume once more for two trials."""
    from harness.store.records import Outcome
    from harness.store.store import Store

    outcomes = list(Store(folder / "results").trials(NAME)["outcome"])
    launched = sum(o not in (Outcome.INFEASIBLE, Outcome.INTERRUPTED, Outcome.PREEMPTED) for o in outcomes)
    process = start(folder, trials=launched + 2)
    out = process.communicate()[0]
    if process.returncode:
        found.wrong.append(f"it cannot be finished: {out[-500:]}")
    check(folder, found, running=False)


def main() -> int:
    """Hit, check and print the table."""
    given = common.arguments(__doc__, kills=20, hit="kill", seed=0)
    sys.path.insert(0, str(common.HERE.parent))
    from harness.store.store import Store

    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many = server_kills(given.kills, folder, rng) if given.hit == "server" else None
        found = many or kills(given.hit, given.kills, folder, rng)
        outcomes = Store(folder / "results").trials(NAME)["outcome"].value_counts()
    row = [given.hit, given.kills, len(found.known), sum(n > 0 for n in found.running), found.lost, found.twice]
    stop = f"{max(found.stops_s):.1f} ({statistics.median(found.stops_s):.1f})" if given.hit in ("int", "term") else ""
    header = (
        "hit",
        "hits",
        "trials",
        "hits that left one running",
        "lost",
        "twice",
        "otherwise wrong",
        "slowest stop s (median)",
    )
    listed = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    common.print_table(header, [[*map(str, row), str(len(found.wrong)), stop]], f"Outcomes: {listed}.", *found.wrong)
    return 1 if found.lost or found.twice or found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
