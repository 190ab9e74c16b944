from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from plotly.offline import get_plotlyjs

from harness.errors import InputError, StoreError
from harness.report import build
from harness.report.panels.panel import TOP
from harness.report.sweep_page import render
from harness.report.sweep_view import SweepView
from harness.store import records
from harness.store.store import Store
from tests.html import Page

from .rows import HARDWARE, SWEEP, failure, step_rows, trial

Make = Callable[..., Store]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;<!--"


def page(store: Store, folder: Path) -> Page:
    return Page(build(store, HARDWARE, SWEEP, folder))


def test_the_page_is_one_file_named_after_the_sweep(make_store: Make, tmp_path: Path) -> None:
    path = build(make_store(), HARDWARE, SWEEP, tmp_path / "reports")
    assert path == tmp_path / "reports" / f"{SWEEP}.html"
    assert list(path.parent.iterdir()) == [path]


def test_nothing_in_the_page_refers_to_another_file(make_store: Make, tmp_path: Path) -> None:
    assert page(make_store(), tmp_path).references() == []


def test_plotly_is_in_the_page_once(make_store: Make, tmp_path: Path) -> None:
    assert build(make_store(), HARDWARE, SWEEP, tmp_path).read_text(encoding="utf-8").count(get_plotlyjs()) == 1


def test_only_the_pages_own_scripts_may_run(make_store: Make, tmp_path: Path) -> None:
    found = page(make_store(), tmp_path)
    policy = next(a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy") or ""
    code = [text for kind, text in found.scripts if kind != "application/json"]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code]
    assert re.findall("sha256-([^']+)'", policy) == digests
    assert policy.startswith("default-src 'none'")


def test_every_chart_has_a_figure_that_plotly_can_read(make_store: Make, tmp_path: Path) -> None:
    found = page(make_store(), tmp_path)
    charts = {a["id"] for _, a in found.elements if a.get("class") == "chart"}
    figures = [a for tag, a in found.elements if tag == "script" and "data-of" in a]
    assert len(charts) == 10
    assert {a["data-of"] for a in figures} == charts
    blocks = [json.loads(text) for kind, text in found.scripts if kind == "application/json"]
    drawn = [block for block in blocks if "layout" in block]
    assert len(drawn) == len(figures)
    assert all(figure["data"] for figure in drawn)


def test_what_a_point_stands_for_is_a_line_of_the_table(make_store: Make, tmp_path: Path) -> None:
    found = page(make_store(), tmp_path)
    blocks = [json.loads(text) for kind, text in found.scripts if kind == "application/json"]
    (trials,) = [block for block in blocks if "ids" in block]
    rows = [(a["id"] or "").removeprefix("trial-") for tag, a in found.elements if tag == "tr" and a.get("id")]
    assert trials["ids"] == rows
    used = {
        at for block in blocks if "layout" in block for trace in block["data"] for at in trace.get("customdata", [])
    }
    assert used == {0, 1, 2, 3}


def test_hostile_names_and_reasons_stay_text(make_store: Make, tmp_path: Path) -> None:
    rows = [trial("a1", plan={"data_parallel": HOSTILE}), failure("b2", "crash", HOSTILE)]
    harmless = page(make_store([trial("c3"), failure("d4", "crash", "no")]), tmp_path / "1")
    store = Store(tmp_path / "other")
    for row in rows:
        store.append(HARDWARE, SWEEP, row)
    store.write_sweep_info(
        HARDWARE, SWEEP, {"command": HOSTILE, "repeat": {"a1": HOSTILE}, "hardware": {HOSTILE: HOSTILE}}
    )
    hostile = page(store, tmp_path / "2")
    code = [text for kind, text in harmless.scripts if kind is None]
    assert [text for kind, text in hostile.scripts if kind is None] == code
    assert not [tag for tag, _ in hostile.elements if tag == "img"]
    assert hostile.text.count(HOSTILE) >= 5


def test_hostile_names_are_not_markup_for_plotly_either(make_store: Make, tmp_path: Path) -> None:
    found = page(make_store([trial("a1", plan={"data_parallel": HOSTILE})]), tmp_path)
    blocks = [text for kind, text in found.scripts if kind == "application/json"]
    assert all("<" not in text for text in blocks)
    figures = [json.dumps(block) for text in blocks if "layout" in (block := json.loads(text))]
    assert not any("<script" in figure for figure in figures)
    assert any("&lt;/script&gt;" in figure for figure in figures)


def test_a_page_where_everything_failed_says_so(make_store: Make, tmp_path: Path) -> None:
    text = page(make_store([failure("a1", "oom_host", "killed")]), tmp_path).text
    assert "No plan succeeded" in text
    assert "The reason: killed" in text


def test_the_page_of_one_trial_is_whole(make_store: Make, tmp_path: Path) -> None:
    text = page(make_store([trial("a1")]), tmp_path).text
    assert "the only plan that succeeded" in text
    assert "Environment" in text


def test_a_sweep_that_recorded_nothing_of_itself_has_a_page(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    store.append(HARDWARE, SWEEP, trial("a1"))
    assert "1,000 tokens/s" in page(store, tmp_path).text


def test_an_unreadable_file_is_named_on_the_page(make_store: Make, tmp_path: Path) -> None:
    store = make_store()
    broken = next((store.root / "trials").glob("*/*")) / "broken.parquet"
    broken.write_bytes(b"not parquet")
    assert "broken.parquet cannot be read" in page(store, tmp_path).text


def test_a_second_build_replaces_the_page(make_store: Make, tmp_path: Path) -> None:
    store = make_store([trial("a1", 1000)])
    build(store, HARDWARE, SWEEP, tmp_path / "reports")
    store.append(HARDWARE, SWEEP, trial("b2", 2000))
    path = build(store, HARDWARE, SWEEP, tmp_path / "reports")
    assert "2,000 tokens/s" in Page(path).text
    assert list(path.parent.iterdir()) == [path]


def test_an_unknown_sweep_writes_nothing(make_store: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        build(make_store(), HARDWARE, "unknown", tmp_path / "reports")
    assert not (tmp_path / "reports").exists()


def test_a_folder_that_cannot_be_written_is_named(make_store: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="file cannot be written"):
        build(make_store(), HARDWARE, SWEEP, tmp_path / "file")


def test_the_page_of_2000_trials_stays_under_eight_megabytes() -> None:
    plans = [
        {"micro_batch_size": 2 ** (i % 4), "bucket_mb": float(1 + i % 50), "data_parallel": f"zero{i % 3 + 1}"}
        for i in range(2000)
    ]
    rows = [records.row(records.TRIALS, trial(f"t{i}", 1000 + i, plan)) for i, plan in enumerate(plans)]
    steps = [step for row in rows[-TOP:] for step in step_rows(row, steps=30)]
    frames = {"trials": pd.DataFrame(rows), "steps": pd.DataFrame(steps)}
    view = SweepView(sweep=SWEEP, hardware_id=HARDWARE, references={}, info={}, **frames)
    assert len(render(view).encode()) < 8e6
