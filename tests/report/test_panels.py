from __future__ import annotations

import json
import tomllib
from collections.abc import Callable

import pytest

from harness.report import format as fmt
from harness.report.panels import (
    PANELS,
    communication,
    failures,
    feasibility,
    final_launches,
    knobs,
    losses,
    memory_at_peak,
    pareto,
    prediction,
    progress,
    ranking,
    repeat,
    step_times,
    strategies,
    timeline,
    traces,
    verdict,
    where_it_ran,
)
from harness.report.panels.panel import TOP, Chart
from harness.report.sweep_view import SweepView

from .rows import MIB, decided, failure, final, trial, typical

View = Callable[..., SweepView]


def plain(text: str) -> str:
    return text.replace(fmt.NBSP, " ")


def facts(found: verdict.Verdict) -> dict[str, tuple[str, str]]:
    return {fact.name: (plain(fact.value), plain(fact.detail)) for fact in found.facts}


def test_the_verdict_names_the_winner_its_interval_and_its_tie(make_view: View) -> None:
    found = verdict.data(make_view())
    assert (found.trial_id, found.headline) == ("b2", "zero2 dp2 · mb 8 · fp32")
    assert (found.value, found.interval) == ("1,100 tokens/s", "95 % interval 1,078 to 1,122")
    assert plain(found.sentences[0]) == (
        "Tied with 1 plan that cannot be told apart from it: zero2 dp2 · mb 4 · bf16_autocast. "
        "Of these, zero2 dp2 · mb 4 · bf16_autocast needs the least memory, 250 MiB."
    )


def test_the_verdict_compares_with_ddp_with_one_process_and_with_the_limit(make_view: View) -> None:
    found = facts(verdict.data(make_view(memory_limit_bytes=600 * MIB)))
    assert found["against ddp"][0] == "1.10\N{MULTIPLICATION SIGN}"
    # 8 samples of 100 tokens in the reference's 1.6 s are 500 tokens/s.
    assert found["against one process"][0] == "2.20\N{MULTIPLICATION SIGN}"
    assert found["peak memory"] == ("300 MiB", "50 % of the limit of 600 MiB")
    assert found["numerics"] == ("pass", "largest relative difference 2.0e-6, tolerance 1.0e-4")


def test_the_verdict_repeats_the_winner_by_the_recorded_command(make_view: View) -> None:
    assert verdict.data(make_view(repeat={"b2": "python -m harness run b2"})).command == "python -m harness run b2"
    assert verdict.data(make_view()).command == ""


def test_a_clear_winner_is_said_to_be_clear(make_view: View) -> None:
    found = verdict.data(make_view([trial("a1", 100), trial("b2", 200, {"data_parallel": "zero1"})]))
    assert found.sentences[0] == (
        "It can be told apart from every other plan (at the 5 % level); the next best is ddp dp2."
    )


def test_a_lone_trial_was_compared_with_nothing(make_view: View) -> None:
    assert "nothing was compared" in verdict.data(make_view([trial("a1")])).sentences[0]


def test_when_everything_failed_the_verdict_says_why(make_view: View) -> None:
    found = verdict.data(make_view([failure("a1", "crash", "no luck"), failure("b2", "crash", "no luck")]))
    assert (found.headline, found.trial_id) == ("No plan succeeded", None)
    assert found.sentences[:2] == ("2 trials ended as: 2 crash.", "The reason: no luck")


def test_the_ranking_has_ok_trials_first_and_no_empty_column(make_view: View) -> None:
    found = ranking.data(make_view())
    assert [line.place for line in found.lines] == [1, 2, 3, 4, None, None]
    assert [line.problem for line in found.lines] == ["", "", "", "", "oom_host", "infeasible"]
    assert [line.tied for line in found.lines] == [False, True, False, False, False, False]
    assert not {"MFU", "energy", "time to loss"} & {column.name for column in found.columns}


def test_a_cell_shows_the_stored_number_in_the_unit_of_its_header(make_view: View) -> None:
    found = ranking.data(make_view())
    cells = {
        f"{c.name} {c.unit}".strip(): cell.text for c, cell in zip(found.columns, found.lines[0].cells, strict=True)
    }
    assert cells["peak memory MiB"] == "300"
    assert cells["step time ms"] == fmt.significant(1e3 * 800 / 1100)
    assert cells["throughput tokens/s"] == "1,100"


