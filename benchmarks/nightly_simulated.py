"""How often the nightly judge cries wolf, and how soon it hears of a slowdown: simulated nights, the real judge.

Each series has 90 nights of one metric of one plan. "noise": every session has 2 % of normal noise. "spikes": 5 % of
the sessions are 5 to 30 % slower besides. "drift": the machine's speed wanders as an AR(1) process (coefficient 0.95,
standard deviation 1 %) besides the noise; the canary, which runs on the same machine, wanders with it and has 0.5 % of
noise of its own. "drift, no canary": nothing is known of the canary. Fresh sessions of a suspicion share their night's
drift. The judge is harness.nightly.judge with the defaults of a suite.

Beside it, on the same series without their canaries: a fixed threshold of 5 % against the night before, a rolling
median of 14 nights with a threshold of 5 %, and Apache Otava with its defaults, where it is installed: over the whole
series once, and after each night. It pins a numpy of its own, so it goes into an environment of its own, without the
lock file: `python -m venv otava && otava/bin/pip install -e . apache-otava`, then run this with `otava/bin/python`.

Goals: at most 1 % of flat series with a CONFIRMED; a slowdown of 5 % confirmed within 3 nights in at least 95 %, one of
3 % within 7 nights in at least 80 %; a change dated within one night in at least 80 %.
"""

from __future__ import annotations

import importlib.util
import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import common

NIGHTS, BEGIN = 90, 40
OTAVA = importlib.util.find_spec("otava") is not None
KINDS = ("noise", "spikes", "drift", "drift, no canary")


@dataclass
class World:
    """One machine and one plan."""

    kind: str
    rng: random.Random
    drift: float = 0.0
    slower: float = 0.0
    """Logarithm of the planted slowdown."""
    drawn: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.drift = self.rng.gauss(0, 0.01) if self.kind.startswith("drift") else 0.0

    def next_night(self) -> None:
        """The machine wanders on."""
        if self.kind.startswith("drift"):
            self.drift = 0.95 * self.drift + self.rng.gauss(0, 0.01 * math.sqrt(1 - 0.95**2))

    def session(self, purpose: str):
        """What a session of this night sees."""
        from harness.nightly.history import Session

        value = self.drift + self.slower + self.rng.gauss(0, 0.02)
        if self.kind == "spikes" and self.rng.random() < 0.05:
            value += math.log1p(self.rng.uniform(0.05, 0.30))
        canary = (
            {} if self.kind.endswith("no canary") else {"product_s": math.exp(self.drift + self.rng.gauss(0, 0.005))}
        )
        return Session(purpose=purpose, canary=canary, values={"plan": {"step_time_s": [math.exp(value)]}})


def followed(kind: str, seed: int, shift: float, nights: int) -> tuple[list[int], list[str | None], list[float]]:
    """(nights with a CONFIRMED, what each of them dates the change to, the series) of one simulated series."""
    from harness.nightly.history import CONFIRM, SCREEN, Night
    from harness.nightly.judge import judge
    from harness.nightly.suite import Suite

    suite = Suite(name="simulated", plans={"plan": {}}, metrics=("step_time_s",))
    world, past, confirmed, dated, values = World(kind, random.Random(seed)), [], [], [], []
    for number in range(nights):
        world.next_night()
        if number == BEGIN and shift:
            world.slower = math.log1p(shift)
        tonight = Night(
            night=f"{number:04}",
            suite=suite.name,
            version=1,
            hardware_id="simulated",
            identities={"plan": suite.identity("plan")},
            environment={},
            sessions=[world.session(SCREEN)],
            complete=True,
        )
        values.append(tonight.sessions[0].values["plan"]["step_time_s"][0])
        (found,) = judge(
            suite, past, tonight, (), lambda names: [world.session(CONFIRM) for _ in range(suite.sessions)]
        )
        tonight.verdicts = [found.to_json()]
        past.append(tonight)
        if found.verdict == "CONFIRMED":
            confirmed.append(number)
            dated.append(found.since)
    return confirmed, dated, values


