"""Does the same sweep name the same winner when it is run again?

The same command is run again and again. Neighbouring runs are a pair: they agree if they name the same winner, or if
one of them says that the other's winner is tied with its own.

Goal: at least 19 of 20 pairs agree.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import pairwise

import common

OPTIONS = "--strategies ddp,zero1,zero2,precision --trials 10 --measure 1s"


def swept(name: str, folder: str, options: list[str]) -> tuple[str, frozenset[str], str]:
    """(plan_id of the winner, those that are tied with it, its name) of one sweep."""
    from harness.report.sweep_view import SweepView
    from harness.store.store import Store

    command = [sys.executable, "-m", "harness", "sweep", "--name", name, "--json", *options]
    done = subprocess.run(command, cwd=folder, env=common.environment(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    view = SweepView.read(Store(f"{folder}/results"), answer["hardware_id"], name)
    return view.winner["plan_id"], frozenset(row["plan_id"] for row in view.ties), view.label(view.winner)


def main() -> None:
    """Sweep again and again, compare, print the table."""
    given = common.arguments(__doc__, pairs=20, options=OPTIONS)
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for number in range(given.pairs + 1):
            runs.append(swept(f"run-{number}", folder, shlex.split(given.options)))
            print(f"\r{number + 1}/{given.pairs + 1} {runs[-1][2]:60.60}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    same = sum(a[0] == b[0] for a, b in pairwise(runs))
    tied = sum(a[0] != b[0] and (a[0] in b[1] or b[0] in a[1]) for a, b in pairwise(runs))
    rows = [[str(same), str(tied), str(given.pairs - same - tied), f"{same + tied} of {given.pairs}"]]
    names = Counter(name for *_, name in runs)
    won = "; ".join(f"{name}: {count}" for name, count in names.most_common())
    note = f"`python -m harness sweep {given.options}`, {len(runs)} times. Winners: {won}."
    common.print_table(("the same winner", "said to be tied", "differ", "agree"), rows, note)


if __name__ == "__main__":
    main()
