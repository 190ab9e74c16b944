"""Does a sweep over a script's knobs name the winner that every plan launched names, in half the launches?

    python benchmarks/script_winner.py [--example nano_gpt] [--seeds 3] [--measure 2.5s]

First every plan of the example's grid is launched, then as many guided sweeps as there are seeds have half as many
launches. Regret is how much slower the grid found the plan that a guided sweep names than its own winner; the spread
is what two launches of one plan differ by, the two of the grid's baseline. Goal: a regret within the spread.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

HEADER = ("sweep", "launches", "winner", "its rate in the grid, samples/s", "regret", "wall s")


def sweep(folder: Path, results: Path, *options: str) -> dict[str, Any]:
    """What a sweep answers."""
    where = ["--results", str(results), "--reports", str(results / "reports"), "--relaunches", "0", "--json"]
    command = [sys.executable, "-m", "harness", "sweep", "--knobs", "knobs.toml", *where, *options]
    done = subprocess.run(command, cwd=folder, env=common.environment(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> None:
    from harness.scripts.knobs_file import read
    from harness.store.store import Store
    from harness.sweeps.script_space import ScriptSpace

    asked = common.arguments(__doc__, example="nano_gpt", seeds=3, measure="2.5s")
    folder = common.HERE.parent / "examples" / asked.example
    plans = list(ScriptSpace(read(folder / "knobs.toml")).grid())
    rows = []
    with tempfile.TemporaryDirectory() as made:
        grid = sweep(folder, Path(made, "grid"), "--sampler", "grid", "--measure", asked.measure, "--trials", "1000")
        known = Store(Path(made, "grid")).rows()
        rates = {row["plan_id"]: row["tokens_per_s"] for row in known if row["tokens_per_s"]}
        first, second = (row["tokens_per_s"] for row in known if row["role"] == "baseline")
        best = max(rates.values())
        answers = [("every plan", grid, Path(made, "grid"))]
        for seed in range(asked.seeds):
            results = Path(made, str(seed))
            options = ("--seed", str(seed), "--trials", str(len(plans) // 2), "--measure", asked.measure)
            answers.append((f"guided, seed {seed}", sweep(folder, results, *options), results))
        for name, answer, results in answers:
            winner = answer["winner"]
            wall = sum(
                sum(row[phase] or 0.0 for phase in ("launch_s", "setup_s", "warmup_s", "measure_s", "teardown_s"))
                for row in Store(results).rows()
            )
            chosen = " ".join(f"{k}={v}" for k, v in json.loads(winner["knobs"]).items())
            rate = rates[winner["plan_id"]]
            rows.append((name, str(answer["trials"]), chosen, f"{rate:,.1f}", f"{1 - rate / best:.1%}", f"{wall:.0f}"))
    differ = f"{len(plans)} plans; two launches of the baseline differ by {abs(first / second - 1):.1%}."
    common.print_table(HEADER, rows, differ)


if __name__ == "__main__":
    main()
