"""Is every way in which a rank can go wrong told apart, in time, with nothing of it left?

Goal: 100 % of the faults classified right, each trial over at most 5 s after its deadline, no process left, its memory
back, and a sound trial after it ok. The faults come from the strategy in tests/faults, through its entry point; each
happens at each moment of a trial, on one rank of two and on both. Exit status 1 if one is not as it should be.

--covering runs some of them; --match WORD those whose words "fault phase ranks" contain it; --json FILE also writes
what was seen, one JSON object a line.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import common

if TYPE_CHECKING:
    from tests.faults.matrix import Seen

ROOT = common.HERE.parent


def main() -> int:
    """Run the cases and print the table."""
    given = common.arguments(__doc__, covering=False, match="", json="")
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]
    from harness import launchers
    from harness.launchers.job import Measurement
    from harness.rank import PRELOAD
    from harness.sweeps.references import REFERENCE_STEPS
    from tests.faults import matrix
    from tests.tiny import Laboratory

    cases = matrix.COVERING if given.covering else matrix.ALL
    chosen = [case for case in cases if given.match in f"{case.fault} {case.phase} {case.ranks}"]
    seen = []
    with tempfile.TemporaryDirectory() as folder, launchers.create("local", (*PRELOAD, "tests.tiny")) as launcher:
        laboratory = Laboratory(launcher, Path(folder), REFERENCE_STEPS)
        laboratory.runner.measurement = Measurement(warmup_steps=4, min_steps=5, max_steps=5)
        for each in matrix.run(chosen, laboratory):
            seen.append(each)
            if given.json:
                with Path(given.json).open("a", encoding="utf-8") as file:
                    file.write(each.to_json() + "\n")
            if each.wrong:
                print(f"{each.case}: {'; '.join(each.wrong)}", file=sys.stderr)
    rows = [
        [s.case.fault, s.case.phase, s.case.ranks, s.case.expected, s.outcome, _right(s), _s(s.over_s)] for s in seen
    ]
    header = ("fault", "phase", "ranks", "expected", "outcome", "right", "s over the deadline")
    right = sum(_right(s) == "yes" for s in seen)
    share = f"{right} of {len(seen)} are right, {100 * right / len(seen):.1f} %; goal 100 %."
    common.print_table(header, rows, f"{share} The latest ended {max(s.over_s for s in seen):.1f} s over; goal 5 s.")
    return 0 if right == len(seen) else 1


def _right(seen: Seen) -> str:
    return "no" if seen.wrong or seen.late else "yes"


def _s(seconds: float) -> str:
    return f"{seconds:.1f}"


if __name__ == "__main__":
    sys.exit(main())
