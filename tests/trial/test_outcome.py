from __future__ import annotations

import math
import signal
from typing import Any

import pytest

from harness.store.records import Outcome
from harness.trial.outcome import Ending, ending_of
from harness.trial.supervise import Trace
from tests.trial.fake_ranks import done, error, event, phase, step, trace, whole

BUILT = [phase("build", 1.0), phase("warmup", 2.0)]
STARTED = [*BUILT, step(0, 3.0), step(1, 4.0)]
KILL, SEGV, TERM = -signal.SIGKILL, -signal.SIGSEGV, -signal.SIGTERM
OOM = Outcome.OOM_HOST

TABLE: dict[str, tuple[Trace, Ending]] = {
    "every rank did all it should": (trace(whole(), whole()), Ending(Outcome.OK)),
    "an exception": (
        trace(STARTED, [*STARTED, error(5.0, type="KeyError", message="'a'\nb")], exits=[(1, 1)]),
        Ending(Outcome.CRASH, "rank 1 raised KeyError: 'a'", "warmup", 1, 1),
    ),
    "the first of two exceptions": (
        trace([*STARTED, error(6.0, message="connection lost")], [*STARTED, error(5.0)], exits=[(0, 1), (1, 1)]),
        Ending(Outcome.CRASH, "rank 1 raised ValueError: no", "warmup", 1, 1),
    ),
    "an allocation that failed on a device": (
        trace([*STARTED, error(5.0, "oom_device", "OutOfMemoryError")], STARTED, exits=[(0, 1)]),
        Ending(Outcome.OOM_DEVICE, "rank 0 raised OutOfMemoryError: no", "warmup", 0, 1),
    ),
    "an allocation that failed on the host": (
        trace(BUILT, [*BUILT, error(5.0, "oom_host", "MemoryError")], exits=[(1, 1)]),
        Ending(Outcome.OOM_HOST, "rank 1 raised MemoryError: no", "warmup", 1, None),
    ),
    "a signal, though another rank raised because of it": (
        trace(STARTED, [*STARTED, error(4.5)], exits=[(1, 1), (0, SEGV)]),
        Ending(Outcome.CRASH, "SIGSEGV ended rank 0 in warmup, after step 1", "warmup", 0, 1),
    ),
    "SIGKILL by somebody": (
        trace([], whole(), exits=[(0, KILL)]),
        Ending(Outcome.CRASH, "SIGKILL ended rank 0 in launch", "launch", 0, None),
    ),
    "SIGKILL by the kernel, out of memory": (
        trace(whole(), BUILT, exits=[(1, KILL)], kernel_oom_kills=1),
        Ending(Outcome.OOM_HOST, "the kernel's out-of-memory killer ended rank 1 in warmup", "warmup", 1, None),
    ),
    "another signal while the kernel killed somebody else": (
        trace(whole(), BUILT, exits=[(1, SEGV)], kernel_oom_kills=1),
        Ending(Outcome.CRASH, "SIGSEGV ended rank 1 in warmup", "warmup", 1, None),
    ),
    "a real-time signal, which has no name": (
        trace(BUILT, BUILT, exits=[(0, -40)]),
        Ending(Outcome.CRASH, "signal 40 ended rank 0 in warmup", "warmup", 0, None),
    ),
    "an exit status without an exception": (
        trace(STARTED, whole(), exits=[(0, 3), (1, 0)]),
        Ending(Outcome.CRASH, "rank 0 ended with exit status 3 in warmup, after step 1", "warmup", 0, 1),
    ),
    "exit status 0 before the end": (
        trace(whole(), STARTED),
        Ending(Outcome.CRASH, "rank 1 ended in warmup, after step 1 without having finished", "warmup", 1, 1),
    ),
    "exit status 0 before the last barrier": (
        trace(whole(), whole()[:-1]),
        Ending(Outcome.CRASH, "rank 1 ended in teardown, after step 7 without having finished", "teardown", 1, 7),
    ),
    "SIGTERM, which the harness never sends": (
        trace(STARTED, [*STARTED, error(4.5)], exits=[(1, 1), (0, TERM)]),
        Ending(Outcome.PREEMPTED, "SIGTERM ended rank 0 in warmup, after step 1", "warmup", 0, 1),
    ),
    "the death of the fork server": (
        trace(STARTED, BUILT, exits=[(1, None), (0, None)]),
        Ending(Outcome.PREEMPTED, "the fork server died, and with it rank 1 in warmup", "warmup", 1, None),
    ),
    "an interrupt": (
        trace(STARTED, BUILT, exits=[], stopped="interrupted", stopped_reason="the sweep was interrupted"),
        Ending(Outcome.INTERRUPTED, "the sweep was interrupted", "warmup", None, None),
    ),
    "SIGKILL by the kernel, in the control group of another rank": (
        trace(STARTED, STARTED, exits=[(0, KILL)], rank_oom_kills={1: 1}),
        Ending(Outcome.CRASH, "SIGKILL ended rank 0 in warmup, after step 1", "warmup", 0, 1),
    ),
    "SIGKILL by the kernel, in its own control group": (
        trace(STARTED, STARTED, exits=[(1, KILL)], rank_oom_kills={1: 1}),
        Ending(OOM, "the kernel's out-of-memory killer ended rank 1 in warmup, after step 1", "warmup", 1, 1),
    ),
    "an exception because the kernel ended what the rank had started": (
        trace(STARTED, [*STARTED, error(5.0)], exits=[(1, 1)], rank_oom_kills={1: 1}),
        Ending(
            OOM,
            "rank 1 raised ValueError: no, after the kernel's out-of-memory killer ended a process of it",
            "warmup",
            1,
            1,
        ),
    ),
    "silence": (
        trace([*STARTED, step(2, 9.0)], STARTED, exits=[], stopped="hang", stopped_reason="it was silent"),
        Ending(Outcome.HANG, "it was silent", "warmup", 1, 1),
    ),
    "silence of a rank, after another has ended": (
        trace(BUILT, STARTED, exits=[(0, 0)], stopped="hang", stopped_reason="it was silent"),
        Ending(Outcome.HANG, "it was silent", "warmup", 1, 1),
    ),
    "more memory than allowed, by a rank that is not the one that was silent longest": (
        trace(STARTED, BUILT, exits=[], stopped="oom_host", stopped_reason="it held too much", stopped_rank=0),
        Ending(OOM, "it held too much", "warmup", 0, 1),
    ),
    "more memory than allowed": (
        trace(STARTED, STARTED, exits=[], stopped="oom_host", stopped_reason="it held too much"),
        Ending(Outcome.OOM_HOST, "it held too much", "warmup", 0, 1),
    ),
    "a loss that is not a number, whatever came of it": (
        trace([*STARTED, step(2, 5.0, loss=math.nan), error(6.0)], STARTED, exits=[(0, 1)]),
        Ending(Outcome.NAN, "loss of step 2 is nan", "warmup", 0, 2),
    ),
    "silence after everything was measured": (
        trace(
            [*whole()[:-2], phase("teardown", 6.0)],
            [*whole()[:-2], phase("teardown", 6.0)],
            exits=[],
            stopped="hang",
            stopped_reason="it was silent",
        ),
        Ending(Outcome.OK),
    ),
    "a rank out of memory, whose end made another abort": (
        trace(
            [*STARTED, error(5.0, "oom_device", "OutOfMemoryError")],
            STARTED,
            exits=[(1, -signal.SIGABRT), (0, 1)],
            exited_at={1: 5.5, 0: 5.6},
        ),
        Ending(Outcome.OOM_DEVICE, "rank 0 raised OutOfMemoryError: no", "warmup", 0, 1),
    ),
    "a rank that aborted, after which another ran out of memory": (
        trace(
            [*STARTED, error(6.0, "oom_device", "OutOfMemoryError")],
            STARTED,
            exits=[(1, -signal.SIGABRT), (0, 1)],
            exited_at={1: 5.5, 0: 6.1},
        ),
        Ending(Outcome.CRASH, "SIGABRT ended rank 1 in warmup, after step 1", "warmup", 1, 1),
    ),
    "silence on a device, whose numbers come later than its signs of life": (
        trace(
            [*STARTED, event("beat", 9.0, step=300)], STARTED, exits=[(1, 0)], stopped="hang", stopped_reason="silent"
        ),
        Ending(Outcome.HANG, "silent", "warmup", 0, 300),
    ),
    "an infinite gradient": (
        trace(whole(), [*STARTED, step(2, 5.0, grad_norm=math.inf), done(6.0)]),
        Ending(Outcome.NAN, "grad_norm of step 2 is inf", "warmup", 1, 2),
    ),
    "an infinite gradient under loss scaling": (
        trace(
            [*whole(), step(9, 5.0, grad_norm=math.inf)],
            whole(),
            settings={"dp": 2, "micro_batch_size": 2, "precision": "fp16"},
        ),
        Ending(Outcome.OK),
    ),
    "a pipeline stage that sees no loss": (
        trace([*whole(), step(9, 6.5, loss=None)], whole(), settings={"pp": 2, "micro_batch_size": 2}),
        Ending(Outcome.OK),
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_a_trial_ended_with(case: str) -> None:
    seen, expected = TABLE[case]
    assert ending_of(seen) == expected


def test_an_ending_that_is_not_ok_always_has_a_reason() -> None:
    endings: list[Any] = [ending_of(seen) for seen, _ in TABLE.values()]
    assert all((ending.reason is None) == (ending.outcome is Outcome.OK) for ending in endings)
