"""Follows one launch of somebody's script: learns which processes are its ranks, and decides when enough was seen."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.launchers.events import EventReader
from harness.launchers.job import Deadlines
from harness.launchers.launcher import RankExit
from harness.launchers.script import ScriptJob, ScriptRanks
from harness.observe import injection
from harness.rank.counters import RaplMeter, machine_times
from harness.rank.stopping import Stop, why_stop
from harness.store.records import Outcome
from harness.trial import summary
from harness.trial.outcome import Ending, ending_of
from harness.trial.output import Outputs
from harness.trial.supervise import TICK, Trace, Watch, end, finished, kernel_oom_kills, where

LOOK = 0.02
"""Between two looks for ranks that have not shown themselves yet, in s: one that dies at once must be known by then."""
LEAD_S = 0.2
"""How far ahead in time the step lies after which ranks are asked to stop: all see it before they come to it."""
TOGETHER_S = 3.0
"""How long after the first rank has taken the last step the others may take for it, in s, and ten steps beside."""
PRINTED = 200
"""Characters of what a command printed last that stand in a reason."""
UNSEEN_BACKWARDS = 64
"""Backward passes without a call of an optimizer after which steps are taken to be invisible."""


@dataclass
class ScriptTrace(Trace):
    """Everything known of a launch of a script when all of it is gone."""

    job: ScriptJob
    status: int | None = None
    """How the command itself ended; None if it was ended from here."""
    stop: Stop | None = None
    """Why enough was seen; None if it was not."""
    troubles: str = ""
    """What watchers wrote of their own failures."""
    opened: Mapping[str, Any] = field(default_factory=dict)
    """Counters of the machine and of the command's processes when the last rank's window had opened."""
    closed: Mapping[str, Any] = field(default_factory=dict)
    """The same when it was decided that enough was seen."""

    @property
    def device_type(self) -> str:
        devices = [event["device"] for reader in self.readers if (event := reader.last("done"))]
        return next((device for device in devices if device != "cpu"), "cpu")


def follow_script(job: ScriptJob, deadlines: Deadlines, *, on_step: Callable[[int], None] | None = None) -> ScriptTrace:
    """Run a command until enough of its steps were seen, or to its end; nothing of it is left afterwards.

    Args:
        job: what to run; its folder must exist.
        deadlines: when ranks count as hanging.
        on_step: called with the number of finished steps as they come in.

    Raises:
        MeasurementError: no process can be started here.
    """
    oom_before = kernel_oom_kills()
    trace = ScriptTrace(job, time.monotonic())
    with Outputs(job) as outputs:
        try:
            _run(trace, deadlines, on_step)
        except KeyboardInterrupt:
            trace.stopped, trace.stopped_reason = "interrupted", "it was interrupted"
        trace.ended = time.monotonic()
    for reader in trace.readers:
        reader.poll()
    trace.outputs = [kept.text() for kept in outputs.kept]
    trace.kernel_oom_kills = kernel_oom_kills() - oom_before
    trace.troubles = "".join(path.read_text(errors="replace") for path in sorted(job.folder.glob("trouble-*")))
    return trace


def _run(trace: ScriptTrace, deadlines: Deadlines, on_step: Callable[[int], None] | None) -> None:
    ranks = ScriptRanks(trace.job)
    try:
        referee: Referee | None = None
        while ranks.going:
            ended = ranks.wait(TICK if referee and referee.all_seen else LOOK)
            trace.exits += ended
            trace.exited_at |= dict.fromkeys((each.rank for each in ended), time.monotonic())
            trace.status = ranks.status
            if referee is None and (world := ranks.world_size) is not None:
                trace.readers = [EventReader(trace.job.events_of(rank)) for rank in range(world)]
                referee = Referee(trace, Watch(trace, deadlines, on_step, None), deadlines.step)
            if referee.must_stop(ranks) if referee is not None else _nobody(trace, deadlines.start):
                end(ranks, trace)
                break
    finally:
        ranks.kill()


def _nobody(trace: ScriptTrace, limit: float) -> bool:
    """Whether too much time has passed without a process that trains."""
    if time.monotonic() - trace.started <= limit:
        return False
    trace.stopped = "hang"
    trace.stopped_reason = (
        f"no process below the command showed within {limit:g} s that it trains: none joined a process group or ran a "
        "backward pass, or its interpreter leaves PYTHONPATH aside (-I, -E)"
    )
    return True


class Referee:
    """Decides when a launch has been seen enough of, and has every rank stop after the same step.

    Ranks need not agree: the step is announced so far ahead that none has come to it.
    """

    def __init__(self, trace: ScriptTrace, watch: Watch, patience_s: float) -> None:
        self.trace, self.watch, self._patience = trace, watch, patience_s
        self._announced, self._meter = False, RaplMeter()

    @property
    def all_seen(self) -> bool:
        """Whether every rank has shown itself."""
        return all(reader.last("who") for reader in self.trace.readers)

    def must_stop(self, ranks: ScriptRanks) -> bool:
        """Whether the launch must be ended now; says why in the trace."""
        if self.watch.must_stop(ranks.pids()):
            return True
        for rank, reader in enumerate(self.trace.readers):
            who = reader.last("who")
            if who is not None and not any(each.rank == rank for each in self.trace.exits):
                ranks.meet(rank, int(who["pid"]))
        return self._unseen() or self._complete() or self._gone() or self._broken() or self._decide(ranks)

    def _unseen(self) -> bool:
        """Whether there is training whose steps cannot be told."""
        for rank, reader in enumerate(self.trace.readers):
            event = reader.last("unseen")
            if event and not reader.last("step") and event["backwards"] >= UNSEEN_BACKWARDS:
                reason = (
                    f"rank {rank} made {event['backwards']} backward passes and no optimizer of torch.optim stepped"
                )
                self._fail(f"{reason}; say where a step ends, with backwards_per_step or harness.observe.step()", rank)
                return True
        return False

    def _broken(self) -> bool:
        """Whether the observer itself failed in a rank, which tells nothing any more."""
        for path in self.trace.job.folder.glob("trouble-*"):
            last = path.read_text(errors="replace").strip().rpartition("\n")[2]
            self.trace.stopped, self.trace.stopped_reason = "crash", f"the observer failed, not the script: {last}"
            return True
        return False

    def _gone(self) -> bool:
        """Whether every rank has ended long ago, and the command has not."""
        ended = {each.rank for each in self.trace.exits}
        if len(ended) < len(self.trace.readers) or not self.trace.exited_at:
            return False
        if time.monotonic() - max(self.trace.exited_at.values()) <= self._patience:
            return False
        self.trace.stopped, self.trace.stopped_reason = "hang", "every rank has ended, and the command goes on"
        return True

    def _complete(self) -> bool:
        """Whether every rank has taken the last step, or some wait in vain for the others."""
        done = {rank: event for rank, r in enumerate(self.trace.readers) if (event := r.last("done"))}
        asked = {rank for rank, event in done.items() if event["stop"] == "asked"}
        if not asked:
            return False
        times = list(summary.window(self.trace).values())
        if len(done) == len(self.trace.readers):
            self.trace.stop = self.trace.stop or (why_stop(times, self.trace.job.measurement) or Stop.STEPS)
            return True
        patience = TOGETHER_S + 10 * (statistics.median(times) if times else 0.0)
        if time.monotonic() - min(done[rank]["t"] for rank in asked) <= patience:
            return False
        missing = [rank for rank in range(len(self.trace.readers)) if rank not in done]
        none = [rank for rank in missing if not self.trace.readers[rank].last("step")]
        some = min(asked)
        if none:
            self._fail(f"{_ranks(none)} made no step, while rank {some} made {self._steps(some)}", none[0])
        else:
            self._fail(f"{_ranks(missing)} did not come to the step that rank {some} had taken", missing[0])
        return True

    def _decide(self, ranks: ScriptRanks) -> bool:
        if not self._announced and self.all_seen:
            times = list(summary.window(self.trace).values())
            if times and not self.trace.opened:
                self.trace.opened = self._counters(ranks)
            self.trace.stop = why_stop(times, self.trace.job.measurement)
            if self.trace.stop is not None:
                ahead = 2 + math.ceil(LEAD_S / max(statistics.median(times), 1e-6))
                latest = max(self._steps(rank) for rank in range(len(self.trace.readers)))
                self._announced = True
                self.trace.closed = self._counters(ranks)
                if latest + ahead < self.trace.job.last_step:
                    injection.announce(self.trace.job.folder, latest + ahead)
        return False

    def _counters(self, ranks: ScriptRanks) -> dict[str, Any]:
        read = {"t": time.monotonic(), "cpu_s": ranks.cpu_s(), "energy_j": self._meter.joules()}
        return read | machine_times()

    def _steps(self, rank: int) -> int:
        last = self.trace.readers[rank].last("step")
        return int(last["step"]) + 1 if last else 0

    def _fail(self, reason: str, rank: int) -> None:
        self.trace.stopped, self.trace.stopped_reason, self.trace.stopped_rank = "crash", reason, rank


def script_ending(trace: ScriptTrace) -> Ending:
    """Classify a launch of a script, by the rules for trials and by what only scripts can do."""
    if trace.stopped is None and trace.stop is not None and trace.measured:
        ending = ending_of(replace(trace, exits=[]))  # what came after the last step is not asked about
        return ending if ending.outcome is Outcome.NAN else Ending(Outcome.OK)
    if not trace.readers:
        return _without_ranks(trace)
    ending = _unknown(trace) or ending_of(replace(trace, exits=_own_ends(trace)))
    if ending.outcome is not Outcome.OK:
        return ending
    measurement, steps = trace.job.measurement, len(summary.window(trace))
    if steps >= measurement.min_steps:
        return ending
    made = max((len(reader.all("step")) for reader in trace.readers), default=0)
    needed = measurement.warmup_steps + measurement.min_steps
    if trace.status not in (0, None) and not made:
        return Ending(Outcome.CRASH, f"the command ended with {_status(trace.status)} before a step was seen", "launch")
    return Ending(Outcome.CRASH, f"the script ended by itself after {made} steps, and {needed} are needed", "warmup")


def _without_ranks(trace: ScriptTrace) -> Ending:
    if trace.stopped is not None:
        return Ending(Outcome(trace.stopped), trace.stopped_reason, "launch")
    printed = [line.strip() for output in trace.outputs for line in output.splitlines() if line.strip()]
    last = f"; the last it printed: {printed[-1][:PRINTED]}" if printed else ", without a word"
    reason = f"the command ended with {_status(trace.status)} before any process trained{last}"
    return Ending(Outcome.CRASH, reason, "launch")


def _own_ends(trace: ScriptTrace) -> list[RankExit]:
    """How ranks ended, those left out that their launcher ended because of another one."""
    terminated = {each.rank for each in trace.exits if each.status == -15}
    failed = {rank for rank, reader in enumerate(trace.readers) if reader.last("error")}
    failed |= {e.rank for e in trace.exits if e.rank not in terminated and not finished(e, trace.readers[e.rank])}
    return [each for each in trace.exits if each.rank not in terminated or not failed - terminated]


def _unknown(trace: ScriptTrace) -> Ending | None:
    """A rank has ended in the middle, and the kernel does not tell how."""
    for each in trace.exits:
        reader = trace.readers[each.rank]
        if each.status is None and not reader.last("end") and not any(r.last("error") for r in trace.readers):
            reason = f"rank {each.rank} ended {where(reader)}, nobody knows how; the command's own status is "
            return Ending(Outcome.CRASH, f"{reason}{trace.status}", rank=each.rank)
    return None


def _status(status: int | None) -> str:
    return f"exit status {status}" if status is None or status >= 0 else f"signal {-status}"


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
