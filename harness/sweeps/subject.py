"""What a sweep asks of what it searches, whatever is trained there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from harness.machine.hardware import Hardware
from harness.plan import Plan
from harness.search.spaces import PlanSpace
from harness.store.records import Outcome, Role
from harness.sweeps.config import SweepConfig
from harness.trial.recorder import Result


class Subject(Protocol):
    """A configuration with its machine and what is trained; `Experiment` says what each is."""

    @property
    def config(self) -> SweepConfig: ...
    @property
    def hardware(self) -> Hardware: ...
    @property
    def workloads(self) -> Mapping[int, Any]: ...
    @property
    def workload_ids(self) -> tuple[str, ...]: ...
    @property
    def seconds(self) -> float | None: ...
    @property
    def memory_ceiling_bytes(self) -> int | None: ...
    @property
    def passed(self) -> bool: ...
    @property
    def searched(self) -> int: ...
    @property
    def raced(self) -> bool: ...
    def spaces(self) -> Mapping[int, PlanSpace]: ...
    def facts(self, workload: Any) -> Any: ...
    def as_drawn(self, plan: Plan) -> Plan: ...
    def searched_as(self, row: Mapping[str, Any]) -> int: ...
    def repeat(self, plan: Plan, size: int, chosen: Mapping[str, str]) -> str | None: ...


class Runs(Protocol):
    """What launches and records; `harness.trial.runner.Runner` says what each argument is."""

    def run(
        self,
        plan: Plan,
        workload: Any,
        facts: Any,
        study_trial: int | None = None,
        *,
        role: Role = Role.RUN,
        rival_step_time_s: float | None = None,
        repeatable: bool = False,
        profile: Mapping[str, Any] | None = None,
        round: int | None = None,
        expected: Mapping[str, Any] | None = None,
    ) -> Result: ...
    def refuse(
        self,
        plan: Plan,
        workload: Any,
        reason: str,
        study_trial: int | None = None,
        expected: Mapping[str, Any] | None = None,
        outcome: Outcome = Outcome.INFEASIBLE,
        role: Role = Role.SEARCH,
    ) -> Result: ...
    def profile(self, plan: Plan, workload: Any, facts: Any) -> tuple[dict[str, Any], float]: ...
