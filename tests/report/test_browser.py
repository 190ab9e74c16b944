"""The pages in a real browser."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from harness.report import build, pages
from harness.report.comparison import compare
from harness.report.document import write
from harness.report.panels.ranking import SHOWN
from harness.report.sweep_page import render
from harness.report.sweep_view import SweepView
from harness.store.records import TRIALS
from harness.store.store import Store

from .browser import NARROW, WIDE, Opened, opened, started
from .conftest import recorded
from .rows import HARDWARE, INFO, MIB, SWEEP, decided, failure, step_rows, trial, typical

Make = Callable[..., Store]
Open = Callable[..., Any]
LIGHT_INK = "rgb(27, 35, 48)"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;<!--"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as found:
        yield found


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep with finalists, which most tests look at."""
    folder = tmp_path_factory.mktemp("usual")
    return build(recorded(folder / "results", decided()), HARDWARE, SWEEP, folder / "reports")


@pytest.fixture
def show(browser: Any, usual: Path, make_store: Make, tmp_path: Path) -> Open:
    """A function that opens the page of some trials, the usual ones if none are given."""

    def of(rows: list[dict[str, Any]] | None = None, *, anchor: str = "", width: int = WIDE, dark: bool = False) -> Any:
        path = usual if rows is None else build(make_store(rows), HARDWARE, SWEEP, tmp_path / "reports")
        return opened(browser, f"{path.as_uri()}{anchor}", width=width, dark=dark)

    return of


def many(count: int) -> list[dict[str, Any]]:
    plans = [{"data_parallel": name, "micro_batch_size": 2**size} for name in ("ddp", "zero2") for size in range(4)]
    return [trial(f"t{at}", 1000 + at, {**plans[at % len(plans)], "bucket_mb": float(at)}) for at in range(count)]


def draw_everything(found: Opened) -> int:
    keys = found.page.eval_on_selector_all(".chart", "all => all.map(one => one.id.replace(/-chart$/, ''))")
    for key in keys:
        found.drawn(key)
    return len(keys)


def test_every_chart_is_drawn_without_an_error_or_a_request(show: Open) -> None:
    with show() as found:
        assert draw_everything(found) >= 10
        assert found.errors == []
        assert [address for address in found.requests if not address.startswith(("file:", "data:", "blob:"))] == []
        assert len([address for address in found.requests if address.startswith("file:")]) == 1


def test_a_heading_sorts_by_mouse_and_by_keyboard(show: Open) -> None:
    with show() as found:
        head = found.page.locator("#plans thead button", has_text="peak memory")
        keys = "#plans tbody tr:not(.failed) td:nth-child({}) >> visible=true"
        at = 1 + head.evaluate("button => button.closest('th').cellIndex")
        head.click()
        rising = [float(text) for text in found.texts(keys.format(at))]
        assert rising == sorted(rising)
        assert len(set(rising)) > 1
        head.focus()
        found.page.keyboard.press("Enter")
        assert [float(text) for text in found.texts(keys.format(at))] == sorted(rising, reverse=True)
        assert head.evaluate("button => button.closest('th').ariaSort") == "descending"


def test_the_filter_leaves_the_plans_that_hold_every_word(show: Open) -> None:
    with show() as found:
        found.page.locator('[data-filter="plans"]').fill("zero2 bf16")
        (left,) = found.texts("#plans tbody tr:visible th")
        assert left.startswith("zero2 dp2 · mb 4 · bf16_autocast")
        assert found.texts('[data-count="plans"]') == ["1 of 6 rows"]
        found.page.locator('[data-filter="plans"]').fill("nothing of the kind")
        assert found.texts("#plans tbody tr:visible th") == []


def test_a_column_can_be_hidden(show: Open) -> None:
    with show() as found:
        found.page.locator(".columns summary").click()
        box = found.page.locator(".columns label", has_text="step time").locator("input")
        heads = found.texts("#plans thead th:visible")
        assert any(text.startswith("step time") for text in heads)
        box.uncheck()
        left = found.texts("#plans thead th:visible")
        assert len(left) == len(heads) - 1
        assert not any(text.startswith("step time") for text in left)
        assert len(found.texts("#plans tbody tr:first-child > :visible")) >= len(left)


def test_a_click_on_a_point_selects_its_plan_everywhere(show: Open) -> None:
    with show() as found:
        chart = found.drawn("pareto")
        chart.locator(".scatterlayer .trace .point").last.click(force=True)
        bar = found.page.locator("#selection")
        bar.wait_for()
        name = bar.locator(".name").inner_text()
        row = found.page.locator("#plans tr.selected")
        assert row.locator("th").inner_text().split("\n")[0].startswith(name.partition(" ")[2][:12])
        assert found.page.evaluate("location.hash") == f"#{row.get_attribute('id')}"
        dimmed = found.page.evaluate(
            "document.getElementById('pareto-chart').data.filter(t => t.customdata && t.selectedpoints).length"
        )
        assert dimmed > 0
        found.page.keyboard.press("Escape")
        assert not bar.is_visible()
        assert found.page.locator("tr.selected").count() == 0
        assert found.errors == []


