"""A strategy that goes wrong in a chosen way, at a chosen moment, on one rank or all.

A package of its own as far as the harness can tell: this folder on PYTHONPATH, with its entry point, is enough.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from strategies import Choice, Facts, Setting, Settings, Slot, Strategy

MOMENTS = {"first": 0, "middle": 2, "last": 8}
"""Step at which a fault of a step happens; a trial of four warm-up and five measured steps ends with number 8."""
PHASES = ("build", *MOMENTS, "teardown")
FLOOD = 1 << 30
"""Bytes that are printed."""

_held: list[torch.Tensor] = []


def fail() -> None:
    """Raise."""
    raise ValueError("this is a fault")


def leave() -> None:
    """End as if all were done."""
    os._exit(0)


def kill() -> None:
    """Die by a signal that nobody can catch."""
    os.kill(os.getpid(), signal.SIGKILL)


def terminate() -> None:
    """Die as a scheduler ends processes."""
    os.kill(os.getpid(), signal.SIGTERM)


def loop() -> None:
    """Never return, and never stop computing."""
    while True:
        pass


def block() -> None:
    """Wait in a collective whose root never comes."""
    root = (dist.get_rank() + 1) % dist.get_world_size()
    dist.broadcast(torch.ones(1), src=root, group=Faults.group)


def allocate() -> None:
    """Take memory until somebody ends it."""
    while True:
        _held.append(torch.ones(4 << 20))


def leak() -> None:
    """Keep 200 MB."""
    _held.append(torch.ones(50_000_000))


def child() -> None:
    """Start something, and forget it."""
    subprocess.Popen(["sleep", "1000"])


def daemon() -> None:
    """Start something that is nobody's child, in a session of its own."""
    parent = os.fork()
    if parent == 0:
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        os._exit(0)
    os.waitpid(parent, 0)


def flood() -> None:
    """Print a gigabyte."""
    piece = b"all work and no play makes a dull rank\n" * 26_000
    for _ in range(0, FLOOD, len(piece)):
        os.write(1, piece)


def garbage() -> None:
    """Write what is no event where events are, and end in the middle of a line."""
    os.write(_events(), b'\x00\xff{"kind": "step", "t": 1.0}\n{"kind": 3}\n[[[' * 1000)


def close_events() -> None:
    """Close the file of events."""
    os.close(_events())


def close_output() -> None:
    """Close standard output in Python, and what reads standard output and error below."""
    sys.stdout.close()
    reader, writer = os.pipe()
    os.close(reader)
    for standard in (1, 2):
        os.dup2(writer, standard)


def ignore_sigterm() -> None:
    """Refuse to end when asked to, and wait for what never comes."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Event().wait()


def _events() -> int:
    for entry in Path("/proc/self/fd").iterdir():
        if entry.is_symlink() and os.readlink(entry).endswith(".events"):
            return int(entry.name)
    raise LookupError("no file of events is open")


ACTIONS: dict[str, Callable[[], None]] = {
    action.__name__: action
    for action in (
        *(fail, leave, kill, terminate, loop, block, allocate, leak, child, daemon, flood),
        *(garbage, close_events, close_output, ignore_sigterm),
    )
}
FAULTS = (*ACTIONS, "nan", "wrong_gradient")
"""The last two are what a step returns, and no action."""
SLOW_OR_SOUND = tuple(fault for fault in ACTIONS if fault not in ("fail", "leave", "kill", "terminate"))
"""Faults that a sweep draws only if they are asked for: they wait for a deadline, or do the trial no harm."""
RANKS = ("one", "all")
SELDOM = tuple(phase for phase in PHASES if phase != "middle")


class Faults(Strategy):
    name = "faults"
    slot = Slot.EXTRA
    summary = "goes wrong on demand"
    knobs = (
        Choice(name="fault", default="none", values=("none", *FAULTS), opt_in=SLOW_OR_SOUND, doc="what goes wrong"),
        Choice(name="fault_phase", default="middle", values=PHASES, opt_in=SELDOM, doc="when", when={"fault": FAULTS}),
        Choice(name="fault_ranks", default="one", values=RANKS, opt_in=("all",), doc="where", when={"fault": FAULTS}),
    )
    group: dist.ProcessGroup | None = None

    def active(self, plan: Settings) -> bool:
        return plan.get("fault", "none") != "none"

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"fault": fault} for fault in FAULTS if fault not in SLOW_OR_SOUND]

    def check(self, plan: Settings, facts: Facts) -> str | None:
        return None if facts.world_size > 1 else "a fault needs a second rank"

    def apply(self, training: Any) -> None:
        if training.plan["fault"] == "block":
            Faults.group = dist.new_group()
        self._at(training, "build")

    def finish(self, training: Any) -> None:
        step, drain = training.step, training.engine.drain

        def faulty_step(number: int, *batch: torch.Tensor) -> Any:
            for phase, when in MOMENTS.items():
                if number == when:
                    self._at(training, phase)
            with_fault = self._hit(training) and number == MOMENTS.get(str(training.plan["fault_phase"]))
            return _wrong_step(training, step, number, *batch) if with_fault else step(number, *batch)

        def faulty_drain() -> None:
            self._at(training, "teardown")
            drain()

        training.step, training.engine.drain = faulty_step, faulty_drain

    def _at(self, training: Any, phase: str) -> None:
        if training.plan["fault_phase"] == phase and self._hit(training):
            ACTIONS.get(str(training.plan["fault"]), lambda: None)()

    def _hit(self, training: Any) -> bool:
        return training.plan["fault_ranks"] == "all" or dist.get_rank() == 1


def _wrong_step(training: Any, step: Callable[..., Any], *arguments: Any) -> Any:
    """A step whose loss is not a number, or whose gradient is twice what it should be."""
    fault, right = training.plan["fault"], training.micro_loss

    def doubled(*given: Any) -> torch.Tensor:
        loss: torch.Tensor = right(*given)
        return 2 * loss - loss.detach()

    if fault == "wrong_gradient":
        training.micro_loss = doubled
    result = step(*arguments)
    training.micro_loss = right
    return replace(result, loss=result.loss * torch.nan) if fault == "nan" else result
