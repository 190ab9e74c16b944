"""Comparing places, from stores of invented trials."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError, UnknownNameError
from harness.report.comparison import by_strategy, compare, crossings, overview, transfer, winners
from harness.report.comparison.comparison_page import render
from harness.report.comparison.comparison_view import Comparison, Place, short_hardware
from harness.report.comparison.heatmap import heatmap
from harness.report.comparison.text import as_json, markdown
from harness.store.store import Store
from tests.html import Page

from .rows import MIB, trial

SLOW, FAST = "cpu-slow-2c-8g-aaaaaa", "1xfast-80g-bbbbbb"
SLOW_NAME, FAST_NAME = "cpu-slow-2c-8g", "1xfast-80g"
Rows = Sequence[dict[str, Any]]


def rates(**by_kind: float) -> list[dict[str, Any]]:
    """One plan for each data-parallel kind; a plan has the same id everywhere."""
    order = ("ddp", "zero1", "zero2", "zero3")
    return [
        trial(f"t{order.index(name)}", rate, {"data_parallel": name}, plan_id=f"plan-{name}")
        for name, rate in by_kind.items()
    ]


def renamed(rows: Rows, prefix: str) -> list[dict[str, Any]]:
    return [{**row, "trial_id": f"{prefix}-{row['trial_id']}"} for row in rows]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """A function that records trials by hardware in a results folder."""

    def record(name: str = "results", sweep: str = "s", **places: Rows) -> Path:
        store = Store(tmp_path / name)
        for place, rows in places.items():
            hardware = {"slow": SLOW, "fast": FAST}.get(place, place)
            for row in renamed(rows, f"{place}-{sweep}"):
                store.append(hardware, sweep, row)
        return store.root

    return record


@pytest.fixture
def two(make: Callable[..., Path]) -> Path:
    """zero2 wins on the slow hardware, ddp on the fast one."""
    return make(slow=rates(ddp=900, zero2=1000, zero3=700), fast=rates(ddp=9000, zero2=8000))


def only(folder: Path, **options: Any) -> Any:
    (contest,) = Comparison.read([folder], **options).contests
    return contest


def test_each_place_has_its_own_winner(two: Path) -> None:
    found = winners.data(only(two))
    assert [(line.place, line.kind, line.tokens_per_s) for line in found.lines] == [
        (FAST_NAME, "ddp", 9000),
        (SLOW_NAME, "zero2", 1000),
    ]
    assert [line.against_ddp for line in found.lines] == [1.0, pytest.approx(1000 / 900)]
    assert found.reading.startswith("Different strategies win in different places: ddp and zero2")


def test_a_winner_is_run_elsewhere_and_what_it_loses_is_known(two: Path) -> None:
    found = transfer.data(only(two))
    assert found is not None
    assert found.losses[FAST_NAME, SLOW_NAME].loss == pytest.approx(0.1)
    assert found.losses[SLOW_NAME, FAST_NAME].loss == pytest.approx(1 / 9)
    assert found.losses[SLOW_NAME, SLOW_NAME].loss == 0
    assert found.to_run == ()


def test_a_winner_that_was_not_run_elsewhere_is_a_gap_with_the_command_that_fills_it(make: Callable[..., Path]) -> None:
    found = transfer.data(only(make(slow=rates(zero3=700), fast=rates(ddp=9000))))
    assert found is not None
    assert found.losses[FAST_NAME, SLOW_NAME].loss is None
    wanted = {f"{SLOW_NAME}: python -m harness run plan-ddp", f"{FAST_NAME}: python -m harness run plan-zero3"}
    assert set(found.to_run) == wanted


def test_a_plan_for_other_ranks_cannot_transfer(make: Callable[..., Path]) -> None:
    wide = [trial("t9", 5000, {"dp": 4}, plan_id="wide")]
    found = transfer.data(only(make(slow=[*rates(ddp=900), *wide])))
    assert found is not None
    assert {loss.missing for loss in found.losses.values()} == {"", "a plan for another number of ranks"}


def test_strategies_are_shares_of_the_winner_of_their_place(two: Path) -> None:
    found = by_strategy.data(only(two))
    assert found is not None
    assert found.shares["zero3", SLOW_NAME] == pytest.approx(0.7)
    assert ("zero3", FAST_NAME) not in found.shares
    assert "safest choice for all places is ddp" in found.reading


def with_interconnect(folder: Path, **bandwidth: float) -> Path:
    for hardware, value in bandwidth.items():
        Store(folder).write_peaks(hardware, {"interconnect": {"2": {"all_reduce_bytes_per_s": value}}})
    return folder


def test_strategies_cross_where_the_logarithms_of_their_speeds_do(make: Callable[..., Path]) -> None:
    folder = make(a=rates(ddp=100, zero3=200), b=rates(ddp=400, zero3=200))
    found = crossings.data(only(with_interconnect(folder, a=1e9, b=4e9)))
    assert found is not None
    (line,) = found.lines
    (crossing,) = line.crossings
    assert (crossing.below, crossing.above, crossing.sure, crossing.source) == ("zero3", "ddp", True, "measured")
    assert crossing.at == pytest.approx(2.0)  # log ratio -1 at 1 GB/s, +1 at 4 GB/s
    assert found.reading.startswith("Below about 2.00 GB/s of interconnect bandwidth zero3 is faster than ddp")


def test_a_predicted_crossing_is_labelled_so_and_never_beyond_doubt(make: Callable[..., Path]) -> None:
    folder = with_interconnect(make(a=rates(ddp=100, zero3=200)), a=1e9)
    workload = only(folder).workload_id
    store = Store(folder)
    rows = [{"below": "zero3", "above": "ddp", "bytes_per_s": 5e9}]
    store.write_peaks("a", {**(store.peaks("a") or {}), "predicted": {workload: {"2": rows}}})
    found = crossings.data(only(folder))
    assert found is not None
    ((crossing,),) = [line.crossings for line in found.lines]
    assert (crossing.source, crossing.sure, crossing.at) == ("predicted", False, 5.0)
    assert found.reading == "Predicted over interconnect bandwidth, not measured: ddp overtakes zero3 at 5.00 GB/s."
    assert crossings.draw(found).table.rows[0][-1] == "predicted"


def test_a_crossing_within_the_intervals_is_not_called(make: Callable[..., Path]) -> None:
    folder = make(a=rates(ddp=100, zero3=101), b=rates(ddp=400, zero3=200))
    found = crossings.data(only(with_interconnect(folder, a=1e9, b=4e9)))
    assert found is not None
    assert [crossing.sure for crossing in found.lines[0].crossings] == [False]
    assert "beyond doubt" in found.reading


def test_only_places_that_are_alike_otherwise_stand_on_one_line(make: Callable[..., Path]) -> None:
    folder = with_interconnect(make(a=rates(ddp=100, zero3=200), b=rates(ddp=400, zero3=200)), a=1e9, b=4e9)
    for hardware, cores in (("a", 2), ("b", 64)):
        store = Store(folder)
        store.write_peaks(hardware, {**(store.peaks(hardware) or {}), "usable_cores": cores})
    found = crossings.data(only(folder))
    assert found is not None
    assert [line.axis.name for line in found.lines] == ["cores"]


def test_places_with_other_devices_never_stand_on_one_line(make: Callable[..., Path]) -> None:
    names = ("cpu-amd-epyc-2c-24g-lo-2gbit-95a798", "cpu-amd-epyc-2c-24g-39e5d5", "cpu-intel-xeon-2c-24g-f80b8b")
    slow, fast, other = names
    folder = make(**{name: rates(ddp=100 + 300 * at, zero3=200) for at, name in enumerate(names)})
    found = crossings.data(only(with_interconnect(folder, **{slow: 1e9, fast: 4e9, other: 2e9})))
    assert found is not None
    assert [point.at for point in found.lines[0].points["ddp"]] == [1.0, 4.0]


@pytest.mark.parametrize(
    ("hardware_id", "devices"),
    [
        ("cpu-amd-epyc-7763-2c-23g-1a2b3c", "cpu-amd-epyc-7763"),
        ("cpu-amd-epyc-2c-24g-lo-250mbit-c98d63", "cpu-amd-epyc"),
        ("8xh100-80g-4d5e6f", "8xh100-80g"),
        ("4xa100-sxm4-80g-4xh100-80g-ib-400g-4d5e6f", "4xa100-sxm4-80g-4xh100-80g"),
        ("1xodd-4d5e6f", "1xodd"),
    ],
)
def test_a_place_says_which_devices_it_has(hardware_id: str, devices: str) -> None:
    assert Place(hardware_id, 2, "2.13", "0.1").devices == devices


def test_long_names_of_places_are_broken_after_hyphens() -> None:
    names = [f"amd-epyc-2c-24g-lo-{number}50mbit · 2 ranks" for number in range(7)]
    drawn = heatmap(["ddp"], names, {}, low=0.0, high=1.0, colour="var(--good)")
    assert drawn.layout.xaxis.ticktext[0].split("<br>") == ["amd-epyc-2c-", "24g-lo-050mbit", "2 ranks"]


def test_a_plan_tried_after_a_sweep_wins_if_it_is_surely_faster(make: Callable[..., Path]) -> None:
    finals = [
        {
            **row,
            "trial_id": f"{row['trial_id']}-{n}",
            "role": "final",
            "round": n,
            "tokens_per_s": row["tokens_per_s"] + n,
        }
        for row in rates(ddp=900, zero2=890)
        for n in (1, 2, 3)
    ]
    far = [{**rates(zero3=5000)[0], "role": "run"}]
    near = [{**rates(zero3=903)[0], "role": "run"}]
    assert winners.data(only(make("far", slow=[*finals, *far]))).lines[0].kind == "zero3"
    assert winners.data(only(make("near", slow=[*finals, *near]))).lines[0].kind == "ddp"


def test_places_that_differ_in_nothing_known_have_no_crossings(two: Path) -> None:
    assert crossings.data(only(two)) is None


def test_different_workloads_are_never_compared(make: Callable[..., Path]) -> None:
    other = [{**row, "workload_id": "another-0000", "workload": "another"} for row in rates(zero1=5, ddp=4)]
    found = Comparison.read([make(slow=[*rates(ddp=900), *renamed(other, "o")])])
    assert len(found.contests) == 2
    across = overview.data(found)
    assert across is not None
    assert [(line.kind, line.against_ddp) for line in across.lines] == [("zero1", 1.25), ("ddp", 1.0)]
    assert "900" not in json.dumps([vars(line) for line in across.lines])


def test_sweeps_of_different_workloads_are_refused(make: Callable[..., Path]) -> None:
    other = [{**row, "workload_id": "another-0000"} for row in rates(ddp=4)]
    folder = make(sweep="one", slow=rates(ddp=900))
    make(sweep="two", slow=other)
    with pytest.raises(InputError, match="trained different things, so their speeds cannot be compared"):
        Comparison.read([folder], sweeps=["one", "two"])


def test_sweeps_of_one_workload_are_places_of_their_own(make: Callable[..., Path]) -> None:
    folder = make(sweep="before", slow=rates(ddp=900))
    make(sweep="after", slow=rates(ddp=800))
    found = winners.data(only(folder, sweeps=["before", "after"]))
    assert {line.place: line.tokens_per_s for line in found.lines} == {"before": 900, "after": 800}


def test_versions_are_places_of_their_own_and_named_by_what_differs(make: Callable[..., Path]) -> None:
    newer = [{**row, "torch_version": "2.1"} for row in rates(ddp=950)]
    found = winners.data(only(make(slow=[*rates(ddp=900), *renamed(newer, "n")])))
    assert [line.place for line in found.lines] == ["torch 2.0", "torch 2.1"]


def test_a_trial_that_stands_in_two_folders_counts_once(make: Callable[..., Path]) -> None:
    one = make("one", slow=rates(ddp=900, zero2=1000))
    make("two", slow=rates(ddp=900, zero2=1000), fast=rates(ddp=9000))
    found = Comparison.read([one, one.parent / "two"])
    assert (found.trials, found.repeated) == (3, 2)
    assert [len(entry.plans) for entry in found.contests[0].entries] == [1, 2]


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["cpu-a-2c-8g-11", "cpu-a-4c-8g-22"], ["2c-8g", "4c-8g"]),
        (["cpu-a-2c-8g-11", "cpu-a-2c-8g-22"], ["11", "22"]),
        (["cpu-a-2c-8g-11"], ["cpu-a-2c-8g-11"]),
        (["cpu-a-11", "8xh100-80g-22"], ["cpu-a", "8xh100-80g"]),
    ],
)
def test_hardware_is_named_by_what_differs(ids: list[str], names: list[str]) -> None:
    assert short_hardware(ids) == dict(zip(ids, names, strict=True))


def test_prices_and_peaks_normalise(two: Path) -> None:
    Store(two).write_peaks(SLOW, {"copy_bytes_per_s": 1e12})
    contest = only(two, prices={SLOW: 3.6})
    line = winners.data(contest).lines[1]
    assert line.price == pytest.approx(1e9 / 1000 * 3.6 / 3600)
    assert line.bandwidth is None  # without gradients held nothing is known of the state
    assert winners.data(contest).lines[0].price is None


def test_the_share_of_the_copy_rate_is_that_of_the_state_of_all_ranks(make: Callable[..., Path]) -> None:
    rows = [{**row, "memory_grads_held_bytes": 40 * MIB} for row in rates(ddp=1000)]
    folder = make(slow=rows)
    Store(folder).write_peaks(SLOW, {"copy_bytes_per_s": 1e9})
    state = (40 + 40 + 80) * MIB
    assert winners.data(only(folder)).lines[0].bandwidth == pytest.approx(2 * 2 * state / 0.8 / 1e9)


def test_a_plan_that_broke_its_limit_does_not_win(make: Callable[..., Path]) -> None:
    rows = rates(ddp=900, zero2=1000)
    rows[1] |= {"memory_limit_bytes": 300 * MIB}
    assert winners.data(only(make(slow=rows))).lines[0].kind == "ddp"


def test_the_page_is_whole_and_loads_nothing(two: Path, tmp_path: Path) -> None:
    path = tmp_path / "comparison.html"
    path.write_text(render(Comparison.read([two])), encoding="utf-8")
    page = Page(path)
    assert page.references() == []
    assert [a["id"] for tag, a in page.elements if tag == "section"] == ["winners", "strategies", "transfer"]


def test_markdown_has_a_table_of_winners_and_of_transfer(two: Path) -> None:
    text = markdown(Comparison.read([two], prices={SLOW: 1.0}))
    assert f"| {SLOW_NAME} ({SLOW}) | zero2 dp2 | 1,000 (980.0 to 1,020) |" in text
    assert f"| {FAST_NAME} | own | -10.0 % |" in text


def test_markdown_of_hostile_names_stays_text(make: Callable[..., Path]) -> None:
    rows = [trial("t1", 900, {"data_parallel": "a|b<script>`x`\n[y](z)"}), trial("t2", 800)]
    text = markdown(Comparison.read([make(slow=rows)]))
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "a\\|b\\<script\\>\\`x\\` \\[y\\](z)" in text


def test_json_holds_base_units(two: Path) -> None:
    found = json.loads(as_json(Comparison.read([two])))
    (workload,) = found["workloads"]
    assert workload["winners"][1]["tokens_per_s"] == 1000
    assert {
        "winner_of": FAST_NAME,
        "run_on": SLOW_NAME,
        "loss": pytest.approx(0.1),
        "tied": False,
        "missing": "",
    } in workload["transfer"]
    assert workload["crossings"] == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"workload": "gpt-nan"}, UnknownNameError, "did you mean"),
        ({"sweeps": ["nosuch"]}, UnknownNameError, "sweep"),
    ],
)
def test_unknown_names_are_refused(two: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Comparison.read([two], **options)


def test_a_folder_without_trials_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no trial"):
        Comparison.read([tmp_path / "nothing"])


def test_where_nothing_succeeded_there_is_nothing_to_compare(make: Callable[..., Path]) -> None:
    rows = [{**row, "outcome": "crash"} for row in rates(ddp=900)]
    with pytest.raises(InputError, match="no trial of these folders succeeded"):
        Comparison.read([make(slow=rows)])


@pytest.mark.parametrize("text", ["x = 'dear'", "x = -1", "x = true", "not toml", "x = 0"])
def test_a_price_list_that_is_none_is_refused(two: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "price.toml"
    path.write_text(text)
    with pytest.raises(InputError, match="price"):
        compare([two], "json", tmp_path, price=path)


def test_an_unknown_format_is_refused(two: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="format"):
        compare([two], "pdf", tmp_path)


def test_an_unreadable_file_is_named_and_the_rest_compared(two: Path, tmp_path: Path) -> None:
    broken = two / "trials" / f"hardware_id={SLOW}" / "sweep=s" / "broken.parquet"
    broken.write_bytes(b"nothing")
    path, problems = compare([two], "html", tmp_path / "reports")
    assert Path(path).exists()
    assert len(problems) == 1
    assert "broken.parquet cannot be read" in problems[0]
