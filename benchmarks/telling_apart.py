"""How often a difference between two plans is called: where there is none, and where one is 5 % slower.

One plan is launched many times in a row, each launch a fresh start as in the finals of a sweep. Launches that follow
each other are dealt out to two sides as a sweep deals them (A B, B A, A B, ...), and the rounds go on as a sweep's do:
at least three, until the two are surely apart, a difference of 5 % would be seen or more rounds would not help, at most
twelve (harness.sweeps.finals, harness.store.standings). For the second question the step times of one side are taken
5 % longer than they were recorded.

"pairs" begin where the last one ended, so they share no launch. "of 200" begin at 200 places spread evenly over the
launches: they overlap, and so say the same rate with less luck, not with more independence.

Goals: at most 5 % called different where there is no difference; at least 95 % called where there is one of 5 %.
"""

from __future__ import annotations

import sys
from typing import Any

import common

SLOWDOWN = 1.05
OVERLAPPING = 200


def launches(count: int, workload: str) -> list[dict[str, Any]]:
    """Rows of fresh launches of one plan."""
    from harness.store.records import Role
    from harness.sweeps.config import SweepConfig
    from harness.trial.recorder import Launched

    rows = []
    with common.runner(workload) as (made, prepared):
        made.measurement = SweepConfig().measurement
        task = next(iter(prepared.workloads.values()))
        plan = prepared.plan({"data_parallel": "ddp", "micro_batch_size": 4, "precision": "bf16"})
        for number in range(1, count + 1):
            print(f"\r{number}/{count}", end="", file=sys.stderr, flush=True)
            for _ in range(2):  # a sweep repeats a disturbed launch once
                result = made.run(plan, task, prepared.facts(task), Launched(role=Role.FINAL))
                if result.outcome != "ok":
                    sys.exit(f"launch {number} ended with {result.outcome}: {result.row['outcome_reason']}")
                if result.row["disturbed"] is None:
                    break
            rows.append(result.row)
    print(file=sys.stderr)
    return rows


def compared(rows: list[dict[str, Any]], slowdown: float) -> tuple[bool, int] | None:
    """Whether two sides dealt from rows are told apart (the slower one as slower), and the rounds it took.

    None if there are not rows enough.
    """
    from harness.store.standings import standings
    from harness.sweeps import finals
    from harness.sweeps.config import SweepConfig

    config, dealt = SweepConfig(), []
    rules = finals.Rules(
        objective="throughput",
        finalists=2,
        least=config.least_rounds,
        resolution=config.resolution_share,
        ceiling=None,
    )
    for number in range(1, len(rows) // 2 + 1):
        pair = rows[2 * number - 2 : 2 * number]
        first, second = pair if number % 2 else pair[::-1]
        slower = {**second, "tokens_per_s": second["tokens_per_s"] / slowdown}
        dealt += [{**first, "plan_id": "A", "round": number}, {**slower, "plan_id": "B", "round": number}]
        if not finals.decide(dealt[:2], dealt, number, rules).plans:
            known = standings(dealt)
            a, b = known.plans
            return not known.tied(a, b) and (slowdown == 1.0 or a.log_rate > b.log_rate), number
    return None


def tally(rows: list[dict[str, Any]], slowdown: float) -> tuple[str, str, float]:
    """(share of pairs called, share of 200 overlapping ones called, mean rounds)."""
    apart, at = [], 0
    while (found := compared(rows[at:], slowdown)) is not None:
        apart.append(found)
        at += 2 * found[1]
    starts = [number * len(rows) // OVERLAPPING for number in range(OVERLAPPING)]
    spread = [found for start in starts if (found := compared(rows[start:], slowdown)) is not None]
    rounds = sum(number for _, number in apart) / len(apart)
    return _share(apart), _share(spread), rounds


def _share(found: list[tuple[bool, int]]) -> str:
    called = sum(apart for apart, _ in found)
    return f"{called} of {len(found)} ({called / len(found):.1%})"


def main() -> None:
    """Launch, pair, print the table."""
    given = common.arguments(__doc__, launches=720, workload="gpt-nano")
    rows = launches(given.launches, given.workload)
    disturbed = sum(row["disturbed"] is not None for row in rows)
    table = []
    for name, factor in (("the same plan", 1.0), ("5 % slower", SLOWDOWN)):
        pairs, overlapping, rounds = tally(rows, factor)
        table.append([name, pairs, overlapping, f"{rounds:.1f}"])
    header = ("the other side", "pairs called different", "of 200 that overlap", "rounds")
    common.print_table(header, table, f"{len(rows)} launches of one plan, {disturbed} of them flagged as disturbed.")


if __name__ == "__main__":
    main()
