"""What a script trains, as trials know it: the same as its baseline, or something else, which is ranked apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from harness.plan import Plan
from harness.scripts.knobs_file import KnobsFile
from strategies.knob import Setting

APART = "-apart"
"""End of the workload id of what computes something else than the baseline."""


@dataclass(frozen=True)
class ScriptWorkload:
    """One of the two."""

    script: KnobsFile
    baseline: Plan
    apart: bool = False

    @property
    def name(self) -> str:
        """Of the script, and whether its mathematics are others."""
        return f"{self.script.name}, other mathematics" if self.apart else self.script.name

    @property
    def workload_id(self) -> str:
        """A hash of the command, of what it is given, and of the baseline; not of the script's code, which may change
        from night to night."""
        text = f"{self.script.identity} {self.baseline.to_json()}"
        return hashlib.sha256(text.encode()).hexdigest()[:12] + (APART if self.apart else "")

    def prepare(self) -> None:
        """Nothing: the script reads what it needs."""


def plan_of(script: KnobsFile, given: Mapping[str, Setting]) -> Plan:
    """The plan with these settings, others at their defaults; it holds what is chosen, not what follows from that.

    Raises:
        InputError: a name or value that is none, or a relation that cannot be calculated.
    """
    whole, free = script.plan(given), {knob.name for knob in script.free}
    return Plan(tuple((name, value) for name, value in whole.items() if name in free))


def changes_mathematics(script: KnobsFile, plan: Mapping[str, Setting], baseline: Mapping[str, Setting]) -> bool:
    """Whether a whole plan has another value than the baseline's of a knob that changes what is learned."""
    return any(plan.get(name) != baseline.get(name) for name, each in script.knobs.items() if each.mathematics)
