from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError, UnknownNameError
from harness.report.panels.pareto import front
from harness.report.sweep_view import SweepView
from harness.store.store import Store

from .rows import HARDWARE, MIB, SWEEP, trial

View = Callable[..., SweepView]


def ids(rows: object) -> list[str]:
    return [row["trial_id"] for row in rows]  # type: ignore[attr-defined]


def test_trials_are_ranked_by_throughput(make_view: View) -> None:
    view = make_view()
    assert ids(view.ranked) == ["b2", "c3", "a1", "d4"]
    assert ids(view.failed) == ["e5", "f6"]


def test_a_trial_whose_interval_overlaps_the_winners_is_tied_with_it(make_view: View) -> None:
    assert ids(make_view().ties) == ["c3"]


def test_the_memory_objective_ranks_by_peak_and_ties_only_equals(make_view: View) -> None:
    view = make_view(objective="memory")
    assert ids(view.ranked) == ["d4", "c3", "b2", "a1"]
    assert ids(view.ties) == []


def test_time_to_loss_ranks_by_time_and_puts_trials_without_one_last(make_view: View) -> None:
    rows = [trial("a1", 2000), trial("b2", 1000, time_to_loss_s=9.0), trial("c3", 900, time_to_loss_s=5.0)]
    view = make_view(rows, objective="time-to-loss")
    assert ids(view.ranked) == ["c3", "b2", "a1"]


def test_a_time_to_loss_is_tied_by_the_throughputs_interval(make_view: View) -> None:
    rows = [trial("a1", 1000, time_to_loss_s=5.0), trial("b2", 1000, time_to_loss_s=5.1)]
    assert ids(make_view(rows, objective="time-to-loss").ties) == ["b2"]


def test_a_trial_above_the_memory_limit_cannot_win(make_view: View) -> None:
    view = make_view(memory_limit_bytes=260 * MIB)
    assert ids(view.ranked) == ["c3", "d4", "b2", "a1"]
    assert ids(view.ties) == []


def test_each_global_batch_is_ranked_for_itself(make_view: View) -> None:
    large = {"workload_id": "gpt-nano-16", "global_batch_size": 16}
    view = make_view([trial("a1", 900), trial("b2", 2000, **large), trial("c3", 1000), trial("d4", 1990, **large)])
    assert [ids(ranking) for ranking in view.rankings] == [["c3", "a1"], ["b2", "d4"]]
    assert ids(view.winners) == ["c3", "b2"]
    assert view.places == {"c3": 1, "a1": 2, "b2": 1, "d4": 2}
    assert ids(view.ties) == ["d4"]


def test_a_time_to_loss_ranks_every_global_batch_together(make_view: View) -> None:
    large = {"workload_id": "gpt-nano-16", "global_batch_size": 16}
    rows = [trial("a1", time_to_loss_s=5.0), trial("b2", **large, time_to_loss_s=4.0)]
    assert [ids(ranking) for ranking in make_view(rows, objective="time-to-loss").rankings] == [["b2", "a1"]]


def test_trials_of_another_workload_are_not_tied(make_view: View) -> None:
    view = make_view([trial("a1"), trial("b2", workload_id="another")])
    assert view.several_workloads
    assert ids(view.ties) == []


def test_samples_that_are_not_sequences_are_counted_as_samples(make_view: View) -> None:
    assert make_view([trial("a1", seq_len=1)]).unit == "samples/s"


def test_a_missing_sweep_is_an_input_error_that_names_the_others(make_store: Callable[..., Store]) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean '{SWEEP}'"):
        SweepView.read(make_store(), HARDWARE, SWEEP + "s")


def test_a_sweep_of_another_hardware_is_pointed_to(make_store: Callable[..., Store]) -> None:
    with pytest.raises(InputError, match=f"was recorded on {HARDWARE}"):
        SweepView.read(make_store(), "elsewhere", SWEEP)


def test_a_sweep_without_trials_says_to_resume_it(make_store: Callable[..., Store]) -> None:
    with pytest.raises(InputError, match="no recorded trial yet"):
        SweepView.read(make_store([]), HARDWARE, SWEEP)


def test_an_empty_store_says_to_run_a_sweep(tmp_path: str) -> None:
    with pytest.raises(InputError, match="run one first"):
        SweepView.read(Store(tmp_path), HARDWARE, SWEEP)


class _Ranked:
    """The part of a view that the front looks at."""

    def __init__(self, pairs: list[tuple[int, float]]) -> None:
        self.ranked = [{"peak_memory_bytes": memory, "tokens_per_s": speed} for memory, speed in pairs]


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(1, 20)), min_size=1, max_size=30))
def test_the_front_holds_exactly_what_no_trial_beats(pairs: list[tuple[int, float]]) -> None:
    found = {(r["peak_memory_bytes"], r["tokens_per_s"]) for r in front(_Ranked(pairs))}  # type: ignore[arg-type]
    beaten = {(m, s) for m, s in pairs if any(m2 <= m and s2 >= s and (m2, s2) != (m, s) for m2, s2 in pairs)}
    assert found == set(pairs) - beaten