def test_a_finalists_difference_to_the_winner_has_an_interval(make_view: View) -> None:
    found = ranking.data(make_view(decided()))
    at = [column.name for column in found.columns].index("to winner")
    winner, second, third, *_ = (line.cells[at] for line in found.lines)
    assert (winner.interval, third.interval) == ("", "")
    assert second.text.startswith("−4.5")
    assert plain(second.interval) == "−4.6 % to −4.4 %"


def test_a_trial_over_the_limit_is_marked(make_view: View) -> None:
    found = ranking.data(make_view(memory_limit_bytes=260 * MIB))
    assert [line.problem for line in found.lines][:4] == ["", "", "over the limit", "over the limit"]


def test_each_strategy_shows_its_fastest_trial_against_ddp(make_view: View) -> None:
    found = strategies.data(make_view())
    assert found is not None
    bars = {bar.strategy: (bar.tokens_per_s, plain(bar.against_ddp)) for bar in found.bars}
    assert bars["zero2"] == (1100.0, "+10 % speed · \N{MINUS SIGN}25 % memory")
    assert bars["ddp"] == (1000.0, "")
    assert bars["precision"][0] == 1090.0
    assert plain(found.reading) == (
        "The best trial with zero2 is 10 % faster than the best ddp trial and needs 25 % less memory."
    )


def test_a_strategy_without_an_ok_trial_is_named_with_its_reason(make_view: View) -> None:
    found = strategies.data(make_view(strategies=["ddp", "compile"]))
    assert found is not None
    assert found.absent == "Not shown: compile (not tried); tensor_parallel (rank 1 was killed)."


def test_a_strategy_whose_trials_break_the_limit_has_no_bar(make_view: View) -> None:
    found = strategies.data(make_view(memory_limit_bytes=260 * MIB))
    assert found is not None
    assert [(bar.strategy, bar.tokens_per_s) for bar in found.bars][:2] == [("zero2", 1090.0), ("precision", 1090.0)]
    assert "ddp (over the memory limit, or another workload)" in found.absent


def test_an_advantage_within_the_intervals_is_called_unsure(make_view: View) -> None:
    found = strategies.data(make_view([trial("a1", 1000), trial("b2", 1010, {"data_parallel": "zero1"})]))
    assert found is not None
    assert "may be chance" in found.reading


def test_the_pareto_front_runs_from_the_leanest_to_the_fastest(make_view: View) -> None:
    found = pareto.data(make_view())
    assert found is not None
    assert [point.at for point in found.points] == [0, 1, 2, 3]
    assert [point.trial_id for point in found.front] == ["d4", "c3", "b2"]
    assert [point.trial_id for point in found.points if point.winner] == ["b2"]
    assert "33 % less memory and is 36 % slower" in plain(found.reading)


def test_a_loss_is_the_mean_over_ranks_and_lies_near_the_reference(make_view: View) -> None:
    found = losses.data(make_view())
    assert found is not None
    assert found.curves[0].loss[0] == pytest.approx(5.0, rel=1e-5)
    assert all(d == pytest.approx(1e-6, rel=1e-3) for d in found.curves[0].difference)
    assert found.references[0].loss[:2] == pytest.approx((5.0, 4.9))


def test_losses_are_drawn_without_a_reference_too(make_view: View) -> None:
    found = losses.data(make_view(reference=False))
    assert found is not None
    assert "no recorded reference" in found.reading
    assert len(losses.draw(found).figure.data) == len(found.curves)


def test_a_step_takes_as_long_as_its_slowest_rank_and_warmup_is_apart(make_view: View) -> None:
    found = step_times.data(make_view([trial("a1", 1000)]))
    assert found is not None
    steps = found.trials[0]
    assert len(steps.measured_s) == 8
    assert steps.warmup_s == pytest.approx((0.8 * 5 * 1.1,) * 2)
    assert min(steps.measured_s) == pytest.approx(0.8 * 1.1)


def test_memory_is_stacked_by_category(make_view: View) -> None:
    found = memory_at_peak.data(make_view())
    assert found is not None
    assert found.stacks[0].parts == (40 * MIB, 40 * MIB, 80 * MIB, 10 * MIB, 200 * MIB)
    assert plain(found.reading).endswith("#4 zero3 holds 16 % less, mostly in optimizer.")