def threshold(values: Sequence[float]) -> bool:
    """Whether any night is more than 5 % slower than the one before."""
    return any(now > 1.05 * before for before, now in pairwise(values))


def rolling(values: Sequence[float]) -> bool:
    """Whether any night is more than 5 % above the median of the 14 before."""
    return any(values[at] > 1.05 * statistics.median(values[at - 14 : at]) for at in range(14, len(values)))


def otava(values: Sequence[float], begin: int = 0) -> bool:
    """Whether Apache Otava, with its default options, finds in the whole series a change for the worse, from night
    `begin` on."""
    from otava.analysis import compute_change_points
    from otava.series import AnalysisOptions

    options = AnalysisOptions()
    points, _ = compute_change_points(list(values), options.window_len, options.max_pvalue, options.min_magnitude)
    return any(point.index >= begin and point.stats.mean_2 > point.stats.mean_1 for point in points)


def otava_nightly(values: Sequence[float]) -> bool:
    """Whether it does in any night, run after each from the tenth on, as whoever watches would."""
    return any(otava(values[:end]) for end in range(10, len(values) + 1))


def otava_hears(values: Sequence[float]) -> bool:
    """Whether it finds the planted change, dated within a night, in a night since then."""
    return any(otava(values[:end], BEGIN - 1) for end in range(BEGIN + 1, len(values) + 1))


def others() -> dict[str, Callable[[Sequence[float]], bool]]:
    """The other ways to judge that are installed."""
    found: dict[str, Callable[[Sequence[float]], bool]] = {
        "5 % against last night": threshold,
        "rolling median": rolling,
    }
    if OTAVA:
        found |= {"Otava at the end": otava, "Otava every night": otava_nightly}
    return found


def share(hits: Sequence[bool]) -> str:
    """A rate as per cent."""
    return f"{sum(hits) / len(hits):.1%}"


def main() -> None:
    """Simulate and print both tables."""
    given = common.arguments(__doc__, series=300)
    beside = others()
    alarms, powers = [], []
    for kind in KINDS:
        print(f"\r{kind:30}", end="", file=sys.stderr, flush=True)
        flat = [followed(kind, seed, 0.0, NIGHTS) for seed in range(given.series)]
        alarms.append(
            [kind, share([bool(c) for c, *_ in flat]), *(share([f(v) for *_, v in flat]) for f in beside.values())]
        )
        line = [kind]
        for shift, within in ((0.05, 3), (0.03, 7)):
            runs = [followed(kind, 10_000 + seed, shift, BEGIN + within) for seed in range(given.series)]
            line.append(share([any(at >= BEGIN for at in confirmed) for confirmed, *_ in runs]))
            if OTAVA:
                line.append(share([otava_hears(values) for *_, values in runs]))
        lasting = [followed(kind, 20_000 + seed, 0.10, BEGIN + 30) for seed in range(given.series)]
        line.append(share([bool(c) and c[-1] == BEGIN + 29 for c, *_ in lasting]))
        dates = [d[-1] for _, d, _ in lasting if d]
        line.append(share([date is not None and abs(int(date) - BEGIN) <= 1 for date in dates]))
        powers.append(line)
    print(file=sys.stderr)
    note = f"{given.series} series of {NIGHTS} nights of each kind; share of flat series with at least one alarm."
    common.print_table(("flat series", "CONFIRMED", *beside), alarms, note)
    header = ["series"]
    for size in ("5 % within 3 nights", "3 % within 7 nights"):
        header += [size, "the same, Otava"] if OTAVA else [size]
    header += ["10 % reported on night 30", "dated within one night"]
    common.print_table(header, powers, f"{given.series} series of each kind; the change begins in night {BEGIN}.")


if __name__ == "__main__":
    main()
