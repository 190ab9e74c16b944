"""The answer first: what to run, how sure that is, and the command."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.labels import Row, settings
from harness.report import certainty
from harness.report import format as fmt
from harness.report.panels.panel import Fragment
from harness.report.panels.pareto import front
from harness.report.sweep_view import SweepView
from harness.store.records import Role


@dataclass(frozen=True)
class Fact:
    """One number of the verdict."""

    name: str
    value: str
    detail: str
    state: str = ""
    """"good" or "bad" where the number passes or breaks a rule."""


@dataclass(frozen=True)
class Verdict:
    """The winner, or why there is none."""

    headline: str
    """The winner's name, or that no plan succeeded."""
    trial_id: str | None
    value: str
    """The objective of the winner, with its unit."""
    interval: str
    facts: tuple[Fact, ...]
    sentences: tuple[str, ...]
    command: str
    """Repeats the winner's plan; empty if the sweep did not record one."""
    plan: str
    """Every setting of the winner, as the TOML that `run --plan FILE` reads."""


def data(view: SweepView) -> Verdict:
    """The verdict of a sweep, with or without a winner."""
    winner = view.winner
    if winner is None:
        return Verdict("No plan succeeded", None, "", "", (), _why_none(view), "", "")
    value, interval = _objective(view, winner)
    return Verdict(
        headline=view.label(winner),
        trial_id=winner["trial_id"],
        value=value,
        interval=interval,
        facts=tuple(fact for fact in _facts(view, winner) if fact),
        sentences=(
            *filter(None, (_ties(view), _front(view), _limit(view, winner), _workloads(view))),
            *certainty.sentences(view),
        ),
        command=view.command(winner),
        plan="" if view.is_script else _toml(settings(winner)),
    )


def _toml(plan: Mapping[str, Any]) -> str:
    """Settings as TOML; strings, numbers and booleans are written there as in JSON."""
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in sorted(plan.items()) if value is not None)


def draw(verdict: Verdict) -> Fragment:
    """The verdict as a card."""
    return Fragment(template="verdict.html", context={"verdict": verdict})


def _objective(view: SweepView, winner: Row) -> tuple[str, str]:
    middle, low, high = view.interval(winner)
    throughput = f"{fmt.rate(middle)} {view.unit}"
    interval = f"95 % interval {fmt.span(low, high)}" if winner["tokens_per_s_low"] is not None else ""
    if view.objective == "memory":
        return f"{fmt.size(winner['peak_memory_bytes'])} at the peak", f"at {throughput}"
    if view.objective == "time-to-loss" and winner["time_to_loss_s"] is not None:
        return f"{fmt.duration(winner['time_to_loss_s'])} to the target loss", f"at {throughput}, {interval}"
    return throughput, interval


def _facts(view: SweepView, winner: Row) -> tuple[Fact | None, ...]:
    return (
        Fact("step time", fmt.duration(winner["step_time_s"]), "median over the steps of the slowest rank"),
        _memory(view, winner),
        _against_baseline(view, winner),
        _against_ddp(view, winner),
        _against_one_process(view, winner),
        _numerics(view, winner),
    )


def _memory(view: SweepView, winner: Row) -> Fact:
    peak, limit = winner["peak_memory_bytes"], view.memory_limit
    if limit is None or peak is None:
        return Fact("peak memory", fmt.size(peak), "of the worst rank; no limit was set")
    detail = f"{fmt.percent(peak / limit)} of the limit of {fmt.size(limit)}"
    return Fact("peak memory", fmt.size(peak), detail, "bad" if view.over_limit(winner) else "good")


def _against_baseline(view: SweepView, winner: Row) -> Fact | None:
    """How much faster a script is than it stood."""
    plans = {row["plan_id"] for row in view.rows if row["role"] == Role.BASELINE}
    same = [row for row in view.rankings[0] if row["workload_id"] == winner["workload_id"]]
    baseline = next((row for row in same if row["plan_id"] in plans), None)
    if baseline is None:
        return None
    if baseline["plan_id"] == winner["plan_id"]:
        return Fact("against the baseline", fmt.times(1), "the script as it stood is the fastest")
    return _faster("against the baseline", view, winner, baseline, "the script as it stood")


def _faster(name: str, view: SweepView, winner: Row, other: Row, what: str) -> Fact | None:
    (middle, low, high), (base, base_low, base_high) = view.interval(winner), view.interval(other)
    if not (middle and low and high and base and base_low and base_high):
        return None
    ends = f"{fmt.times(low / base_high)} to {fmt.times(high / base_low)}"
    return Fact(name, fmt.times(middle / base), f"{what}; by the intervals {ends}")