def test_a_failure_says_where_and_why(make_view: View) -> None:
    found = failures.data(make_view())
    assert [f.where for f in found.failures] == ["warmup, rank 1, step 0", "never launched"]
    assert found.failures[1].reason == "6 heads do not divide by 4"
    assert found.reading == "2 of 6 trials cannot be ranked: 1 oom_host and 1 infeasible."


def test_a_sweep_without_failures_says_so(make_view: View) -> None:
    found = failures.data(make_view([trial("a1")]))
    assert (found.failures, found.reading) == ((), "None: every trial of 1 can be ranked.")


def test_the_environment_flattens_what_was_recorded(make_view: View) -> None:
    found = where_it_ran.data(make_view(workload={"model": {"layers": 4}}))
    lines = {name: value for group in found.groups for name, value in group.facts}
    assert lines["model layers"] == "4"
    assert plain(lines["memory"]) == "8.00 GiB"


def test_only_the_best_trials_get_a_curve_and_the_page_says_so(make_view: View) -> None:
    view = make_view([trial(f"t{i}", 1000 + i) for i in range(TOP + 5)])
    for panel in (losses, step_times, memory_at_peak):
        found = panel.data(view)
        assert found is not None
        assert found.note == f"The best {TOP} of {TOP + 5} plans are drawn."
    drawn = losses.data(view)
    assert drawn is not None
    assert len(drawn.curves) == TOP


def test_a_failure_shows_what_was_seen_of_each_rank(make_view: View) -> None:
    ranks = [
        {"rank": 0, "signal": "SIGKILL", "last": {"kind": "step", "phase": "warmup", "step": 3}, "output": "hello\n"},
        {"rank": 1, "last": {}, "stacks": "File x, line 1 in wait"},
    ]
    kept = [json.dumps({"ranks": ranks}), json.dumps({"ranks": [{"rank": 0, "output": "x" * 9999}]}), "[1", None]
    rows = [failure(f"a{at}", "hang", "it was silent", evidence=text) for at, text in enumerate(kept)]
    whole, long, broken, none = failures.data(make_view(rows)).failures
    assert whole.evidence == (
        "rank 0: SIGKILL, phase warmup step 3\nhello\n\nrank 1: ended by the harness\nFile x, line 1 in wait"
    )
    assert long.evidence.endswith("... the rest stands in the column `evidence`")
    assert (broken.evidence, none.evidence) == ("[1", "")


def test_without_an_ok_trial_no_chart_is_drawn(make_view: View) -> None:
    view = make_view([failure("a1", "nan", "loss is nan at step 3", failed_step=3)])
    drawn = [panel.draw(data) for panel in PANELS if (data := panel.data(view)) is not None]
    assert drawn
    assert not any(isinstance(section, Chart) for section in drawn)


def test_every_chart_has_one_line_of_reading(make_view: View) -> None:
    view = make_view(decided())
    charts = [panel.draw(data) for panel in PANELS if (data := panel.data(view)) is not None]
    charts = [drawn for drawn in charts if isinstance(drawn, Chart)]
    assert len(charts) == 11
    assert all(
        chart.table.rows and {len(row) for row in chart.table.rows} == {len(chart.table.columns)} for chart in charts
    )
    assert all(chart.reading.endswith(".") and "\n" not in chart.reading for chart in charts)


def test_the_finals_show_each_launch_and_what_the_search_had_measured(make_view: View) -> None:
    found = final_launches.data(make_view(decided()))
    assert found is not None
    assert [plan.rates for plan in found.finalists] == [(1090.0, 1100.0, 1110.0), (1040.0, 1050.0, 1060.0)]
    assert [plan.searched for plan in found.finalists] == [1090.0, 1100.0]
    assert plain(found.reading) == ("#1 zero2 is faster than #2 zero2 by 4.8 %, more than launches differ by chance.")


def test_finals_that_decide_nothing_say_so(make_view: View) -> None:
    rows = [one, other] = [trial("a1", 1000), trial("b2", 1010, {"data_parallel": "zero1"})]
    rows += [final(one, n, rate) for n, rate in enumerate((950, 1050), 1)]
    rows += [final(other, n, rate) for n, rate in enumerate((960, 1060), 1)]
    found = final_launches.data(make_view(rows))
    assert found is not None
    assert found.reading == "#1 zero1 cannot be told apart from #2 ddp: choose by memory, or measure longer."


