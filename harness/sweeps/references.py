"""What losses are compared with: one process in fp32, or, of a model too large for one, twins and other plans.

A twin is the workload with two blocks, or as many as a kind of plan needs. A kind of plan is what it computes with and
how: its strategies, their degrees, number formats and choices, and whether a step has several micro-batches; not how
large micro-batches and buckets are. The first plan of each kind is run on the twin and follows one process there, or no
plan of its kind can win. Then what depends on the depth is still unseen: so at full size every plan is compared with a
curve that two unlike plans agree on, in the tightest format that fits. Both were right on their twins; where they
disagree, others decide. A wrong one among them therefore makes no right plan wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import strategies
from harness.errors import InputError, MeasurementError, TooLargeError
from harness.labels import Row
from harness.plan import Plan, complete
from harness.predict.memory import peak_memory
from harness.predict.setup import Setup
from harness.predict.shape import Shape
from harness.report.format import size
from harness.search import feasible
from harness.store.records import Outcome
from harness.sweeps.experiment import Experiment
from harness.sweeps.limits import rank_memory_bytes
from harness.trial import curves, numerics
from harness.trial.numerics import Curve
from harness.trial.runner import Runner
from harness.workloads.workload import Workload
from strategies.facts import Facts
from strategies.knob import Range, Setting

REFERENCE_STEPS = 16
"""Length of the fp32 curve that trials are compared with and that the report overlays."""
AGREED_STEPS = 8
"""Length of the curve that plans at full size agree on: each of its steps takes all ranks."""
LEAST_BLOCKS = 2
"""Of a twin: what one block does to the next is what strategies may get wrong."""
MOST_TRIED = 4
"""Plans that are launched at full size to find two that agree."""
STATE_BYTES, FROZEN_BYTES = 16, 4
"""Of a parameter in fp32 that is trained with AdamW (weight, gradient, two moments), and of one that is not."""
SIZES = ("micro_batch_size",)
"""Knobs of whole numbers that say how much at once, and nothing of how."""
DEGREES = ("dp", "tp", "pp")

Kind = tuple[tuple[str, object], ...]


def kind(plan: Plan, global_batch_size: int, knobs: Mapping[str, Any]) -> Kind:
    """What decides whether a plan computes the right thing.

    Choices and degrees count as they are. Of other whole numbers (units to prefetch, blocks of a unit) counts whether
    they are the least they can be, of micro-batches whether there are several; of real numbers (buckets) nothing.
    """
    several = global_batch_size > int(plan["dp"]) * int(plan["micro_batch_size"])
    found: list[tuple[str, object]] = [("several micro-batches", several)]
    for name, value in sorted(plan.items()):
        knob = knobs.get(name)
        if name in DEGREES or not isinstance(knob, Range):
            found.append((name, value))
        elif knob.integer and name not in SIZES:
            found.append((name, value == knob.low))
    return tuple(found)


@dataclass(frozen=True)
class Twin:
    """What the twin of a kind of plan came to."""

    blocks: int
    outcome: Outcome
    """NUMERICS if it does not follow one process."""
    reason: str | None
    """Why no plan of its kind can win, in one sentence; None if one can."""
    max_rel_error: float | None = None
    """To one process, as `numerics.Verdict` counts it."""
    tolerance: float | None = None

    @property
    def passed(self) -> bool:
        """Whether plans of its kind may win."""
        return self.outcome is Outcome.OK

    def columns(self) -> dict[str, Any]:
        """Of the row of a plan."""
        found: dict[str, Any] = {"twin_blocks": self.blocks, "twin_max_rel_error": self.max_rel_error}
        if self.outcome is Outcome.NUMERICS:
            found |= {"numerics": "fail", "numerics_max_rel_error": self.max_rel_error}
            found |= {"numerics_tolerance": self.tolerance}
        return found


@dataclass(kw_only=True)
class References:
    """What the plans of an experiment are compared with.

    Args:
        experiment: what is run.
        say: told what is measured, and what is not as it should be.
    """

    experiment: Experiment
    say: Callable[[str], None] = lambda text: None
    runner: Runner = field(init=False)
    """Set once everything was checked."""
    chosen: dict[str, str] = field(default_factory=dict)
    """Workload id -> "process", "twin" or "agreement"."""
    training_s: float = 0.0
    """Wall time in training steps, in s."""
    _twins: dict[tuple[str, Kind], Twin] = field(default_factory=dict)
    _shallow: dict[tuple[str, int], Workload | None] = field(default_factory=dict)

    def resume(self, chosen: Mapping[str, str]) -> None:
        """Go on with what an earlier run of the sweep compared with.

        Raises:
            InputError: something else is asked for now.
        """
        asked = self.experiment.config.reference
        for workload in self.experiment.workloads.values():
            before = chosen.get(workload.workload_id)
            begun = "process" if before == "process" else "twin"
            if before is not None and asked not in ("auto", begun):
                raise InputError(
                    f"the sweep was begun with --reference {begun}, but {asked} was asked for; "
                    "give this sweep another --name, or resume it with what it was begun with"
                )
            if before is not None:
                self.chosen[workload.workload_id] = before

    def prepare(self, workload: Workload, steps: int = REFERENCE_STEPS) -> None:
        """Make sure that there is something to compare plans of a workload with.

        Raises:
            KeyboardInterrupt: it was interrupted.
            MeasurementError: the reference does not run, or plans that should agree do not.
        """
        asked = self.experiment.config.reference
        before = self.chosen.get(workload.workload_id, asked)
        too_large = None if before == "process" else self._too_large(workload, steps)
        if before == "process" or (before == "auto" and too_large is None):
            try:
                self._alone(workload, steps)
            except TooLargeError as error:
                if asked == "process" or before == "process":
                    raise
                too_large = str(error)
            else:
                self.chosen[workload.workload_id] = "process"
                return
        if too_large is not None:
            self.say(f"{too_large}; plans are compared with one process on a twin of fewer blocks")
        self.chosen.setdefault(workload.workload_id, "twin")
        self._agree(workload, AGREED_STEPS if steps == REFERENCE_STEPS else steps)

    def twin(self, plan: Plan, workload: Workload) -> Twin | None:
        """What the twin of a plan comes to, run once for each kind; None where none is needed, or there is none.

        Raises:
            KeyboardInterrupt: it was interrupted.
        """
        if self.chosen.get(workload.workload_id) != "twin":
            return None
        key = (workload.workload_id, self._kind(plan, workload))
        if key in self._twins:
            return self._twins[key]
        found = self._shallowest(plan, workload)
        if found is None:
            return None
        blocks, shallow = found
        try:
            if shallow.workload_id not in self.runner.references:
                self._alone(shallow, REFERENCE_STEPS)
        except MeasurementError as error:
            self._shallow[workload.workload_id, blocks] = None
            if blocks == LEAST_BLOCKS:
                self._without(workload, str(error))
            else:
                self.say(f"no twin of {blocks} blocks: {error}; plans that need one are judged by agreement alone")
            return None
        twin = self._launched(plan, shallow)
        if twin.outcome in (Outcome.OK, Outcome.NUMERICS):  # other failures may be those of this one launch
            self._twins[key] = twin
        return twin

    def columns(self, workload: Workload, twin: Twin | None) -> dict[str, Any]:
        """Of the row of a plan, before it is compared at full size."""
        if self.chosen.get(workload.workload_id, "process") == "process":
            return {}
        return {"reference": "twin", **twin.columns()} if twin else {"reference": "agreement"}

    def remember(self, row: Row, plan: Plan) -> None:
        """What the row of an earlier run says about the twin of its kind."""
        error, workload = row.get("twin_max_rel_error"), self.experiment.workloads[row["global_batch_size"]]
        if error is None:
            return
        allowed = numerics.tolerance(plan)
        passed = error <= allowed
        outcome, reason = (Outcome.OK, None) if passed else (Outcome.NUMERICS, row["outcome_reason"])
        twin = Twin(int(row["twin_blocks"]), outcome, reason, error, allowed)
        self._twins.setdefault((workload.workload_id, self._kind(plan, workload)), twin)

    # -- one process

    def _alone(self, workload: Workload, steps: int) -> None:
        """The curve of one process."""
        plan, facts = self.experiment.reference_plan(workload), self.experiment.facts(workload, 1)
        if curves.recorded(self.runner.store, workload, steps) is None:
            self.say(f"{workload.name}: fp32 reference on one process, {steps} steps")
            workload.prepare()
        self.training_s += self.runner.reference(plan, workload, facts, steps)

    def _too_large(self, workload: Workload, steps: int) -> str | None:
        """Why one process is not tried, in half a sentence; None if it fits as predicted, or ran before."""
        if curves.recorded(self.runner.store, workload, steps) is not None:
            return None
        plan, facts = self.experiment.reference_plan(workload), self.experiment.facts(workload, 1)
        need, has = self._held(plan, workload, facts), self._memory(1)
        if has is None or need <= has:
            return None
        return f"{workload.name} is predicted to need {size(need)} in one process in fp32, which may hold {size(has)}"

    def _memory(self, world_size: int) -> int | None:
        return rank_memory_bytes(self.experiment.config, self.experiment.hardware, world_size)

    @staticmethod
    def _held(plan: Plan, workload: Workload, facts: Facts) -> float:
        """Bytes of the tensors of the worst rank: by the closed form, or at the least those of parameters."""
        try:
            shape = Shape.of_facts(facts.model, workload.seq_len)
            return float(peak_memory(shape, Setup.of_plan(plan, workload.global_batch_size)).allocated)
        except InputError:  # it says nothing about this model
            shares = plan.world_size if plan["data_parallel"] in ("none", "zero3") else 1
            trained = facts.model.parameters - facts.model.frozen
            return (STATE_BYTES * trained + FROZEN_BYTES * facts.model.frozen) / shares

    # -- twins

    def _kind(self, plan: Plan, workload: Workload) -> Kind:
        return kind(plan, workload.global_batch_size, {knob.name: knob for knob in self.experiment.knobs})

    def _shallowest(self, plan: Plan, workload: Workload) -> tuple[int, Workload] | None:
        """The shallowest twin that a plan can run on, with the blocks that were asked for; None if there is none."""
        blocks, whole = LEAST_BLOCKS, len(workload.facts().blocks)
        while blocks < whole:
            shallow = self._of(workload, blocks)
            if shallow is None:
                break
            facts = self.experiment.facts(shallow, plan.world_size)
            if feasible.why_not(plan, facts, strategies.registry().values()) is None:
                return blocks, shallow
            blocks *= 2
        if self._of(workload, LEAST_BLOCKS) is None:
            self._without(workload, f"{workload.name} cannot be made with fewer blocks")
        return None

    def _of(self, workload: Workload, blocks: int) -> Workload | None:
        key = (workload.workload_id, blocks)
        if key not in self._shallow:
            made = workload.shallow(blocks)  # an encoder has as many, and a decoder
            fewer = made is not None and len(made.facts().blocks) < len(workload.facts().blocks)
            self._shallow[key] = made if fewer else None
        return self._shallow[key]

    def _without(self, workload: Workload, why: str) -> None:
        self.chosen[workload.workload_id] = "agreement"
        self.say(f"no twin: {why}; plans are judged by whether their losses agree, and by nothing else")

    def _launched(self, plan: Plan, shallow: Workload) -> Twin:
        self.say(f"{shallow.name}: twin of {curves.named(plan)}")
        ran = self.runner.trained(plan, shallow, self.experiment.facts(shallow, plan.world_size), REFERENCE_STEPS)
        self.training_s += ran.training_s
        blocks = len(shallow.facts().blocks)
        on = f"on its twin of {blocks} blocks"
        if ran.ending.outcome is not Outcome.OK:
            return Twin(blocks, ran.ending.outcome, f"{on}: {ran.ending.reason}")
        steps = self.runner.measurement.warmup_steps
        verdict = numerics.compare(ran.curve, self.runner.references[shallow.workload_id], plan, steps)
        outcome, reason = (Outcome.OK, None) if verdict.passed else (Outcome.NUMERICS, f"{on}: {verdict.reason}")
        return Twin(blocks, outcome, reason, verdict.max_rel_error, verdict.tolerance)

    # -- agreement at full size

    def _agree(self, workload: Workload, steps: int) -> None:
        """Find two unlike plans that agree; what one of them trained is what all others are compared with."""
        known = curves.agreed(self.runner.store, workload, steps, self.chosen[workload.workload_id])
        if known is not None:
            self.runner.references[workload.workload_id] = known
            return
        seen: list[tuple[Plan, Curve, list[float]]] = []
        for plan in self._leanest(workload):
            if len(seen) > 1 and plan["precision"] != seen[0][0]["precision"]:
                break  # a looser format cannot say which of them is right
            ran = self._witness(plan, workload, steps)
            if ran is None:
                continue
            for other, theirs, seconds in seen:
                as_reference = curves.of_plan(theirs, other)
                if numerics.compare(ran[0], as_reference, plan, steps).passed:
                    self._take(workload, other, theirs, seconds, plan)
                    return
            seen.append((plan, *ran))
            if len(seen) == MOST_TRIED:
                break
        if len(seen) > 1:
            names = ", ".join(curves.named(plan) for plan, _, _ in seen)
            raise MeasurementError(
                f"no two of these plans have the same losses on the whole {workload.name}, so nothing says which is "
                f"right: {names}"
            )
        if seen and self.twin(seen[0][0], workload) is not None:
            self.say(
                f"{curves.named(seen[0][0])} is all that ran: it is right on its twin, and others must agree with it"
            )
            self._take(workload, *seen[0], None)
        else:
            self.say("no plan in a tight number format runs: at full size losses are not compared")

    def _witness(self, plan: Plan, workload: Workload, steps: int) -> tuple[Curve, list[float]] | None:
        """A plan's curve and times at full size, if it is right on its twin and runs."""
        twin = self.twin(plan, workload)
        if twin is not None and not twin.passed:
            self.say(f"{curves.named(plan)} is no measure for others: {twin.reason}")
            return None
        self.say(f"{workload.name}: {steps} steps of {curves.named(plan)}, which others must agree with")
        ran = self.runner.trained(plan, workload, self.experiment.facts(workload), steps)
        self.training_s += ran.training_s
        if ran.ending.outcome is not Outcome.OK:
            self.say(f"{curves.named(plan)} is no measure for others: {ran.ending.outcome}: {ran.ending.reason}")
            return None
        return ran.curve, ran.step_times_s

    def _take(self, workload: Workload, plan: Plan, curve: Curve, seconds: list[float], witness: Plan | None) -> None:
        taken = curves.of_plan(curve, plan, self.chosen[workload.workload_id])
        self.runner.references[workload.workload_id] = taken
        device = self.experiment.hardware.device_type
        curves.keep(self.runner.store, workload, curve, seconds, device, plan, witness)

    def _leanest(self, workload: Workload) -> Iterator[Plan]:
        """Plans of every unlike way to divide a model, which hold little, those in the tightest formats first."""
        world, facts = self.experiment.world_size, self.experiment.facts(workload)
        limit = self._memory(world)
        data = ("zero3", "zero2", "zero1", "ddp")
        ways: list[dict[str, Setting]] = [{"dp": world, "data_parallel": name} for name in data]
        ways[1:1] = [{"tp": world}, {"pp": world}]
        formats = sorted(("fp32", "bf16"), key=numerics.LOSS_TOLERANCE["precision"].__getitem__)
        for precision in formats:
            for way in ways if world > 1 else [{}]:
                for recomputed in ("full", "none"):
                    settings = {**way, "precision": precision, "activation_checkpoint": recomputed}
                    plan = complete(settings, self.experiment.knobs)
                    reason = feasible.why_not(plan, facts, strategies.registry().values())
                    if reason is None and (limit is None or self._held(plan, workload, facts) <= limit):
                        yield plan
                        break


def references_of(experiment: Experiment, runner: Runner, say: Callable[[str], None] = lambda text: None) -> References:
    """References of all workloads, prepared. Raises as `References.prepare` does."""
    made = References(experiment=experiment, say=say)
    made.runner = runner
    for workload in experiment.workloads.values():
        made.prepare(workload)
    return made
