"""The nightly run live on this machine: nothing changes, one strategy becomes 8 % slower, the whole machine is loaded.

Nights of a suite of two plans (ddp, zero2), each a run of the command. First the baseline, then nights in which nothing
changes, then nights in which a plugin makes every step of zero2 take 8 % longer, then nights in which another program
loads both cores. The plugin is a package of its own (harness.strategies entry point) that looks for a file.

Goals: 0 CONFIRMED in 20 nights of no change; CONFIRMED for zero2 and nothing else in 10 of 10; none under load.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import common

SUITE = """name = "live"
launches = 3
steps = 16
sessions = 8
baseline_nights = 30
metrics = ["step_time_s", "peak_memory_bytes", "loss_last"]
[plans.ddp]
data_parallel = "ddp"
micro_batch_size = 4
[plans.zero2]
data_parallel = "zero2"
micro_batch_size = 4
"""
PLUGIN = """
import os
import time

from strategies import Slot, Strategy


class Slow(Strategy):
    name = "slow"
    slot = Slot.EXTRA
    summary = "every step of zero2 takes 8 % longer"
    knobs = ()

    def active(self, plan):
        return plan["data_parallel"] == "zero2" and os.path.exists(os.environ["SLOW_FLAG"])

    def showcases(self, facts):
        return []

    def apply(self, training):
        pass

    def finish(self, training):
        engine, last = training.engine, time.perf_counter()
        finish = engine.finish_gradients

        def slower():
            nonlocal last
            finish()
            end = last + 1.08 * (time.perf_counter() - last)
            while time.perf_counter() < end:
                pass
            last = time.perf_counter()

        engine.finish_gradients = slower
"""
METADATA = "Metadata-Version: 2.1\nName: slow-plugin\nVersion: 1.0\n"
ENTRY = "[harness.strategies]\nslow = slow_plugin:Slow\n"
LOAD = "while True: sum(range(10000))"


class Live:
    """A folder with a suite, a plugin and a history."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.flag = folder, folder / "slow"
        (folder / "suite.toml").write_text(SUITE)
        plugin = folder / "plugin"
        info = plugin / "slow_plugin-1.0.dist-info"
        info.mkdir(parents=True)
        (plugin / "slow_plugin.py").write_text(PLUGIN)
        (info / "METADATA").write_text(METADATA)
        (info / "entry_points.txt").write_text(ENTRY)
        path = common.environment()["PYTHONPATH"]
        self.environment = {
            **common.environment(),
            "PYTHONPATH": os.pathsep.join((str(plugin), path)),
            "SLOW_FLAG": str(self.flag),
        }

    def night(self) -> dict[tuple[str, str], str]:
        """(plan, metric) -> verdict of one night."""
        command = [sys.executable, "-m", "harness", "nightly", "run", "suite.toml", "--format", "json"]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            sys.exit(f"a night ended with {done.returncode}:\n{done.stderr[-2000:]}")
        found = json.loads(done.stdout)["findings"]
        return {(finding["plan"], finding["metric"]): finding["verdict"] for finding in found}

    def forget(self) -> None:
        """Remove the last night, so that the next one is judged as if it had not been."""
        sorted(self.folder.glob("results/nightly/live/*/*.json"))[-1].unlink()


@contextlib.contextmanager
def loaded() -> Iterator[None]:
    """Both cores busy with another program."""
    programs = [subprocess.Popen([sys.executable, "-c", LOAD]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def said(nights: list[dict[tuple[str, str], str]]) -> str:
    """Verdicts with their numbers."""
    counts = Counter(verdict for night in nights for verdict in night.values())
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


def main() -> None:
    """Run the nights, print the table."""
    given = common.arguments(__doc__, baseline=12, flat=20, slow=10, load=3)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        live = Live(Path(name))
        for number in range(given.baseline):
            print(f"\rbaseline {number + 1}/{given.baseline}", end="", file=sys.stderr, flush=True)
            live.night()
        flat = []
        for number in range(given.flat):
            print(f"\rflat {number + 1}/{given.flat}     ", end="", file=sys.stderr, flush=True)
            flat.append(live.night())
        wrong = sum("CONFIRMED" in night.values() for night in flat)
        rows.append(["nothing changes", str(len(flat)), f"{wrong} with a CONFIRMED", said(flat)])
        live.flag.touch()
        slow = []
        for number in range(given.slow):
            print(f"\rslow {number + 1}/{given.slow}     ", end="", file=sys.stderr, flush=True)
            slow.append(live.night())
            live.forget()
        live.flag.unlink()
        right = sum(
            [key for key, v in night.items() if v == "CONFIRMED"] == [("zero2", "step_time_s")] for night in slow
        )
        rows.append(["zero2 8 % slower", str(len(slow)), f"{right} CONFIRMED for zero2 alone", said(slow)])
        under = []
        for number in range(given.load):
            print(f"\rload {number + 1}/{given.load}     ", end="", file=sys.stderr, flush=True)
            with loaded():
                under.append(live.night())
            live.forget()
        times = [night[plan, "step_time_s"] for night in under for plan in ("ddp", "zero2")]
        rows.append(["both cores loaded", str(len(under)), f"{times.count('CONFIRMED')} times CONFIRMED", said(under)])
    print(file=sys.stderr)
    common.print_table(("nights", "number", "result", "verdicts"), rows, f"{given.baseline} nights of baseline before.")


if __name__ == "__main__":
    main()
