"""The pages of nights, in a real browser too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.nightly import pages
from harness.nightly.acknowledge import Acknowledgement
from harness.nightly.environment import Change
from harness.nightly.history import History, Night
from harness.nightly.judge import judge
from harness.report.nightly.nights_view import labels
from tests.html import Page
from tests.report.browser import NARROW, WIDE, opened, started

from .invented import HARDWARE, SUITE, World, stamp

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as found:
        yield found


def followed(count: int = 25) -> tuple[list[Night], Any]:
    """Nights of which the last finds zero2 slower, and what it finds."""
    world = World(1)
    past = world.past(count)
    for night in past:
        night.verdicts = [{"plan": plan, "metric": "step_time_s", "verdict": "PASS"} for plan in SUITE.plans]
    world.slower["zero2"] = 1.1
    tonight = world.tonight(count)
    findings = judge(SUITE, past, tonight, (), world.measure)
    tonight.verdicts = [finding.to_json() for finding in findings]
    return [*past, tonight], findings


def built(folder: Path) -> Path:
    nights, findings = followed()
    entry = Acknowledgement(plan="*", metric="*", night=stamp(3), because=HOSTILE)
    ways = pages.commands(SUITE, Path("nightly.toml"), findings)
    changed = [Change("torch", HOSTILE, "2.13")]
    return pages.build(folder, SUITE, nights, findings, changed, [entry], ways, [f"{HOSTILE} cannot be read"])


def test_the_page_has_verdicts_first_and_loads_nothing(tmp_path: Path) -> None:
    page = Page(built(tmp_path))
    assert page.references() == []
    assert [a["id"] for tag, a in page.elements if tag == "section"] == ["verdicts", "series", "map", "changed"]
    assert "1 CONFIRMED, 1 PASS" in page.text
    assert "python -m harness nightly ack zero2 step_time_s" in page.text
    assert not [tag for tag, _ in page.elements if tag == "img"]


def test_the_command_that_repeats_a_confirmed_plan_has_its_settings() -> None:
    _, findings = followed()
    texts = [
        command for _, command in pages.commands(replace(SUITE, workload="gpt-nano", world_size=2), None, findings)
    ]
    assert "python -m harness run --workload gpt-nano --world-size 2 --set data_parallel=zero2" in texts


def test_old_pages_are_removed(tmp_path: Path) -> None:
    place = tmp_path / "nightly" / SUITE.name
    place.mkdir(parents=True)
    for number in range(pages.KEPT + 5):
        (place / f"2020{number:04}.html").write_text("")
    path = built(tmp_path)
    assert path.exists()
    assert len(list(place.glob("*.html"))) == pages.KEPT


def test_the_index_lists_every_night_and_links_those_that_are_kept(tmp_path: Path) -> None:
    nights, _ = followed()
    history = History(tmp_path / "results", SUITE.name, HARDWARE)
    for night in nights:
        history.write(night)
    kept = built(tmp_path / "reports")
    page = Page(pages.index(tmp_path / "results", tmp_path / "reports"))
    assert page.references() == [f"{SUITE.name}/{kept.name}"]
    assert page.text.count("1 CONFIRMED, 1 PASS") >= 1
    assert len([tag for tag, _ in page.elements if tag == "tr"]) == len(nights) + 1
    assert not any("Plotly" in text for kind, text in page.scripts if kind is None and len(text) > 1_000_000)


def test_a_night_that_could_not_be_measured_stands_in_the_map(tmp_path: Path) -> None:
    nights, findings = followed()
    nights[5].sessions[0].values.pop("ddp")
    nights[5].verdicts[0]["verdict"] = "NOT_MEASURED"
    page = pages.build(tmp_path, SUITE, nights, findings, (), (), (), ())
    assert '["ddp · step_time_s","2026-01-06 01:00","NOT_MEASURED"]' in page.read_text(encoding="utf-8")


def test_an_axis_names_days_and_the_time_where_a_day_has_two_nights() -> None:
    assert labels(["20260101T010000Z-a", "20260102T010000Z-b"])["20260101T010000Z-a"] == "2026-01-01"
    assert labels(["20260101T010000Z-a", "20260101T020000Z-b"])["20260101T010000Z-a"] == "2026-01-01 01:00"


@pytest.mark.parametrize(("width", "dark"), [(WIDE, False), (WIDE, True), (NARROW, False)])
def test_the_page_is_drawn_whole_and_anybody_can_use_it(browser: Any, tmp_path: Path, width: int, dark: bool) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(browser, built(tmp_path), width=width, dark=dark) as found:
        for key in ("series", "map"):
            found.drawn(key)
        found.page.locator('[data-variant-of="series-chart"]').select_option(index=1)
        assert found.errors == []
        assert len(found.requests) == 1
        assert found.page.evaluate("document.documentElement.scrollWidth") <= width
        violations = axe.run(found.page).response["violations"]
        assert {v["id"]: v["nodes"][0]["html"] for v in violations if v["impact"] in ("serious", "critical")} == {}
