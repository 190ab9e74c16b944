"""What is recorded of a trial that did not end well."""

from __future__ import annotations

import json
import signal

from harness.trial import evidence
from tests.trial.fake_ranks import error, phase, step, trace, whole


def test_each_rank_has_how_it_ended_and_what_it_last_did() -> None:
    built = [phase("build", 1.0)]
    seen = trace(
        whole(),
        [*built, phase("warmup", 2.0), step(0, 3.0)],
        built,
        exits=[(1, -signal.SIGKILL), (0, 3)],
        outputs=["", "hello", ""],
        settings={"dp": 4, "micro_batch_size": 1},
    )
    last = {"kind": "step", "phase": "warmup", "step": 0}
    assert json.loads(evidence.of(seen)) == {
        "ranks": [
            {"rank": 0, "exit_status": 3, "order": 1, "last": {"kind": "end", "phase": "teardown", "step": 7}},
            {"rank": 1, "signal": "SIGKILL", "order": 0, "last": last, "output": "hello"},
            {"rank": 2, "last": {"kind": "phase", "phase": "build"}},
        ]
    }


def test_kernel_counters_stacks_and_tracebacks_are_in_it() -> None:
    raised = error(2.0) | {"traceback": "Traceback: a shape does not fit"}
    counters = {"rank_oom_kills": {1: 2}, "kernel_oom_kills": 3}
    found = json.loads(evidence.of(trace([raised], [], exits=[(0, 1)], **counters, stacks={1: "Thread 0x1"})))
    assert found["kernel_oom_kills"] == 3
    assert found["ranks"][0]["traceback"] == "Traceback: a shape does not fit"
    assert found["ranks"][1] == {"rank": 1, "oom_kills": 2, "stacks": "Thread 0x1"}


def test_of_what_is_long_the_part_that_tells_most_is_kept() -> None:
    raised, long = error(2.0) | {"traceback": "x" * 99_999 + "the end"}, "é" * 99_999
    text = evidence.of(trace([raised], exits=[(0, 1)], outputs=[long + "the end"], stacks={0: "innermost" + long}))
    (rank,) = json.loads(text)["ranks"]
    assert rank["traceback"].endswith("the end")
    assert rank["output"].endswith("the end")
    assert rank["stacks"].startswith("innermost")
    assert len(text) < 16_000