def test_communication_is_split_into_what_computing_hides_and_what_it_does_not(make_view: View) -> None:
    found = communication.data(make_view())
    assert found is not None
    assert (found.plans[0].exposed_s, found.plans[0].hidden_s) == (0.02, pytest.approx(0.03))
    assert plain(found.plans[0].collectives) == "all_reduce 40.0 MiB in 3"


def test_panel_keys_are_unique() -> None:
    assert len({panel.key for panel in PANELS}) == len(PANELS)


def varied(count: int = 24) -> list[dict[str, object]]:
    """Speed depends on the micro-batch size alone."""
    return [
        trial(
            f"t{at}", 100.0 * 2 ** (at % 4) + at / 100, {"micro_batch_size": 2 ** (at % 4), "bucket_mb": float(at % 3)}
        )
        for at in range(count)
    ]


def test_the_knob_that_decides_is_the_most_important(make_view: View) -> None:
    found = knobs.data(make_view(varied()))
    assert found is not None
    assert next(iter(found.importance)) == "micro_batch_size"
    assert sum(found.importance.values()) == pytest.approx(1.0)
    assert found.importance["micro_batch_size"] > 0.8
    assert list(found.slices["micro_batch_size"]) == ["1", "2", "4", "8"]
    assert [len(dots) for dots in found.slices["micro_batch_size"].values()] == [6, 6, 6, 6]
    assert found.reading.endswith("by their medians the plans with micro batch size 8 are best.")


def test_a_knob_that_some_plans_lack_has_a_value_for_that(make_view: View) -> None:
    rows = varied()
    for row in rows[:12]:
        row["knobs"] = json.dumps({k: v for k, v in json.loads(str(row["knobs"])).items() if k != "bucket_mb"})
    found = knobs.data(make_view(rows))
    assert found is not None
    assert "without" in found.slices["bucket_mb"]


def test_few_plans_say_nothing_of_knobs(make_view: View) -> None:
    assert knobs.data(make_view()) is None


def test_the_feasibility_map_counts_what_ran_and_says_why_the_rest_did_not(make_view: View) -> None:
    rows = [
        trial("a1", 1000, {"micro_batch_size": 4}),
        failure("b2", "oom_host", "rank 0 was killed", {"micro_batch_size": 8}),
        failure("c3", "crash", "exit status 1", {"micro_batch_size": 8}),
        failure("d4", "infeasible", "6 heads do not divide by 4", {"dp": 1, "tp": 4, "data_parallel": "none"}),
    ]
    found = feasibility.data(make_view(rows))
    assert found is not None
    assert list(found.grids) == ["micro-batch size"]
    fields = found.grids["micro-batch size"].fields
    assert fields["ddp dp2", "mb 4"].state is feasibility.State.RAN
    too_large = fields["ddp dp2", "mb 8"]
    assert (too_large.state, too_large.ran, too_large.tried) == (feasibility.State.TOO_LARGE, 0, 2)
    assert set(too_large.reasons) == {"rank 0 was killed", "exit status 1"}
    assert fields["tp4", "mb 4"].state is feasibility.State.CANNOT
    assert ("tp4", "mb 8") not in fields
    assert plain(found.reading).startswith("Of 4 launches and refusals 1 ran, 1 did not fit, 1 failed and 1 cannot be.")


def test_the_search_is_shown_with_the_best_until_each_launch(make_view: View) -> None:
    rows = [trial("a1", 900), failure("b2", "crash", "no"), trial("c3", 1000), trial("d4", 950)]
    found = progress.data(make_view([*rows, final(rows[2], 1, 990.0)]))
    assert found is not None
    assert [(t.number, t.value, t.best) for t in found.tries] == [
        (1, 900, 900),
        (2, None, 900),
        (3, 1000, 1000),
        (4, 950, 1000),
    ]
    assert plain(found.reading) == (
        "The best launch of the search was number 3 of 4, after 2.50 s, 11 % better than the first that succeeded; "
        "the 1 launch after it found nothing better."
    )


def test_where_less_is_better_the_best_is_the_least(make_view: View) -> None:
    rows = [trial("a1", peak_memory_bytes=300 * MIB), trial("b2", peak_memory_bytes=200 * MIB)]
    found = progress.data(make_view(rows, objective="memory"))
    assert found is not None
    assert [t.best for t in found.tries] == [300 * MIB, 200 * MIB]
    assert "the last of 2" in found.reading