def _against_ddp(view: SweepView, winner: Row) -> Fact | None:
    baseline = view.best("ddp", winner["workload_id"])
    if baseline is None:
        return None
    if baseline["trial_id"] == winner["trial_id"]:
        return Fact("against ddp", fmt.times(1), "the winner is itself a ddp plan")
    return _faster("against ddp", view, winner, baseline, "its best trial")


def _against_one_process(view: SweepView, winner: Row) -> Fact | None:
    single, ours = view.reference_rate(winner), winner["tokens_per_s"]
    if not single or ours is None:
        return None
    ranks = fmt.count(winner["world_size"], "rank")
    return Fact("against one process", fmt.times(ours / single), f"in fp32, with every core or one device; now {ranks}")


def _numerics(view: SweepView, winner: Row) -> Fact:
    if winner["numerics"] == "skipped":
        reference = "the baseline: it computes something else" if view.is_script else "the fp32 reference"
        said = certainty.compared_with(view, winner) or f"not compared with {reference}"
        return Fact("numerics", "skipped", said)
    error, allowed = winner["numerics_max_rel_error"], winner["numerics_tolerance"]
    detail = f"largest relative difference {fmt.relative_error(error)}, tolerance {fmt.relative_error(allowed)}"
    on = {
        "baseline": "; to the script as it stood",
        "twin": "; to another plan, after one process on a twin",
        "agreement": "; to another plan alone",
    }
    detail += on.get(str(winner.get("reference")), "")
    return Fact("numerics", winner["numerics"], detail, "good" if winner["numerics"] == "pass" else "bad")


def _ties(view: SweepView) -> str:
    ranking = view.rankings[0]
    if len(ranking) == 1:
        return "It is the only plan that succeeded, so nothing was compared."
    ties = view.ties_with(ranking[0])
    if not ties:
        if view.objective == "memory":
            return f"No other of the {len(ranking):,} plans needs as little."
        second = view.label(ranking[1])
        return f"It can be told apart from every other plan (at the 5 % level); the next best is {second}."
    names = fmt.listed([view.label(row) for row in ties])
    why = "which needs as much" if view.objective == "memory" else "that cannot be told apart from it"
    return f"Tied with {fmt.count(len(ties), 'plan')} {why}: {names}.{_leanest(view, ties)}"


def _leanest(view: SweepView, ties: tuple[Row, ...]) -> str:
    """Which of the tied trials needs the least memory, where that decides between them."""
    tied = [row for row in (view.ranked[0], *ties) if row["peak_memory_bytes"] is not None]
    lean = min(tied, key=lambda row: row["peak_memory_bytes"], default=None)
    if lean is None or view.objective == "memory":
        return ""
    which = "it" if lean is view.winner else view.label(lean)
    return f" Of these, {which} needs the least memory, {fmt.size(lean['peak_memory_bytes'])}."


def _front(view: SweepView) -> str:
    ends = front(view) if view.objective == "pareto" else ()
    if len(ends) < 2:
        return ""
    lean = ends[0]
    return (
        f"{fmt.count(len(ends), 'plan')} are on the Pareto front; the fastest is shown here, the leanest is "
        f"{view.label(lean)} with {fmt.size(lean['peak_memory_bytes'])}."
    )


def _limit(view: SweepView, winner: Row) -> str:
    return (
        "Every ok trial used more memory than the limit; the best of them is shown." if view.over_limit(winner) else ""
    )


def _workloads(view: SweepView) -> str:
    if len(view.winners) < 2:
        return ""
    others = [f"{view.label(row)} at {fmt.rate(row['tokens_per_s'])} {view.unit}" for row in view.winners[1:]]
    if view.is_script:
        return (
            "Plans that compute something else than the script as it stood, other samples in a step or a knob that "
            f"changes the mathematics, are ranked apart; the fastest of them is {fmt.listed(others)}."
        )
    return (
        "Each global batch is a workload of its own and ranked for itself, since they are not equal work; "
        f"the others' winners are {fmt.listed(others)}."
    )


def _why_none(view: SweepView) -> tuple[str, ...]:
    ends = fmt.listed([f"{number:,} {outcome}" for outcome, number in view.outcomes.items()])
    reasons = Counter(str(row["outcome_reason"]) for row in view.failed if row["outcome_reason"])
    often = [f"{'The reason' if len(reasons) == 1 else 'Most often'}: {reason}" for reason, _ in reasons.most_common(1)]
    return (f"{fmt.count(len(view.rows), 'trial')} ended as: {ends}.", *often, "Every reason is listed under Failures.")
