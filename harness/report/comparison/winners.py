"""Which plan wins where, in units that places of unequal power can be compared by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.labels import kind
from harness.report import format as fmt
from harness.report.comparison.comparison_view import Contest, Entry
from harness.report.panels.panel import Fragment


@dataclass(frozen=True)
class Winner:
    """One place."""

    place: str
    hardware_id: str
    plan: str
    kind: str
    ties: int
    """Plans that cannot be told apart from it."""
    tokens_per_s: float
    low: float | None
    high: float | None
    step_time_s: float | None
    peak_memory_bytes: float | None
    mfu: float | None
    bandwidth: float | None
    """Share of the measured copy bandwidth that reading and writing the model's state once a step takes: a lower bound
    of what the plan uses."""
    against_ddp: float | None
    """Speed over that of the best ddp plan of the place."""
    price: float | None
    """Of 10^9 tokens, in the unit of the price list."""
    tokens_per_j: float | None
    predicted_step_time_s: float | None
    plans: int
    """That were ranked."""


@dataclass(frozen=True)
class Winners:
    """A line for each place."""

    lines: tuple[Winner, ...]
    unit: str
    reading: str


@dataclass(frozen=True)
class Column:
    """One column of the table; it is left out where no place has a value."""

    name: str
    unit: str
    value: Callable[[Winner], float | None]
    show: Callable[[float | None], str]
    meaning: str


COLUMNS: tuple[Column, ...] = (
    Column("step time", "ms", lambda w: _scaled(w.step_time_s, 1e3), fmt.significant, "median, slowest rank"),
    Column("predicted", "ms", lambda w: _scaled(w.predicted_step_time_s, 1e3), fmt.significant, "before the launch"),
    Column("against ddp", "", lambda w: w.against_ddp, fmt.times, "speed over that of the best ddp plan there"),
    Column("peak memory", "MiB", lambda w: _scaled(w.peak_memory_bytes, 2**-20), fmt.significant, "of the worst rank"),
    Column("MFU", "%", lambda w: _scaled(w.mfu, 100), fmt.significant, "model FLOPs utilisation"),
    Column(
        "bandwidth",
        "%",
        lambda w: _scaled(w.bandwidth, 100),
        fmt.significant,
        "of the measured copy rate, by reading and writing the model's state once a step: a lower bound",
    ),
    Column("price", "of 10⁹", lambda w: w.price, fmt.significant, "of a thousand million tokens, by the price list"),
    Column("energy", "per J", lambda w: w.tokens_per_j, fmt.significant, "tokens for a joule"),
)


def data(contest: Contest) -> Winners:
    """The winner of each place."""
    lines = tuple(_line(contest, entry) for entry in contest.entries)
    return Winners(lines, contest.unit, _reading(lines))


def draw(winners: Winners) -> Fragment:
    """A table."""
    columns = [c for c in COLUMNS if any(c.value(line) is not None for line in winners.lines)]
    return Fragment(template="winners.html", reading=winners.reading, context={"winners": winners, "columns": columns})


def _line(contest: Contest, entry: Entry) -> Winner:
    row = entry.winner.row
    ddp = entry.best().get("ddp")
    hourly = contest.prices.get(entry.place.hardware_id)
    return Winner(
        place=contest.place_names[entry.place],
        hardware_id=entry.place.hardware_id,
        plan=contest.plan_names[row["plan_id"]],
        kind=kind(row),
        ties=len(entry.ties),
        tokens_per_s=row["tokens_per_s"],
        low=row["tokens_per_s_low"],
        high=row["tokens_per_s_high"],
        step_time_s=row["step_time_s"],
        peak_memory_bytes=row["peak_memory_bytes"],
        mfu=row["mfu"],
        bandwidth=_bandwidth(contest, entry),
        against_ddp=row["tokens_per_s"] / ddp.row["tokens_per_s"] if ddp else None,
        price=None if hourly is None else hourly / 3600 / row["tokens_per_s"] * 1e9,
        tokens_per_j=row["tokens_per_j"],
        predicted_step_time_s=row["predicted_step_time_s"],
        plans=len(entry.plans),
    )


def _bandwidth(contest: Contest, entry: Entry) -> float | None:
    row, rate = entry.winner.row, contest.fact(entry.place, "copy_bytes_per_s")
    parts = [row[f"memory_{name}_bytes"] for name in ("params", "grads_held", "optimizer")]
    if rate is None or None in parts or not row["step_time_s"]:
        return None
    # On a CPU the ranks share one memory; each device has its own.
    sharing = row["world_size"] if entry.place.hardware_id.startswith("cpu-") else 1
    return float(2 * sum(parts) * sharing / row["step_time_s"] / rate)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _reading(lines: tuple[Winner, ...]) -> str:
    kinds = {line.kind for line in lines}
    if len(lines) == 1:
        return f"Only one place ran this workload; {lines[0].plan} is fastest there."
    fastest, slowest = max(lines, key=lambda w: w.tokens_per_s), min(lines, key=lambda w: w.tokens_per_s)
    ratio = fmt.times(fastest.tokens_per_s / slowest.tokens_per_s)
    where = f"{fastest.place} is {ratio} as fast as {slowest.place}, each with its own best plan"
    if len(kinds) == 1:
        return f"A {kinds.pop()} plan wins in each of the {len(lines)} places; {where}."
    return f"Different strategies win in different places: {fmt.listed(sorted(kinds))}; {where}."
