from __future__ import annotations

from collections.abc import Callable

from harness.report import format as fmt
from harness.report.certainty import headroom, sentences
from harness.report.sweep_view import SweepView

from .rows import MIB, decided, failure, trial

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
