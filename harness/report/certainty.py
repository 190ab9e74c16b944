"""How far a ranking can be believed, in sentences that the terminal and the page share."""

from __future__ import annotations

from harness.labels import Row, layout
from harness.report import format as fmt
from harness.report.sweep_view import SweepView
from harness.store.records import Outcome, Role
from harness.store.standings import Standings

LEAST_HEADROOM = 0.10
"""Share of its memory that a plan should leave free: real training has moments that a short trial has not."""


def headroom(row: Row) -> float | None:
    """Share of a rank's memory that the worst rank left free; None if either is unknown."""
    limit, peak = row["memory_limit_bytes"], row["peak_memory_bytes"]
    return None if not limit or peak is None else 1 - peak / limit


def sentences(view: SweepView) -> tuple[str, ...]:
    """What a reader should know before using the winner; () if no plan succeeded."""
    if view.winner is None:
        return ()
    about = (_headroom(view, view.winner), _winner_disturbed(view.winner), _disturbed(view))
    said = (_spread(view), _undecided(view), compared_with(view, view.winner), _padding(view.winner), *about)
    return tuple(filter(None, said))


def compared_with(view: SweepView, row: Row) -> str:
    """What the losses of a plan were compared with, where that was not one process at full size; else ""."""
    if row.get("reference") not in ("twin", "agreement"):
        return ""
    plan, error = view.agreed(row["workload_id"]), row["numerics_max_rel_error"]
    whole = "at full size its losses were compared with nothing"
    compared = plan is not None and row["numerics"] != "skipped"
    if plan is not None and compared:
        within = "" if error is None else f" (within {fmt.relative_error(error)})"
        whole = f"at full size its losses were compared with those of {layout(plan)} in {plan['precision']}{within}"
    if row["reference"] == "agreement" and not compared:
        return "No process trained this model alone, nor a twin of it: its losses were compared with nothing."
    if row["reference"] == "agreement":
        return f"No process trained this model alone, nor a twin of it for such a plan: {whole}, and nothing else."
    return (
        "No process trained this model alone: such a plan follows one process on a twin of "
        f"{row['twin_blocks']} blocks (within {fmt.relative_error(row['twin_max_rel_error'])}); {whole}."
    )


def _spread(view: SweepView) -> str:
    known, plans = view.places_of_plans[0]
    if known.spread is None and (once := [plan for plan in plans if plan.decided]):
        again = fmt.count(len(once), "plan was", "plans were")
        return f"{again} launched again once, too seldom to know how far launches of one plan differ."
    if known.spread is None or known.smallest_difference is None:
        return (
            "No plan was launched again, so the intervals are those of single launches: "
            "a difference of a few per cent is not yet a finding."
        )
    finalists = [plan for plan in plans if plan.decided]
    launches = sum(len(plan.launches) for plan in finalists)
    failed = sum(plan.failures for plan in finalists)
    lost = f" {fmt.count(failed, 'of them failed', 'of them failed')}." if failed else ""
    return (
        f"{fmt.count(len(finalists), 'plan')} had {launches} fresh launches in turns.{lost} "
        f"Launches of one plan differ by {fmt.percent(known.spread.deviation)} (standard deviation){_within(known)}; "
        f"a difference of {fmt.percent(known.smallest_difference)} between the two that were launched most often "
        "would have been seen (with 95 % probability)."
    )


def _undecided(view: SweepView) -> str:
    why = view.info.get("undecided")
    return f"Fresh launches ended while it was open which of the best plans is the best: {why}." if why else ""


def _padding(winner: Row) -> str:
    real = winner.get("real_tokens_per_s")
    if not real:
        return ""
    share = fmt.percent(real / winner["tokens_per_s"])
    return f"Of the winner's tokens/s {fmt.rate(real)} are no padding ({share}), and as large a share of every plan's."


def _within(known: Standings) -> str:
    within = known.within_rounds
    return f", those of one round by {fmt.percent(within.deviation)}" if within is not None else ""


def _headroom(view: SweepView, winner: Row) -> str:
    left = headroom(winner)
    if left is None or left >= LEAST_HEADROOM:
        return ""
    return (
        f"Warning: the winner leaves {fmt.percent(max(left, 0.0))} of a rank's memory free, less than "
        f"{fmt.percent(LEAST_HEADROOM)}; --headroom {LEAST_HEADROOM:.0%} asks for a plan that leaves more."
    )


def _winner_disturbed(winner: Row) -> str:
    return f"The winner's numbers may be off: {winner['disturbed']}." if winner["disturbed"] else ""


def _disturbed(view: SweepView) -> str:
    hit = [row for row in view.rows if row["disturbed"]]
    if not hit:
        return ""
    again = sum(row["role"] == Role.AGAIN and row["outcome"] == Outcome.OK for row in view.rows)
    return f"Others disturbed {fmt.count(len(hit), 'launch', 'launches')}; {again} were repeated."
