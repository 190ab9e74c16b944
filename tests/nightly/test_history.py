from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError, StoreError
from harness.nightly.history import History, new_night

from .invented import HARDWARE, World, night, stamp


def history(root: Path) -> History:
    return History(root, "team", HARDWARE)


def test_a_night_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = World().past(3)
    for one in made:
        history(tmp_path).write(one)
    assert history(tmp_path).nights() == made
    assert [path.suffix for path in history(tmp_path).folder.iterdir()] == [".json"] * 3


def damaged(**fields: Any) -> bytes:
    """A night with fields of the wrong kind."""
    return json.dumps({**asdict(World().past(1)[0]), **fields}).encode()


DAMAGES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"night": 3}',
    b"\xff\xfe",
    damaged(night="monday"),
    damaged(environment=None),
    damaged(verdicts=[3]),
    damaged(sessions=3),
    damaged(sessions=[{"purpose": "screen", "values": []}]),
    damaged(sessions=[{"purpose": "screen", "values": {"ddp": {"step_time_s": ["fast"]}}}]),
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_night_is_named_and_the_rest_is_read(damage: bytes, tmp_path: Path) -> None:
    made = World().past(3)
    for one in made:
        history(tmp_path).write(one)
    (history(tmp_path).folder / f"{stamp(1)}.json").write_bytes(damage)
    read = history(tmp_path)
    assert [one.night for one in read.nights()] == [stamp(0), stamp(2)]
    assert len(read.problems) == 1
    assert "is skipped" in read.problems[0]


def test_fields_of_a_later_version_are_left_alone(tmp_path: Path) -> None:
    path = history(tmp_path).write(World().past(1)[0])
    found = json.loads(path.read_text())
    found["mood"] = "good"
    found["sessions"][0]["mood"] = "good"
    path.write_text(json.dumps(found))
    assert len(history(tmp_path).nights()) == 1


def test_names_of_nights_sort_in_time_through_daylight_saving() -> None:
    # On the last Sunday of October 2026 clocks in Europe show 02:30 twice.
    names = [new_night(datetime(2026, 10, 25, hour, 30, tzinfo=UTC)) for hour in (0, 1)]
    assert names == sorted(names)
    assert new_night() != new_night()


def test_two_nights_of_a_suite_are_not_run_at_once(tmp_path: Path) -> None:
    refused = pytest.raises(InputError, match="another process is running a night")
    with history(tmp_path).alone(), refused, history(tmp_path).alone():
        pass
    with history(tmp_path).alone():
        assert history(tmp_path).nights() == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "nightly").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        history(tmp_path).write(night(0, []))
