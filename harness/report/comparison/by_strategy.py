"""How near the best plan of each strategy comes to the winner, place by place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.report import format as fmt
from harness.report.comparison.comparison_view import Contest
from harness.report.comparison.heatmap import heatmap
from harness.report.panels.panel import Chart, Table


@dataclass(frozen=True)
class Strategies:
    """Strategies against places."""

    kinds: tuple[str, ...]
    places: tuple[str, ...]
    shares: Mapping[tuple[str, str], float]
    """(kind, place) -> speed of its best plan over that of the winner of the place; absent where none succeeded."""
    reading: str


def data(contest: Contest) -> Strategies | None:
    """Shares of the winners' speed; None with a single strategy."""
    if len(contest.kinds) < 2:
        return None
    shares = {}
    for entry in contest.entries:
        place = contest.place_names[entry.place]
        best = entry.winner.row["tokens_per_s"]
        for name, plan in entry.best().items():
            shares[name, place] = plan.row["tokens_per_s"] / best
    places = tuple(contest.place_names[entry.place] for entry in contest.entries)
    return Strategies(contest.kinds, places, shares, _reading(contest.kinds, places, shares))


def draw(strategies: Strategies) -> Chart:
    """A field for each strategy and place, the darker the nearer to the winner."""
    cells = {
        (name, place): (share, fmt.percent(share), f"{fmt.percent(share)} of the winner's speed")
        for (name, place), share in strategies.shares.items()
    }
    return Chart(
        figure=heatmap(strategies.kinds, strategies.places, cells, low=0.0, high=1.0, colour="var(--good)"),
        reading=strategies.reading,
        table=Table(
            columns=("strategy", "where", "share of the winner's speed"),
            rows=tuple((name, place, share) for (name, place), share in strategies.shares.items()),
        ),
    )


def _reading(kinds: tuple[str, ...], places: tuple[str, ...], shares: Mapping[tuple[str, str], float]) -> str:
    safe = {name: min(shares.get((name, place), 0.0) for place in places) for name in kinds}
    steady = max(safe, key=lambda name: safe[name])
    if not safe[steady]:
        return "No strategy succeeded in every place."
    lost = fmt.percent(1 - safe[steady])
    return f"The safest choice for all places is {steady}: its best plan is nowhere more than {lost} behind the winner."
