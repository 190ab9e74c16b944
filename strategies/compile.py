"""torch.compile of each block: one compilation serves all blocks of the same shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from strategies.base import Slot, Strategy
from strategies.facts import Facts
from strategies.knob import Choice, Knob, Setting, Settings

if TYPE_CHECKING:
    from strategies.training import Training


class Compile(Strategy):
    """Opt-in, because a trial's first step then takes seconds to tens of seconds longer."""

    name = "compile"
    slot = Slot.COMPILE
    summary = "torch.compile of each block (opt-in: its set-up takes seconds)"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Choice(name="compile", default=False, values=(False, True), doc="compile each block"),
    )

    def active(self, plan: Settings) -> bool:
        return bool(plan["compile"])

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"compile": True}]

    def check(self, plan: Settings, facts: Facts) -> str | None:
        if not facts.model.blocks:
            return f"{facts.workload} has no repeated blocks to compile"
        if not facts.compiler:
            return "torch.compile needs a C++ compiler on a CPU, and none was found; install g++"
        if facts.model.keeps_dropout:
            return f"{facts.workload} keeps its dropout, whose masks are made from numbers that change in each step"
        if plan["quantization"] in ("adamw8bit", "adamw4bit", "adamwfp8") and facts.device_type == "cpu":
            return "quantised optimizer states run uncompiled on a CPU, which turns compilation off for the whole trial"
        return None

    def apply(self, training: Training) -> None:
        for part in training.parts:
            for _, block in training.units(part):
                block.compile()