def test_the_timeline_has_the_phases_of_every_launch_and_cuts_pauses(make_view: View) -> None:
    phases = {"launch_s": 0.1, "setup_s": 0.2, "warmup_s": 0.3, "measure_s": 0.4, "teardown_s": 0.0}
    found = timeline.data(make_view([trial("a1", **phases), trial("b2", **phases), trial("c9999", **phases)]))
    assert found is not None
    assert [span.begin_s for span in found.spans] == [0, 1, pytest.approx(2 + timeline.DRAWN_PAUSE_S)]
    assert found.spans[0].phases_s == pytest.approx((0.3, 0.3, 0.4, 0.0))
    assert found.note == "1 pause between runs of the sweep is drawn short."
    assert plain(found.reading).startswith(
        "Of 3.00 s in 3 launches: 30 % launch and set-up, 30 % warm-up, 40 % measured"
    )


def test_the_steps_of_each_rank_tell_who_is_slow(make_view: View) -> None:
    found = traces.data(make_view([trial("a1", 1000)]))
    assert found is not None
    (trace,) = found.traces
    assert (trace.warmup, trace.slowest, sorted(trace.ranks)) == (2, 1, [0, 1])
    assert plain(found.reading) == "Over the window rank 1 of #1 ddp takes 10 % longer than the fastest."


def test_the_commands_that_repeat_it_are_there(make_view: View) -> None:
    view = make_view(repeat={"b2": "python -m harness run b2"})
    texts = [command.text for command in repeat.data(view).commands]
    assert texts[:3] == [
        "python -m harness sweep --name synthetic",
        "python -m harness run b2",
        "python -m harness report synthetic",
    ]
    assert any(text.startswith("optuna-dashboard results/studies/") for text in texts)


def test_the_winners_settings_are_a_plan_file(make_view: View) -> None:
    text = verdict.data(make_view()).plan
    assert tomllib.loads(text) == json.loads(str(typical()[1]["knobs"]))


def predicted(trial_id: str, time: float = 1.1, memory: float = 0.9, **columns: object) -> dict[str, object]:
    row = trial(trial_id, **columns)
    return row | {
        "predicted_step_time_s": time * row["step_time_s"],
        "predicted_peak_memory_bytes": int(memory * row["peak_memory_bytes"]),
        "predicted_memory_params_bytes": row["memory_params_bytes"],
    }


def test_a_prediction_stands_beside_what_was_measured(make_view: View) -> None:
    rows = [predicted("a1"), predicted("b2", plan={"data_parallel": "zero2"})]
    found = prediction.data(make_view(rows))
    assert [round(pair.error, 3) for pair in found.pairs] == [0.1, 0.1]
    assert "step times were off by 10" in plain(found.reading)
    assert "Peaks of memory were off by 10" in plain(found.reading)
    drawn = prediction.draw(found)
    assert set(drawn.others) == {"peak memory", "memory of params"}
    assert "ddp 10" in plain(drawn.note)
    assert len(drawn.table.rows) == 2


def test_what_was_refused_and_what_was_launched_all_the_same_is_counted(make_view: View) -> None:
    refused = failure(
        "c3", "infeasible", "it is predicted to need 900 MiB on the worst rank, but a rank may hold 500 MiB"
    )
    doubted = predicted("d4", memory=2.0)
    found = prediction.data(make_view([predicted("a1"), refused, doubted], memory_limit_bytes=500 * MIB))
    assert len(found.refused) == 1
    assert [ran for _, ran in found.doubted] == [True]
    assert "1 plan was not launched" in plain(found.reading) or "1 plan were not launched" in plain(found.reading)
    assert "Of 1 launched although predicted not to fit, 1 ran." in plain(found.reading)


def test_plans_that_the_search_left_out_as_too_large_are_counted(make_view: View) -> None:
    found = prediction.data(make_view([predicted("a1")], candidates={"looked_at": 4000, "left_out": 1200}))
    assert "Of 4,000 plans that the search looked at, 1,200 were left out as too large." in found.reading


def test_a_sweep_without_predictions_has_no_panel_for_them(make_view: View) -> None:
    assert prediction.data(make_view()) is None