def test_a_link_to_a_trial_opens_at_its_row(show: Open) -> None:
    with show(anchor="#trial-d4") as found:
        row = found.page.locator("#trial-d4")
        assert "selected" in (row.get_attribute("class") or "")
        assert found.page.locator("#selection").is_visible()
        box = row.bounding_box()
        assert 0 <= box["y"] <= 900


def test_a_failure_selects_its_row_too(show: Open) -> None:
    with show() as found:
        found.page.locator('#failed a[href="#trial-e5"]').click()
        assert "selected" in found.page.locator("#trial-e5").get_attribute("class")
        assert "oom_host" in found.page.locator("#trial-e5").inner_text()


def test_losses_can_be_drawn_over_tokens_and_wall_time(show: Open) -> None:
    with show() as found:
        chart = found.drawn("losses")
        titles = []
        for choice in ("by tokens", "by wall time", "by step"):
            found.page.locator('[data-variant-of="losses-chart"]').select_option(label=choice)
            titles.append(chart.locator(".xtitle").text_content())
        assert titles == ["tokens", "time in steps (s)", "step"]
        assert found.errors == []


def test_the_table_behind_a_chart_is_its_data_also_as_csv(show: Open, tmp_path: Path) -> None:
    with show() as found:
        found.page.locator("#memory .behind summary").click()
        assert len(found.texts("#memory .behind tbody tr")) == 4
        with found.page.expect_download() as download:
            found.page.locator("#memory .behind button[data-csv]").click()
        path = tmp_path / "memory.csv"
        download.value.save_as(path)
        assert download.value.suggested_filename == f"{SWEEP}-memory.csv"
        lines = list(csv.DictReader(path.open(encoding="utf-8")))
        assert float(lines[0]["parameters B"]) == 40 * MIB
        assert {float(line["measured peak B"]) for line in lines} == {mib * MIB for mib in (400, 300, 250, 200)}


def test_the_ranked_table_downloads_with_unrounded_numbers(show: Open, tmp_path: Path) -> None:
    path = tmp_path / "plans.csv"
    with show(typical()) as found:
        with found.page.expect_download() as download:
            found.page.locator('[data-csv-of="plans"]').click()
        download.value.save_as(path)
    lines = list(csv.reader(path.open(encoding="utf-8")))
    at = next(number for number, name in enumerate(lines[0]) if name.startswith("step time"))
    assert float(lines[1][at]) == pytest.approx(1e3 * 800 / 1100, rel=1e-5)


