from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.launchers.events import EventReader, EventWriter

LINE = b'{"kind": "beat", "t": 1.5, "step": 3}\n'
STEP = {"phase": "warmup", "step_time_s": 0.1, "grad_norm": 1.0, "accuracy": None, "memory_bytes": 5}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rank0.events"


def test_events_are_read_as_they_are_written(path: Path) -> None:
    writer, reader = EventWriter(path), EventReader(path)
    writer.write("phase", name="build", held_bytes=7)
    assert reader.poll()
    assert not reader.poll()
    writer.write("step", **STEP, step=0, loss=math.nan)
    writer.write("step", **STEP, step=1, loss=2.0)
    assert reader.poll()
    assert [event["kind"] for event in reader.events] == ["phase", "step", "step"]
    assert (reader.last("step") or {})["loss"] == 2.0
    assert [event["step"] for event in reader.all("step")] == [0, 1]
    assert (reader.last("done"), reader.baseline()) == (None, 7)


def test_a_file_that_is_not_there_yet_is_nothing_new(path: Path) -> None:
    reader = EventReader(path)
    assert (reader.poll(), reader.events, reader.baseline()) == (False, [], 0)


@given(sizes=st.lists(st.integers(1, 40), max_size=12))
def test_lines_are_whole_however_the_file_grows(sizes: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    data, path = LINE * 6, tmp_path_factory.mktemp("trial") / "rank0.events"
    reader = EventReader(path)
    ends = [*itertools.accumulate(sizes), len(data)]
    for begin, end in itertools.pairwise([0, *ends]):
        with path.open("ab") as file:
            file.write(data[begin:end])
        reader.poll()
    assert (len(reader.events), reader.garbage) == (6, 0)


def test_half_a_line_waits_for_its_other_half(path: Path) -> None:
    reader = EventReader(path)
    path.write_bytes(LINE + LINE[:10])
    assert reader.poll()
    assert (len(reader.events), reader.garbage) == (1, 0)
    with path.open("ab") as file:
        file.write(LINE[10:])
    assert reader.poll()
    assert (len(reader.events), reader.garbage) == (2, 0)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\x00\xfe",
        b"[1, 2]",
        b"null",
        b'{"kind": 3, "t": 1.0}',
        b'{"kind": "step"}',
        b'{"kind": "step", "t": 1.0}',
        b'{"kind": "beat", "t": 1.0, "step": "3"}',
        b'{"kind": "done", "t": 1.0, "peak_memory_bytes": NaN}',
        b"{",
        b"NaN",
        b"[" * 100_000,
    ],
)
def test_what_is_no_event_is_counted_and_skipped(garbage: bytes, path: Path) -> None:
    reader = EventReader(path)
    path.write_bytes(LINE + garbage + b"\n" + LINE)
    reader.poll()
    assert (len(reader.events), reader.garbage) == (2, 1)


def test_an_exception_is_written_with_its_type_message_and_place(path: Path) -> None:
    try:
        raise ValueError("a shape does not fit")
    except ValueError as error:
        EventWriter(path).error(error, "crash")
    event = json.loads(path.read_text())
    assert (event["kind"], event["type"], event["message"]) == ("error", "ValueError", "a shape does not fit")
    assert event["outcome"] == "crash"
    assert "test_events.py" in event["traceback"]


def test_an_exception_without_words_is_told_by_its_type(path: Path) -> None:
    EventWriter(path).error(KeyboardInterrupt(), "crash")
    assert json.loads(path.read_text())["message"] == "KeyboardInterrupt"


def test_an_event_is_whole_though_something_else_wrote_to_its_file(path: Path) -> None:
    writer, reader = EventWriter(path), EventReader(path)
    writer.write("beat", step=1)
    with path.open("ab") as file:
        file.write(b"half a line of something else")
    writer.write("beat", step=2)
    reader.poll()
    assert ([event["step"] for event in reader.events], reader.garbage) == ([1, 2], 1)
