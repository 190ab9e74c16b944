"""The stream a rank leaves behind: one JSON object a line, appended whole, readable while it grows."""

from __future__ import annotations

import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

Event = dict[str, Any]
"""`kind`, `t` (s on the machine's monotonic clock) and the fields of the kind:

phase   name: build (with held_bytes, what the rank holds before it begins), warmup, measure (with the readings of
        `Counters`) or teardown
beat    step: a sign of life where the step's numbers are not known yet
step    step, phase, step_time_s, loss, grad_norm, accuracy, memory_bytes
state   what was observed of memory and communication, once
profile what the profiler saw of memory and communication, once, if it was asked for
error   type, message, traceback, outcome ("oom_device", "oom_host" or "crash")
done    peak_memory_bytes, peak_reserved_bytes, stop (why the window ended), the readings of `Counters`
end     the rank has done all it should and leaves
"""

_NUMBER = (int, float)
_PERHAPS = (int, float, type(None))
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "phase": {"name": (str,)},
    "beat": {"step": (int,)},
    "step": {
        "step": (int,),
        "phase": (str,),
        "step_time_s": _NUMBER,
        "loss": _PERHAPS,
        "grad_norm": _PERHAPS,
        "accuracy": _PERHAPS,
        "memory_bytes": (int,),
    },
    "error": {"type": (str,), "message": (str,), "traceback": (str,), "outcome": (str,)},
}
"""Kind -> the fields without which the parent cannot use an event, and their types."""


class EventWriter:
    """Appends events to a file; a line is written with one system call, so a killed rank leaves whole lines.

    Each begins with a line end too: whatever else has written to the file cannot run into it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event; fields must be JSON values."""
        line = json.dumps({"kind": kind, "t": time.monotonic(), **fields}, allow_nan=True)
        os.write(self._file, b"\n" + line.encode() + b"\n")

    def error(self, error: BaseException, outcome: str) -> None:
        """Append the exception that ends this rank."""
        text = "".join(traceback.format_exception(error))
        message = str(error).strip() or type(error).__name__
        self.write("error", type=type(error).__name__, message=message[:2000], traceback=text[-8000:], outcome=outcome)


class EventReader:
    """Reads a rank's events as they arrive. Lines that are not events are counted in `garbage` and skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        self.garbage = 0
        self._offset, self._rest = 0, b""

    def poll(self) -> bool:
        """Read what was appended since the last call; whether there was anything."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return False
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        return bool(data)

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line or b"null")
        except (ValueError, RecursionError):
            event = None
        if _is_event(event):
            self.events.append(event)
        elif line:
            self.garbage += 1

    def last(self, kind: str) -> Event | None:
        """The latest event of a kind."""
        return next((event for event in reversed(self.events) if event["kind"] == kind), None)

    def baseline(self) -> int:
        """Bytes the rank held before it built anything; 0 if it did not come that far."""
        return next((int(event.get("held_bytes", 0)) for event in self.events if event["kind"] == "phase"), 0)

    def all(self, kind: str) -> list[Event]:
        """Every event of a kind, in order."""
        return [event for event in self.events if event["kind"] == kind]


def _is_event(found: Any) -> bool:
    if not (isinstance(found, dict) and isinstance(found.get("kind"), str) and isinstance(found.get("t"), float)):
        return False
    sizes = [value for name, value in found.items() if name.endswith(("_bytes", "_bytes_per_step"))]
    fields = _FIELDS.get(found["kind"], {})
    return all(isinstance(size, int) for size in sizes) and all(
        name in found and isinstance(found[name], types) for name, types in fields.items()
    )
