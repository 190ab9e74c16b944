"""What was seen of a trial that did not end well, as JSON, for whoever wants to know why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.launchers.events import Event, EventReader
from harness.launchers.launcher import RankExit
from harness.trial.outcome import signal_name
from harness.trial.supervise import Trace

OUTPUT = 2 << 10
"""Bytes of the end of a rank's output."""
TRACEBACK = 2 << 10
"""Characters of the end of an exception's traceback."""
STACKS = 8 << 10
"""Characters of a hanging rank's Python stacks."""


def of(trace: Trace) -> str:
    """A JSON object: `ranks`, one object each in order, and `kernel_oom_kills` of the whole machine if there were any.

    A rank has `rank` and, where it is known: `exit_status` or `signal` of a rank that ended by itself, `order` in which
    it did; `last`, its last event; `output`, the end of what it printed; `traceback`; `oom_kills` of its control group;
    `stacks`, of a rank that hangs; `garbage`, lines among its events that are none.
    """
    ranks = [_of_rank(trace, rank, reader) for rank, reader in enumerate(trace.readers)]
    found: dict[str, Any] = {"ranks": ranks}
    if trace.kernel_oom_kills:
        found["kernel_oom_kills"] = trace.kernel_oom_kills
    return json.dumps(found, ensure_ascii=False)


def _of_rank(trace: Trace, rank: int, reader: EventReader) -> dict[str, Any]:
    error = reader.last("error")
    output = trace.outputs[rank] if rank < len(trace.outputs) else ""
    found = {
        "last": _last(reader),
        "output": output.encode()[-OUTPUT:].decode(errors="ignore"),
        "traceback": error["traceback"][-TRACEBACK:] if error else None,
        "oom_kills": trace.rank_oom_kills.get(rank),
        "stacks": trace.stacks.get(rank, "")[:STACKS],
        "garbage": reader.garbage,
    }
    return {"rank": rank, **_of_exit(trace.exits, rank), **{name: value for name, value in found.items() if value}}


def _of_exit(exits: list[RankExit], rank: int) -> Mapping[str, Any]:
    for order, ended in enumerate(exits):
        if ended.rank == rank:
            status = ended.status
            if status is not None and status < 0:
                return {"signal": signal_name(-status), "order": order}
            return {"exit_status": status, "order": order}
    return {}


def _last(reader: EventReader) -> Event:
    """The last event with the phase and the step in which it came."""
    phase, step = reader.last("phase"), reader.last("step") or reader.last("beat")
    found = {
        "kind": reader.events[-1]["kind"] if reader.events else None,
        "phase": phase["name"] if phase else None,
        "step": step["step"] if step else None,
    }
    return {name: value for name, value in found.items() if value is not None}
