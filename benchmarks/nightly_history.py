"""How long the judge takes over ten years of nights and 200 metrics. Goal: under 10 s.

The nights are invented: 3,650 files, fifty plans with four metrics each, three launches. A fresh process reads them all
and judges one more night, in which one metric is 8 % worse and is confirmed.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path

import common

NIGHTS, PLANS = 3650, 50
METRICS = ("step_time_s", "setup_s", "tokens_per_s", "energy_j")


def made(number: int, suite, rng: random.Random):
    """One invented night."""
    from harness.nightly.history import SCREEN, Night, Session

    values = {
        plan: {metric: [rng.lognormvariate(0, 0.02) for _ in range(3)] for metric in METRICS} for plan in suite.plans
    }
    session = Session(purpose=SCREEN, canary={"product_s": rng.lognormvariate(-5, 0.003)}, values=values)
    verdicts = [{"plan": plan, "metric": metric, "verdict": "PASS"} for plan in suite.plans for metric in METRICS]
    return Night(
        night=f"{2016 + number // 365:04}{1 + number % 365 // 31:02}{1 + number % 365 % 31:02}T010000Z-{number:04}",
        suite=suite.name,
        version=1,
        hardware_id="invented",
        identities={plan: suite.identity(plan) for plan in suite.plans},
        environment={"torch": "2.13"},
        sessions=[session],
        verdicts=verdicts,
        complete=True,
    )


def the_suite():
    """Fifty plans."""
    from harness.nightly.suite import Suite

    return Suite(
        name="long", plans={f"plan-{number}": {"bucket_mb": number} for number in range(PLANS)}, metrics=METRICS
    )


def judged(root: Path) -> None:
    """In a fresh process: read and judge."""
    begin = time.perf_counter()
    from harness.nightly.history import CONFIRM, History, Session
    from harness.nightly.judge import judge

    suite, rng = the_suite(), random.Random(1)
    nights = History(root, suite.name, "invented").nights()
    read = time.perf_counter()
    tonight = made(NIGHTS, suite, rng)
    tonight.sessions[0].values["plan-7"]["step_time_s"] = [1.08] * 3

    def measure(names):
        def value(plan: str, metric: str) -> float:
            return rng.lognormvariate(0.077 if (plan, metric) == ("plan-7", "step_time_s") else 0.0, 0.02)

        return [
            Session(purpose=CONFIRM, values={p: {m: [value(p, m)] for m in METRICS} for p in names})
            for _ in range(suite.sessions)
        ]

    found = judge(suite, nights, tonight, (), measure)
    done = time.perf_counter()
    confirmed = sum(finding.verdict == "CONFIRMED" for finding in found)
    print(json.dumps({"nights": len(nights), "read_s": read - begin, "judge_s": done - read, "confirmed": confirmed}))


def main() -> None:
    """Make the history, judge it, print the table."""
    given = common.arguments(__doc__, judge="")
    if given.judge:
        judged(Path(given.judge))
        return
    from harness.nightly.history import History

    with tempfile.TemporaryDirectory() as folder:
        suite, rng = the_suite(), random.Random(0)
        history = History(Path(folder), suite.name, "invented")
        for number in range(NIGHTS):
            history.write(made(number, suite, rng))
        found = common.measure([str(common.HERE / "nightly_history.py"), "--judge", folder])
    if found["nights"] != NIGHTS:
        sys.exit("not every night was read")
    row = [
        f"{NIGHTS:,}",
        str(PLANS * len(METRICS)),
        *(f"{found[name]:.1f}" for name in ("read_s", "judge_s", "wall_s")),
    ]
    header = ("nights", "metrics", "imports and reading s", "judging s", "whole process s")
    common.print_table(header, [[*row]], f"Confirmed: {found['confirmed']} (one was planted).")


if __name__ == "__main__":
    main()