def luminance(found: Opened, selector: str, what: str) -> float:
    colour = found.page.eval_on_selector(selector, f"e => getComputedStyle(e).{what}")
    red, green, blue = (float(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


def test_dark_mode_is_dark_in_the_charts_too(show: Open) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    with show(dark=True) as found:
        assert luminance(found, "body", "backgroundColor") < 0.15
        assert luminance(found, "body", "color") > 0.8
        found.drawn("pareto")
        assert luminance(found, "#pareto-chart .xtitle", "fill") > 0.8
        found.page.emulate_media(color_scheme="light")
        expect(found.page.locator("#pareto-chart .xtitle")).to_have_css("fill", LIGHT_INK)


def test_a_phone_shows_it_without_scrolling_sideways(show: Open) -> None:
    with show(width=NARROW) as found:
        draw_everything(found)
        assert found.page.evaluate("document.documentElement.scrollWidth") <= NARROW
        hidden = found.page.locator("#plans thead th", has_text="launches")
        assert not hidden.is_visible()
        assert found.errors == []


def test_print_has_every_chart_and_no_button(show: Open, tmp_path: Path) -> None:
    with show() as found:
        found.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        found.page.emulate_media(media="print")
        assert not found.page.locator("nav").is_visible()
        assert found.page.locator(".chart:not([data-drawn])").count() == 0
        assert len(found.page.pdf()) > 50_000


@pytest.mark.parametrize(("width", "dark"), [(WIDE, False), (WIDE, True), (NARROW, False)])
def test_nothing_serious_keeps_anybody_from_using_it(show: Open, width: int, dark: bool) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with show(width=width, dark=dark) as found:
        draw_everything(found)
        found.page.locator("#memory .behind summary").click()
        found.page.locator('#failed a[href="#trial-e5"]').click()
        violations = axe.run(found.page).response["violations"]
        serious = {
            violation["id"]: [node["html"][:200] for node in violation["nodes"]]
            for violation in violations
            if violation["impact"] in ("serious", "critical")
        }
        assert serious == {}


def test_hostile_names_stay_text(show: Open) -> None:
    rows = [trial("a1", 900), trial("b2", plan={"data_parallel": HOSTILE}), failure("c3", "crash", HOSTILE)]
    with show(rows, anchor="#trial-b2") as found:
        draw_everything(found)
        assert found.errors == []
        assert HOSTILE in found.page.locator("#selection .name").inner_text()
        assert found.page.locator("main img, section script:not([type])").count() == 0


@pytest.mark.parametrize(
    "rows",
    [[trial("a1")], [failure("a1", "crash", "no luck"), failure("b2", "oom_host", "too large")]],
    ids=["one trial", "everything failed"],
)
def test_a_small_sweep_has_a_whole_page(show: Open, rows: list[dict[str, Any]]) -> None:
    with show(rows) as found:
        draw_everything(found)
        assert found.errors == []
        assert found.texts(".headline")


def test_a_page_of_two_thousand_trials_is_small_and_shows_the_first_ones(browser: Any, tmp_path: Path) -> None:
    rows = [{column.name: None for column in TRIALS} | row for row in many(2000)]
    steps = [step for row in rows[-50:] for step in step_rows(row)]
    frames = {"trials": pd.DataFrame(rows), "steps": pd.DataFrame(steps)}
    view = SweepView(sweep=SWEEP, hardware_id=HARDWARE, references={}, info=INFO, **frames)
    path = write(render(view), tmp_path / "many.html")
    assert path.stat().st_size < 8e6
    with opened(browser, path) as found:
        draw_everything(found)
        assert found.errors == []
        assert found.page.locator("#plans tbody tr:visible").count() == SHOWN
        found.page.locator('[data-filter="plans"]').fill("ddp")
        assert found.texts('[data-count="plans"]') == ["1,000 of 2,000 rows"]
        found.page.locator('[data-more="plans"]').click()
        assert found.page.locator("#plans tbody tr:visible").count() == 1000


def test_ten_numbers_of_the_page_are_those_of_the_store(make_store: Make, browser: Any, tmp_path: Path) -> None:
    store = make_store(many(12))
    path = build(store, HARDWARE, SWEEP, tmp_path)
    query = (
        "SELECT trial_id, tokens_per_s, step_time_s * 1000, peak_memory_bytes / 1048576 "
        f"FROM read_parquet('{store.root}/trials/**/*.parquet') ORDER BY tokens_per_s DESC LIMIT 10"
    )
    with opened(browser, path) as found:
        heads = [text.split("\n")[0].split(" ")[0] for text in found.texts("#plans thead th")]
        for trial_id, *values in duckdb.sql(query).fetchall():
            cells = found.page.locator(f"#trial-{trial_id} > *")
            for name, value in zip(("throughput", "step", "peak"), values, strict=True):
                shown = cells.nth(heads.index(name)).inner_text().split("\n")[0].replace(",", "")
                assert float(shown) == pytest.approx(value, rel=5e-3)


def test_a_watched_page_loads_itself_again_when_a_trial_is_recorded(make_store: Make, browser: Any) -> None:
    store = make_store([trial("a1", 1000)])
    server = pages(store, HARDWARE, SWEEP, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with opened(browser, server.address) as found:
            assert "1 trial," in found.page.locator(".summary").inner_text()
            store.append(HARDWARE, SWEEP, trial("b2", 2000))
            found.page.locator(".summary", has_text="2 trials").wait_for()
            assert found.errors == []
            assert {address.split("/")[2] for address in found.requests} == {server.address.split("/")[2]}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def compared(browser: Any, tmp_path: Path) -> Open:
    """A function that opens the page of a comparison of two places."""

    def of(*, width: int = WIDE, dark: bool = False) -> Any:
        store = Store(tmp_path / "results")
        for hardware, speed in ((HARDWARE, 1.0), (HOSTILE_PLACE, 7.0)):
            for row in typical():
                rate = {f"tokens_per_s{end}": row.get("tokens_per_s", 0.0) * speed for end in ("", "_low", "_high")}
                slower = rate if row["outcome"] == "ok" else {}
                store.append(hardware, SWEEP, {**row, **slower, "trial_id": f"{speed:.0f}-{row['trial_id']}"})
        for at, hardware in enumerate((HARDWARE, HOSTILE_PLACE), start=1):
            store.write_peaks(hardware, {"usable_cores": 2 * at, "flops_per_s": {"fp32": at * 1e11}})
        path, _ = compare([store.root], "html", tmp_path / "reports")
        return opened(browser, Path(path), width=width, dark=dark)

    return of


HOSTILE_PLACE = "synthetic-2core-<b onmouseover=alert(1)>"


@pytest.mark.parametrize(("width", "dark"), [(WIDE, False), (WIDE, True), (NARROW, False)])
def test_a_comparison_is_drawn_whole_and_anybody_can_use_it(compared: Open, width: int, dark: bool) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with compared(width=width, dark=dark) as found:
        assert draw_everything(found) == 3
        assert found.errors == []
        assert len(found.requests) == 1
        assert found.page.evaluate("document.documentElement.scrollWidth") <= width
        assert HOSTILE_PLACE in found.page.locator("#winners").inner_text()
        violations = axe.run(found.page).response["violations"]
        assert [v["id"] for v in violations if v["impact"] in ("serious", "critical")] == []


def test_the_table_of_winners_sorts(compared: Open) -> None:
    with compared() as found:
        found.page.locator("#winners thead button", has_text="throughput").click()
        rates = [text.split("\n")[0] for text in found.texts("#winners tbody td:nth-child(3)")]
        assert rates == ["1,100", "7,700"]
