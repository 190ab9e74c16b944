"""What is lost where the winner of another place is run instead of the own one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.report import format as fmt
from harness.report.comparison.comparison_view import Contest, Entry
from harness.report.comparison.heatmap import heatmap
from harness.report.panels.panel import Chart, Table


@dataclass(frozen=True)
class Loss:
    """The winner of one place, run in another."""

    loss: float | None
    """1 - its speed over that of the own winner; None if it was not run there."""
    tied: bool
    """Whether it cannot be told apart from the own winner."""
    missing: str
    """Why nothing is known; "" if it is."""


@dataclass(frozen=True)
class Transfer:
    """Places against places."""

    places: tuple[str, ...]
    losses: Mapping[tuple[str, str], Loss]
    """(whose winner, run where) -> what is lost."""
    to_run: tuple[str, ...]
    """Commands that would fill the gaps, each with the place to run it in."""
    reading: str


def data(contest: Contest) -> Transfer | None:
    """The matrix; None with a single place."""
    if len(contest.entries) < 2:
        return None
    names = contest.place_names
    losses = {
        (names[source.place], names[target.place]): _loss(source, target)
        for source in contest.entries
        for target in contest.entries
    }
    missing = [
        f"{names[target.place]}: python -m harness run {source.winner.row['plan_id']}"
        for source in contest.entries
        for target in contest.entries
        if losses[names[source.place], names[target.place]].missing == _NOT_RUN
    ]
    places = tuple(names[entry.place] for entry in contest.entries)
    return Transfer(places, losses, tuple(missing), _reading(losses))


def draw(transfer: Transfer) -> Chart:
    """A field for each pair of places, the darker the more is lost."""
    cells = {
        pair: (
            max(0.0, loss.loss),
            "≈" if loss.tied and loss.loss else fmt.percent(loss.loss),
            f"loses {fmt.percent(loss.loss)}{', which may be chance' if loss.tied and loss.loss else ''}",
        )
        for pair, loss in transfer.losses.items()
        if loss.loss is not None
    }
    rows = (
        (source, target, loss.loss, "yes" if loss.tied else "no", loss.missing)
        for (source, target), loss in transfer.losses.items()
    )
    return Chart(
        figure=heatmap(transfer.places, transfer.places, cells, low=0.0, high=0.5, colour="var(--bad)"),
        reading=transfer.reading,
        note=f"To fill the gaps: {'; '.join(transfer.to_run)}." if transfer.to_run else "",
        table=Table(columns=("winner of", "run on", "loss", "tied", "why unknown"), rows=tuple(rows)),
    )


_NOT_RUN = "not run there"


def _loss(source: Entry, target: Entry) -> Loss:
    if source.place.world_size != target.place.world_size:
        return Loss(None, False, "a plan for another number of ranks")
    plan = target.plan(source.winner.row["plan_id"])
    if plan is None:
        return Loss(None, False, _NOT_RUN)
    loss = 1 - plan.row["tokens_per_s"] / target.winner.row["tokens_per_s"]
    return Loss(loss, plan is target.winner or target.known.tied(target.winner, plan), "")


def _reading(losses: Mapping[tuple[str, str], Loss]) -> str:
    known = {pair: loss for pair, loss in losses.items() if loss.loss is not None and pair[0] != pair[1]}
    if not known:
        return "No place has run the winner of another one yet."
    worst = max(known, key=lambda pair: known[pair].loss or 0.0)
    loss = known[worst]
    tried = f"{len(known)} that were tried elsewhere"
    if loss.tied:
        return f"As far as can be told, each of the {tried} is as good there as the own winner."
    return f"The winner of {worst[0]} loses {fmt.percent(loss.loss)} on {worst[1]}, the most of {tried}."
