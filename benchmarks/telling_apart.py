"""How often a difference between two plans is called: where there is none, and where one is 5 % slower.

One plan is launched many times in a row, each launch a fresh start as in the finals of a sweep. Launches that follow
each other are dealt out in turns to two sides (A B A B ...), which are then judged as a sweep judges two finalists
(harness.standings). No launch is used in two pairs of a row. For the second question the step times of one side are
taken 5 % longer than they were recorded.

Goals: at most 5 % of pairs called different where there is no difference; at least 95 % where there is one of 5 %.
"""

from __future__ import annotations

import sys
from typing import Any

import common

SLOWDOWN = 1.05


def launches(count: int, workload: str) -> list[dict[str, Any]]:
    """Rows of fresh launches of one plan."""
    from harness.config import SweepConfig
    from harness.records import Role

    rows = []
    with common.runner(workload) as (made, prepared):
        made.measurement = SweepConfig().measurement
        task = next(iter(prepared.workloads.values()))
        plan = prepared.plan({"data_parallel": "ddp", "micro_batch_size": 4, "precision": "bf16"})
        for number in range(1, count + 1):
            print(f"\r{number}/{count}", end="", file=sys.stderr, flush=True)
            result = made.run(plan, task, prepared.facts(task), role=Role.FINAL)
            if result.outcome != "ok":
                sys.exit(f"launch {number} ended with {result.outcome}: {result.row['outcome_reason']}")
        rows = made.store.rows()
    print(file=sys.stderr)
    return rows


def called(rows: list[dict[str, Any]], slowdown: float) -> bool:
    """Whether two sides, dealt from rows in turns, are told apart, and the slower one is the one that should be."""
    from harness.standings import standings

    sides = [[*rows[0::2]], [_slower(row, slowdown) for row in rows[1::2]]]
    known = standings([{**row, "plan_id": name} for name, side in zip("AB", sides, strict=True) for row in side])
    a, b = known.plans
    return not known.tied(a, b) and (slowdown == 1.0 or a.log_rate > b.log_rate)


def _slower(row: dict[str, Any], slowdown: float) -> dict[str, Any]:
    return {**row, "tokens_per_s": row["tokens_per_s"] / slowdown}


def main() -> None:
    """Launch, pair, print the table."""
    given = common.arguments(__doc__, launches=240, workload="gpt-nano")
    rows = launches(given.launches, given.workload)
    disturbed = sum(row["disturbed"] is not None for row in rows)
    table = []
    for each in (3, 5, 8, 12):
        blocks = [rows[at : at + 2 * each] for at in range(0, len(rows) - 2 * each + 1, 2 * each)]
        alike, slower = (sum(called(block, factor) for block in blocks) for factor in (1.0, SLOWDOWN))
        table.append([str(each), str(len(blocks)), f"{alike / len(blocks):.0%}", f"{slower / len(blocks):.0%}"])
    header = ("launches a side", "pairs", "called different, the same plan", "called slower, 5 % planted")
    common.print_table(header, table, f"{len(rows)} launches of one plan, {disturbed} of them flagged as disturbed.")


if __name__ == "__main__":
    main()
