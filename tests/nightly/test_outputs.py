from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET

from harness.nightly import outputs
from harness.nightly.environment import Change, changes
from harness.nightly.findings import Finding, Verdict

from .invented import World

HOSTILE = "<b>|%0A::error::\x00\n"
FINDINGS = (
    Finding(
        plan="ddp", metric="step_time_s", verdict=Verdict.PASS, why="fine", value=0.1, baseline=0.1, low=0.09, high=0.11
    ),
    Finding(
        plan="zero2", metric="step_time_s", verdict=Verdict.CONFIRMED, why=f"slower {HOSTILE}", value=0.2, baseline=0.1
    ),
    Finding(plan="zero3", metric="step_time_s", verdict=Verdict.NOT_MEASURED, why="it crashed"),
    Finding(plan="tp", metric="tokens_per_s", verdict=Verdict.INSUFFICIENT, why="run more", value=1000.0),
)
NIGHT = World().past(1)[0]


def test_markdown_has_the_most_urgent_first_and_what_changed() -> None:
    text = outputs.markdown(NIGHT, FINDINGS, (Change("torch", "2.12", "2.13"),), "python -m harness nightly run")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == ["| CONFIRMED", "| NOT_MEASURED", "| INSUFFICIENT", "| PASS"]
    assert "200 ms (+100.0 % against 100 ms)" in text
    assert "- torch: 2.12 -> 2.13" in text
    assert "<b>" not in text


def test_junit_fails_what_is_confirmed_and_can_be_parsed() -> None:
    root = ET.fromstring(outputs.junit(NIGHT, FINDINGS))
    assert {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    failed = [case.get("classname") for case in root if case.find("failure") is not None]
    assert failed == ["nightly.team.zero2"]


def test_annotations_of_github_cannot_be_broken_out_of() -> None:
    lines = outputs.github(FINDINGS).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::error", "::error"]
    assert "%25" in lines[0]
    assert "%0A" in lines[0]


def test_github_action_benchmark_gets_values_where_less_is_better() -> None:
    entries = json.loads(outputs.benchmark_json(FINDINGS, bigger_is_better=False))
    assert [(entry["name"], entry["value"], entry["unit"]) for entry in entries] == [
        ("ddp step_time_s", 0.1, "s"),
        ("zero2 step_time_s", 0.2, "s"),
    ]
    assert len(json.loads(outputs.benchmark_json(FINDINGS, bigger_is_better=True))) == 1


def test_otava_gets_a_line_a_night() -> None:
    nights = World().past(3)
    lines = list(csv.DictReader(io.StringIO(outputs.otava_csv(nights))))
    assert len(lines) == 3
    assert lines[0]["time"] == "2026-01-01T01:00:00+00:00"
    assert float(lines[0]["ddp.step_time_s"]) > 0.5


def test_what_changed_is_what_differs() -> None:
    assert changes({"torch": "1", "kernel": "6"}, {"torch": "2", "kernel": "6", "driver": "5"}) == (
        Change("driver", "-", "5"),
        Change("torch", "1", "2"),
    )


def test_the_headline_counts_the_most_urgent_first() -> None:
    assert outputs.headline(FINDINGS) == "1 CONFIRMED, 1 NOT_MEASURED, 1 INSUFFICIENT, 1 PASS"
