"""Share of recorded sweeps' wall time that was spent in training steps. Goal: at least 80 % in a default sweep.

    python benchmarks/sweep_share.py NAME... [--results DIR]

Reads only. The rest is split into what the trials' phases say; what no phase covers is the parent's own: checks,
search, records and the report.
"""

from __future__ import annotations

import argparse
import sys

import common

PHASES = ("launch_s", "setup_s", "warmup_s", "measure_s", "teardown_s")


def main() -> None:
    """Print one row for each sweep."""
    from harness.store.store import Store

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--results", default="results", metavar="DIR")
    given = parser.parse_args()
    store = Store(given.results)
    places = [(hardware, name) for hardware, name in store.sweeps() if name in given.names]
    if missing := set(given.names) - {name for _, name in places}:
        sys.exit(f"{given.results} has no sweep {', '.join(sorted(missing))}; it has {store.sweeps()}")
    rows = []
    for hardware, name in places:
        info, trials = store.sweep_info(hardware, name), store.trials(name, hardware)
        wall, training = float(info["wall_s"]), float(info["training_s"])
        launched = trials[trials["launch_s"].notna()]
        phases = [f"{float(launched[phase].sum()):.1f}" for phase in PHASES]
        numbers = [f"{len(launched)}", f"{wall:.1f}", f"{training:.1f}", *phases]
        rows.append([name, *numbers, f"{training / wall:.0%}"])
    names = [phase.removesuffix("_s") + " s" for phase in PHASES]
    header = ("sweep", "launched", "wall s", "training s", *names, "share")
    note = "Training s includes the steps of the reference, which is no trial. Goal: 80 %."
    common.print_table(header, rows, note)


if __name__ == "__main__":
    main()
