"""Five small strategies, a machine that runs their plans in no time, and a clock that only trials move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import strategies
from harness.plan import Plan
from harness.search.evaluation import Evaluation, Recorded, Ticket
from harness.search.space import Space
from harness.store.records import Outcome
from strategies import Choice, Facts, Knob, ModelFacts, Range, Setting, Settings, Slot, Strategy


class Fake(Strategy):
    """Applies nothing."""

    summary = "for tests"
    knobs: ClassVar[tuple[Knob, ...]] = ()

    def active(self, plan: Settings) -> bool:
        return plan["data_parallel"] == self.name

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"data_parallel": self.name}]

    def apply(self, training: Any) -> None:
        pass


class Ddp(Fake):
    name, slot = "ddp", Slot.DATA
    knobs = (
        Range(
            name="bucket_mb",
            default=25.0,
            low=0.5,
            high=256.0,
            log=True,
            points=(2, 25),
            unit="MB",
            doc="bucket",
            when={"data_parallel": ("ddp", "zero")},
        ),
    )


class Zero(Fake):
    name, slot = "zero", Slot.DATA
    knobs = (
        Choice(name="overlap", default=True, values=(True, False), doc="", when={"data_parallel": ("zero",)}),
        Range(
            name="prefetch",
            default=1,
            low=0,
            high=4,
            integer=True,
            points=(0.0, 1.0, 2.0),
            doc="",
            when={"data_parallel": ("zero",), "overlap": (True,)},
        ),
    )

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"data_parallel": "zero", "overlap": overlap} for overlap in (True, False)]


class Tensor(Fake):
    name, slot = "tensor", Slot.TENSOR
    knobs = (Range(name="tp", default=1, low=1, high=64, integer=True, points=(1, 2), doc=""),)

    def active(self, plan: Settings) -> bool:
        return plan["tp"] != 1

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"tp": 2}]

    def check(self, plan: Settings, facts: Facts) -> str | None:
        return (
            f"tp={plan['tp']} does not divide {facts.model.heads} heads"
            if facts.model.heads % int(plan["tp"])
            else None
        )


class Pipeline(Fake):
    name, slot = "pipeline", Slot.PIPELINE
    knobs = (
        Range(name="pp", default=1, low=1, high=64, integer=True, points=(1, 2), doc=""),
        Choice(name="schedule", default="gpipe", values=("gpipe", "1f1b"), doc="", when={"pp": tuple(range(2, 65))}),
    )

    def active(self, plan: Settings) -> bool:
        return plan["pp"] != 1

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"pp": 2, "schedule": schedule} for schedule in ("gpipe", "1f1b")]

    def check(self, plan: Settings, facts: Facts) -> str | None:
        micro_batches = facts.global_batch_size // (int(plan["dp"]) * int(plan["micro_batch_size"]))
        stages = int(plan["pp"])
        return None if micro_batches >= stages else f"{micro_batches} micro-batches leave stages of {stages} empty"


class Precision(Fake):
    name, slot = "precision", Slot.PRECISION
    knobs = (
        Choice(name="precision", default="fp32", values=("fp32", "bf16", "fp16"), opt_in=("fp16",), doc="numbers"),
    )

    def active(self, plan: Settings) -> bool:
        return plan["precision"] != "fp32"

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"precision": "bf16"}]

    def check(self, plan: Settings, facts: Facts) -> str | None:
        return "bf16 is not for tensor parallelism here" if plan["tp"] != 1 and plan["precision"] == "bf16" else None


ALL: dict[str, Strategy] = {kind.name: kind() for kind in (Ddp, Zero, Tensor, Pipeline, Precision)}
KNOBS = strategies.knobs(ALL.values())


def facts(world_size: int = 2, global_batch_size: int = 16, heads: int = 4) -> Facts:
    return Facts(
        device_type="cpu",
        world_size=world_size,
        global_batch_size=global_batch_size,
        seq_len=8,
        workload="fake",
        model=ModelFacts(parameters=100, blocks=("a", "b"), heads=heads),
    )


def space(
    *names: str,
    world_size: int = 2,
    global_batch_size: int = 16,
    heads: int = 4,
    fixed: Mapping[str, Setting] | None = None,
    allowed: Mapping[str, tuple[Setting, ...]] | None = None,
) -> Space:
    """The space of the named fake strategies, of all if none is named."""
    return Space(
        [ALL[name] for name in names or ALL],
        KNOBS,
        facts(world_size, global_batch_size, heads),
        fixed=fixed,
        allowed=allowed,
        registered=list(ALL.values()),
    )


def small() -> Space:
    """Ten plans: ddp with two precisions and five micro-batch sizes."""
    return space("ddp", "precision", global_batch_size=32, fixed={"bucket_mb": 25.0})


def throughput(plan: Plan) -> float:
    """Best at a micro-batch of 4 samples, in bf16."""
    return 100.0 - abs(int(plan["micro_batch_size"]) - 4) + (10.0 if plan["precision"] == "bf16" else 0.0)


class Clock:
    """Monotonic time in s that passes only when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Machine:
    """Runs and refuses plans, and keeps what a store would have recorded.

    Args:
        values: a plan's values; None if it fails there.
        clock: moved by `trial_s` for each launch.
        interrupt_at: launch, from 1, at which Ctrl-C arrives; recorded=True: after the store has the trial.
    """

    def __init__(
        self,
        values: Callable[[Plan], Sequence[float] | None] = lambda plan: (throughput(plan),),
        *,
        clock: Clock | None = None,
        trial_s: float = 10.0,
        interrupt_at: int | None = None,
        recorded: bool = False,
    ) -> None:
        self.values, self.clock, self.trial_s = values, clock or Clock(), trial_s
        self.interrupt_at, self.record_first = interrupt_at, recorded
        self.store: list[Recorded] = []
        self.launched: list[tuple[int, Plan]] = []
        self.refused: list[tuple[int, Plan, str]] = []

    def evaluate(self, plan: Plan, ticket: Ticket) -> Evaluation:
        self.launched.append((ticket.global_batch_size, plan))
        self.clock.now_s += self.trial_s
        last = len(self.launched) == self.interrupt_at
        if last and not self.record_first:
            raise KeyboardInterrupt
        values = self.values(plan)
        outcome, reason = (Outcome.OK, None) if values is not None else (Outcome.CRASH, "rank 1 raised ValueError")
        evaluation = self._record(plan, ticket, outcome, None if values is None else tuple(values), reason)
        if last:
            raise KeyboardInterrupt
        return evaluation

    def refuse(self, plan: Plan, ticket: Ticket, reason: str) -> Evaluation:
        self.refused.append((ticket.global_batch_size, plan, reason))
        return self._record(plan, ticket, Outcome.INFEASIBLE, None, reason)

    def _record(
        self, plan: Plan, ticket: Ticket, outcome: Outcome, values: tuple[float, ...] | None, reason: str | None
    ) -> Evaluation:
        trial_id = f"{ticket.number}-{plan.plan_id}-{id(self):x}"
        evaluation = Evaluation(trial_id=trial_id, outcome=outcome, values=values, reason=reason)
        self.store.append(Recorded(plan, ticket, evaluation))
        return evaluation
