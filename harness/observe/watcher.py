"""Tells the steps of a training apart, whoever runs it, and what each one was.

A step ends with the last call of its optimizer before the next backward begins. This covers gradient accumulation,
several optimizers, one optimizer for each parameter, optimizers that call others, engines and closures. It is certain
only when that backward begins, so that is when a step is told, with the time at which it ended.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

from . import batches, engines, readings, sent
from .telling import Teller, complain, launched_as_rank

BEAT_S = 1.0
"""Between two signs of life of a training whose steps cannot be told, in s."""
MEMORY_S = 0.05
"""Between two looks at the memory, in s: an allocator's statistics take longer than a step may be disturbed."""
TIMED_EACH, TIMED = 16, 8
"""One step in so many is timed for what the hooks take, this one of them; the clock takes a good part of it."""
WITHOUT_LEADER = 8
"""Calls of other optimizers after which one that does not step any more is replaced as the one that counts."""


class Step:
    """What is known of the step that is going on."""

    def __init__(self) -> None:
        self.losses: list[tuple[Any, float]] = []  # (value, divisor)
        self.backwards = self.calls = self.samples = self.tokens = self.number = 0
        self.grad_norm: Any = None
        self.stepped = self.skipped = self.closure = False
        self.end = self.seconds = 0.0
        self.mark: readings.Mark | None = None


def guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that fails says so, and all are off from then on; the script never notices."""

    def run(self: Watcher, *args: Any) -> None:
        if self.broken:
            return
        begun = time.thread_time_ns() if self.number % TIMED_EACH == TIMED else 0
        try:
            hook(self, *args)
        except Exception:
            self.broken = True
            complain()
        if begun:
            self.spent_ns += time.thread_time_ns() - begun

    return run


class Watcher:
    """What this process is seen to do.

    Args:
        settings: folder; warmup_steps; communication, the warm-up step that is watched, or 0; backwards_per_step, of
            trainings without an optimizer of torch's, or 0; step_of, which optimizer's steps count, by the order in
            which they first step, or None for the first.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.teller = Teller(settings["folder"])
        self.warmup = int(settings.get("warmup_steps", 4))
        self.every = int(settings.get("backwards_per_step", 0))
        self.step_of = settings.get("step_of")
        self.communication = int(settings.get("communication", 0))
        self.memory = readings.Memory()
        self.broken = False
        self.spent_ns = self.timed = self.number = 0
        self.engine: Callable[[], Any] | None = None
        """The engine that divides losses itself, weakly."""
        self.given: list[tuple[Any, float]] | None = None
        """Losses that an engine told of, instead of what backward begins from."""
        self.inside = False
        self._start()

    def _start(self) -> None:
        self.step, self.number, self.phase = Step(), 0, ""
        self.explicit = self.erred = False
        self.visible = False  # whether optimizers' calls can be seen
        self.within = 0  # an optimizer's step is
        self.leader: Callable[[], Any] | None = None
        self.others = 0
        self.optimizers: dict[int, tuple[str, Callable[[], Any]]] = {}
        self.waiting: list[Step] = []
        self.last_end = self.beat_at = self.looked_at = 0.0
        self.last_mark: readings.Mark | None = None
        self.held = 0
        self.device: Any = None
        self.shapes: dict[str, list[int]] = {}
        self.watching: sent.Sent | None = None

    # -- what hooks say

    @guarded
    def joined(self) -> None:
        """A process group was made: the first sign of life."""
        engines.watch_those_imported(self)
        self._begin()

    @guarded
    def optimizer_begins(self, optimizer: Any) -> None:
        self.visible = True  # its closure, if it has one, has the backward inside
        self.within += 1

    @guarded
    def optimizer_stepped(self, optimizer: Any) -> None:
        self.within = max(0, self.within - 1)
        self._stepped(optimizer)

    @guarded
    def scaler_stepped(self, scaler: Any, optimizer: Any, calls_before: int) -> None:
        """Whoever scales gradients called an optimizer that cannot be seen, or left it out as they are infinite."""
        if self.step.calls == calls_before:
            known = getattr(scaler, "_per_optimizer_states", {}).get(id(optimizer), {})
            self.step.skipped = any(each.item() for each in known.get("found_inf_per_device", {}).values())
            self._stepped(optimizer)

    @guarded
    def engine_stepped(self, engine: Any, calls_before: int, skipped: bool, norm: Any) -> None:
        """An engine has done what ends its steps; its optimizer may be none of torch's."""
        if self.step.calls == calls_before:
            self.step.skipped = skipped
            self._stepped(engine)
        self.step.end = time.perf_counter()
        if norm is not None:
            self.step.grad_norm = readings.soon(norm)

    @guarded
    def gradients_cleared(self, optimizer: Any) -> None:
        """Where calls of a compiled optimizer cannot be seen, the first clearing after a backward ends a step."""
        if self.within and self.step.backwards:  # a closure is evaluated again, as LBFGS does
            self.step.closure = True
        elif self.step.backwards and not self.visible and not self.every and not self.step.stepped:
            self._stepped(optimizer)
            self.step.calls = 0

    @guarded
    def clipped(self, norm: Any) -> None:
        self.step.grad_norm = readings.soon(norm)

    @guarded
    def batch_came(self, batch: Any) -> None:
        if os.getpid() != self.teller.pid:
            return
        if launched_as_rank():
            self._begin()
        now = time.perf_counter()
        if self.phase and now - self.beat_at > BEAT_S:  # alive, though it may be a validation that trains nothing
            self.beat_at = now
            self.teller.write("beat", step=self.number - 1, backwards=self.step.backwards)
        found = batches.tensors(batch, sys.modules["torch"].Tensor)
        self.step.samples += batches.samples(found)
        self.step.tokens += batches.tokens(found)
        if self.phase in ("", "build"):  # the last one before the first backward, not that of a validation
            self.shapes = {name: list(tensor.shape) for name, tensor in found.items()}

    @guarded
    def backward_begins(self, roots: Any) -> None:
        engines.watch_those_imported(self)
        roots = (roots,) if isinstance(roots, sys.modules["torch"].Tensor) else tuple(roots)
        now = time.perf_counter()
        if self.every and self.step.backwards >= self.every and not self.explicit:
            self.step.stepped, self.step.end = True, now
            self._mark(self.step)
        if self.step.stepped and not self.explicit:
            self._close()
        if self.phase in ("", "build"):
            self._begin()
            self.device = next((readings.device_of(root) for root in roots), None)
            self.last_end = now
            self._enter("warmup")
        step = self.step
        step.backwards += 1
        if step.backwards > 1 and now - self.beat_at > BEAT_S:  # alive, though no step was seen to end
            self.beat_at = now
            if self.number:
                self.teller.write("beat", step=self.number - 1, backwards=step.backwards)
            else:
                self.teller.write("unseen", backwards=step.backwards, optimizers=len(self.optimizers))
        if not step.closure:
            step.losses += self.given if self.given is not None else self._losses_of(roots)

    @guarded
    def told(self, loss: Any, tokens: int | None, samples: int | None) -> None:
        """The script says itself that a step is over."""
        self._begin()
        self.explicit = True
        step = self.step
        if loss is not None:
            step.losses = [(readings.soon(loss), 1.0)]
        step.tokens = step.tokens if tokens is None else int(tokens)
        step.samples = step.samples if samples is None else int(samples)
        if self.phase == "build":  # nothing was differentiated by torch: the first step cannot be timed
            self.last_end = time.perf_counter()
            self._enter("warmup")
            self.step = Step()
            return
        step.end = time.perf_counter()
        self._mark(step)
        self._close()

    def failed(self, error: BaseException) -> None:
        """An exception ends this process."""
        if self.erred or os.getpid() != self.teller.pid or not (self.teller.open or launched_as_rank()):
            return
        self.erred = True
        try:
            self._begin()
            self.teller.error(error)  # first: a device that failed may never come to what is waited for next
            self._finish()
        except Exception:
            complain()

    def leaves(self) -> None:
        """The interpreter ends in the ordinary way; a step that no backward followed is over too."""
        if not self.teller.open or os.getpid() != self.teller.pid:
            return
        try:
            error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
            if error is not None:  # the script has put a hook of its own in the place of ours
                self.failed(error)
            self._finish()
            self._done("ended")
            if not self.erred:
                self.teller.write("end")
        except Exception:
            complain()

    def forked(self) -> None:
        """What this process forks, such as a data loader's worker, is no rank unless it shows so itself."""
        self.teller = Teller(self.teller.folder)
        self.inside, self.given, self.engine = False, None, None
        self._start()

    # -- steps

    def _begin(self) -> None:
        if not self.teller.open:
            self.phase = "build"
            self.teller.begin(held_bytes=self.memory.held)

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self.teller.write("phase", name=phase)

    def _stepped(self, optimizer: Any) -> None:
        step = self.step
        step.calls += 1
        known = self.optimizers.get(id(optimizer))
        if known is None or known[1]() is not optimizer:
            self.optimizers[id(optimizer)] = type(optimizer).__name__, _weakly(optimizer)
        leader = self.leader() if self.leader else None
        wanted = self.step_of is None or list(self.optimizers).index(id(optimizer)) == self.step_of
        if wanted and (leader is None or self.others > WITHOUT_LEADER):
            self.leader, leader = _weakly(optimizer), optimizer
        if optimizer is leader:
            step.stepped, self.others = True, 0
        else:
            self.others += not step.stepped
        step.end = time.perf_counter()
        self._mark(step)

    def _mark(self, step: Step) -> None:
        if self.device is not None and not readings.capturing():
            step.mark = readings.Mark(self.device)

    def _losses_of(self, roots: tuple[Any, ...]) -> list[tuple[Any, float]]:
        by = engines.divisor(self.engine() if self.engine else None)
        found = []
        for root in roots:
            if getattr(root, "numel", lambda: 0)() == 1:
                value = readings.soon(getattr(root, "_harness_before_scaling", root))
                if value is not None:
                    found.append((value, by))
        return found

    def _close(self) -> None:
        """A step is over, and the next one begins."""
        step, self.step = self.step, Step()
        step.number, step.seconds = self.number, step.end - self.last_end
        self.last_end = step.end
        self.timed += self.number % TIMED_EACH == TIMED
        self.number += 1
        self.waiting.append(step)
        self._report()
        self._watch_communication()
        if self.number == self.warmup:
            self._enter("measure")
        if self.number >= self.teller.last_step():
            self._finish()
            self._done("asked")
            self.teller.park()

    def _report(self, *, wait: bool = False) -> None:
        """Tell of the steps whose numbers are known by now: a device may not have come so far."""
        while self.waiting:
            step = self.waiting[0]
            if step.mark is not None and not step.mark.passed:
                if not wait:
                    return
                step.mark.wait()
            self._tell(self.waiting.pop(0))

    def _tell(self, step: Step) -> None:
        if step.mark is not None:
            if self.last_mark is not None:
                step.seconds = step.mark.since(self.last_mark)
            self.last_mark = step.mark
        now = time.perf_counter()
        if now - self.looked_at > MEMORY_S:
            self.looked_at, self.held = now, self.memory.now(self.device)
        told: dict[str, Any] = {
            "step": step.number,
            "phase": "warmup" if step.number < self.warmup else "measure",
            "step_time_s": step.seconds,
            "loss": sum(float(value) / by for value, by in step.losses) if step.losses else None,
            "grad_norm": None if step.grad_norm is None else float(step.grad_norm),
            "accuracy": None,
            "memory_bytes": self.held,
            "backwards": step.backwards,
            "samples": step.samples or None,
            "tokens": step.tokens or None,
        }
        if step.skipped:
            told["skipped"] = True
        self.teller.step(told)

    def _finish(self) -> None:
        """Tell of everything that is over, the step too that no backward has followed yet."""
        if self.step.stepped and not self.explicit and self.step.backwards:
            step, self.step = self.step, Step()
            step.number, step.seconds = self.number, step.end - self.last_end
            self.number += 1
            self.waiting.append(step)
        self._report(wait=True)

    def _done(self, stop: str) -> None:
        self.teller.write(
            "done",
            stop=stop,
            **self.memory.peaks(self.device),
            hooks_s=self.spent_ns / 1e9 / self.timed if self.timed else None,
            optimizers=sorted({name for name, _ in self.optimizers.values()}),
            engines=engines.seen(),
            shapes=self.shapes,
            device=self.device.type if self.device is not None else "cpu",
            backwards_open=self.step.backwards,
        )

    def _watch_communication(self) -> None:
        if self.watching is not None:
            watched, self.watching = self.watching, None
            if watched.leave():
                self.teller.write("state", **watched.columns())
        elif self.number == self.communication and sent.can_be_watched():
            self.watching = sent.Sent()
            self.watching.__enter__()


def _weakly(thing: Any) -> Callable[[], Any]:
    return weakref.ref(thing)
