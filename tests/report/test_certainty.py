from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from harness.report import format as fmt
from harness.report.certainty import headroom, sentences
from harness.report.panels import losses, verdict
from harness.report.sweep_view import SweepView
from harness.store.store import Store

from .rows import HARDWARE, MIB, PLAN, SWEEP, WORKLOAD, decided, failure, trial

View = Callable[..., SweepView]


def said(view: SweepView) -> str:
    return " ".join(sentences(view)).replace(fmt.NBSP, " ")


def test_single_launches_are_said_to_be_single_launches(make_view: View) -> None:
    assert "a difference of a few per cent is not yet a finding" in said(make_view())


def test_fresh_launches_give_their_spread_and_the_smallest_difference_that_would_have_been_seen(
    make_view: View,
) -> None:
    # Standard deviation of ln 1040, 1050, 1060 and ln 1090, 1100, 1110 is 0.93 %. In a round both plans rise alike:
    # what is left has two degrees of freedom, and (6.20 + 2.92) x 0.00031 x sqrt(2/3) = 0.0023.
    assert said(make_view(decided())).startswith(
        "2 plans had 6 fresh launches in turns. Launches of one plan differ by 0.93 % (standard deviation), those of "
        "one round by 0.031 %; a difference of 0.23 % between the two that were launched most often would have "
        "been seen (with 95 % probability)."
    )


def test_why_fresh_launches_ended_while_an_answer_was_open_is_said(make_view: View) -> None:
    why = "round 4 would take them longer than the search"
    assert f"open which of the best plans is the best: {why}." in said(make_view(decided(), undecided=why))
    assert "open which" not in said(make_view(decided(), undecided=None))


def test_a_winner_that_leaves_little_memory_free_is_warned_of(make_view: View) -> None:
    tight, roomy = (make_view([trial("a1", memory_limit_bytes=limit * MIB)]) for limit in (420, 500))
    assert "Warning: the winner leaves 4.8 % of a rank's memory free, less than 10 %" in said(tight)
    assert "Warning" not in said(roomy)


def test_headroom_is_unknown_without_a_limit(make_view: View) -> None:
    assert headroom(make_view([trial("a1")]).rows[0]) is None


def test_launches_that_others_disturbed_are_counted(make_view: View) -> None:
    rows = [trial("a1", disturbed="other processes took 30 % of the usable cores' time"), trial("b2", role="again")]
    assert "Others disturbed 1 launch; 1 were repeated." in said(make_view(rows))


def test_a_disturbed_winner_is_flagged(make_view: View) -> None:
    rows = [trial("a1", disturbed="the hypervisor took 9 % of the usable cores' time")]
    assert "The winner's numbers may be off: the hypervisor took 9 % of the usable cores' time." in said(
        make_view(rows)
    )


def test_without_a_winner_nothing_is_said(make_view: View) -> None:
    assert sentences(make_view([failure("a1", "crash", "no")])) == ()


def agreed(make_store: Callable[..., Store], **columns: Any) -> SweepView:
    """A sweep without a reference of one process; a plan's curve is there instead."""
    store = make_store([trial("a1", reference="twin", **columns)], reference=False)
    kept = json.dumps({**PLAN, "data_parallel": "zero3"})
    curve = [{"step": s, "loss": 5 - 0.1 * s, "grad_norm": 1.0, "step_time_s": 1.6, "plan": kept} for s in range(8)]
    store.write_reference(WORKLOAD, curve, agreed=True)
    return SweepView.read(store, HARDWARE, SWEEP)


def test_what_losses_were_compared_with_is_said_where_no_process_trained_the_model(
    make_store: Callable[..., Store],
) -> None:
    view = agreed(make_store, twin_blocks=2, twin_max_rel_error=3e-7)
    assert (
        "such a plan follows one process on a twin of 2 blocks (within 3.0e-7); at full size its losses were compared "
        "with those of zero3 dp2 in fp32 (within 2.0e-6)."
    ) in said(view)
    facts = {fact.name: fact.detail for fact in verdict.data(view).facts}
    assert facts["numerics"].endswith("; to another plan, after one process on a twin")
    assert "against one process" not in facts
    found = losses.data(view)
    assert found is not None
    assert [curve.label for curve in found.references] == ["zero3 dp2 in fp32, compared with"]
    assert "of a plan that others agree with" in found.reading


def test_agreement_alone_is_said_to_be_no_other_evidence(make_view: View) -> None:
    alone = said(make_view([trial("a1", reference="agreement")]))
    assert "nor a twin of it: its losses were compared with nothing." in alone
    assert "No process trained" not in said(make_view([trial("a1", reference="process")]))
