"""Runs plans of somebody's script as trials."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import MeasurementError, StoreError
from harness.launchers.script import ScriptJob
from harness.plan import Plan
from harness.scripts.knobs_file import KnobsFile
from harness.scripts.lanes import ScriptWorkload, changes_mathematics
from harness.store import records
from harness.store.records import Outcome
from harness.trial import numerics, script_jobs, script_summary, summary
from harness.trial.folder import temporary_folder
from harness.trial.numerics import Curve
from harness.trial.recorder import BY_HAND, Launched, Recorder, Result
from harness.trial.scripted import ScriptTrace, follow_script

NOISE_FACTOR = 3.0
"""How much more than two launches of the baseline a plan may differ from it, where they differ at all."""
SAME = 1e-9
"""Relative difference of two numbers of samples that are one."""
SEEN = (
    *("engines", "optimizers", "devices", "batch_shapes", "backwards_per_step", "skipped_steps", "steps_by_rank"),
    *("exit_status", "hooks_s_per_step"),
)
"""What the column `seen` holds."""


@dataclass(frozen=True)
class Baseline:
    """The script as it stood: what its other plans are compared with."""

    curve: Curve
    noise: float
    """Largest relative difference between two of its launches; infinite as long as there was one."""
    samples_per_step: float | None


@dataclass(kw_only=True)
class ScriptRunner(Recorder):
    """Launches the plans of one script.

    Args:
        script: its knobs file.
        main: what computes as the baseline does.
        apart: what does not.
        cache: where compiled kernels are kept from trial to trial.
        keep: where what trials leave behind in their folders is kept; None: nowhere.
        rated: whether a trial without a rate is none, because it cannot be ranked.
    """

    script: KnobsFile
    main: ScriptWorkload
    apart: ScriptWorkload
    cache: Path
    keep: Path | None = None
    rated: bool = True
    baseline: Baseline | None = None
    """None until it is known."""
    rate_of: str = field(init=False)

    def __post_init__(self) -> None:
        self.rate_of = "samples" if self.script.tokens_per_step is None else "tokens"

    def plan_columns(self, plan: Plan, workload: ScriptWorkload) -> dict[str, Any]:
        whole = self.script.plan(plan)
        return {
            "workload_id": workload.workload_id,
            "workload": workload.name,
            "source": records.Source.SCRIPT,
            **self.script.columns(whole),
        }

    def profile(self, plan: Plan, workload: ScriptWorkload, facts: None) -> tuple[dict[str, Any], float]:
        """Nothing: a script is not run under a profiler."""
        return {}, 0.0

    def run(self, plan: Plan, workload: ScriptWorkload, facts: None, launched: Launched = BY_HAND) -> Result:
        """As of a workload. Raises InputError too: the command cannot be started."""
        whole = self.script.plan(plan)
        with temporary_folder() as folder:
            job = script_jobs.of_plan(self.script, whole, folder, self.measurement, kernels=self.cache)
            result = self.trial(
                plan,
                workload,
                launched,
                follow=lambda: self._follow(job),
                columns=lambda trace: self._row(trace, whole),
            )
            if self.keep is not None:
                _move(script_jobs.own(folder), self.keep / result.trial_id)
        return result

    def _follow(self, job: ScriptJob) -> ScriptTrace:
        try:
            return follow_script(job, self.deadlines, on_step=self.on_step)
        except OSError as error:  # of this process: no file descriptors are left, or the folder was removed
            raise MeasurementError(f"a trial cannot be followed: {error.strerror or error}") from error

    def _row(self, trace: Any, whole: Mapping[str, Any]) -> dict[str, Any]:
        given = self.script.batch(whole, len(trace.readers)) if trace.readers else {}
        found = script_summary.columns(trace, given)
        row = {name: value for name, value in found.items() if name in _COLUMNS}
        row |= {
            "command": shlex.join(trace.job.command),
            "seen": json.dumps({name: found[name] for name in SEEN}),
            "rate_of": self.rate_of,
            **{f"tokens_per_s{end}": found.get(f"{self.rate_of}_per_s{end}") for end in ("", "_low", "_high")},
        }
        lane = self.apart if self._is_apart(whole, row) else self.main
        row |= {"workload_id": lane.workload_id, "workload": lane.name}
        row |= self._refuted(row, whole)
        return row | self._numerics(trace, row, whole)

    def _is_apart(self, whole: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
        if changes_mathematics(self.script, whole, self.script.plan(self.main.baseline)):
            return True
        ours, theirs = row.get("samples_per_step"), self.baseline and self.baseline.samples_per_step
        return bool(ours and theirs) and abs(ours / theirs - 1) > SAME  # type: ignore[operator]

    def _refuted(self, row: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
        """What speaks against a trial that ended well."""
        if row["outcome"] is not Outcome.OK:
            return {}
        asked = self.script.world_size and int(self.script.world_size.value(whole))
        if asked and asked != row["world_size"]:
            reason = f"{row['world_size']} ranks were seen, and the knobs file says that there are {asked}"
            return {"outcome": Outcome.CRASH, "outcome_reason": reason, "failed_phase": "launch"}
        if self.rated and row["tokens_per_s"] is None and self.baseline is not None:
            reason = f"nobody knows how many {self.rate_of} a step holds: {row['samples_from']}"
            return {"outcome": Outcome.CRASH, "outcome_reason": reason, "failed_phase": "measure"}
        return {}

    def _numerics(self, trace: Any, row: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
        measured, compared = summary.curve(trace), trace.job.measurement.warmup_steps
        apart = row["workload_id"] != self.main.workload_id
        if self.baseline is None or apart or len(measured.loss) < compared:
            return {"numerics": "skipped"}
        verdict = numerics.within(measured, self.baseline.curve, self._tolerance(whole), compared)
        columns: dict[str, Any] = {
            "numerics": "pass" if verdict.passed else "fail",
            "numerics_max_rel_error": verdict.max_rel_error,
            "numerics_tolerance": verdict.tolerance,
            "numerics_noise": self.baseline.noise if math.isfinite(self.baseline.noise) else None,
            "reference": self.baseline.curve.reference,
        }
        if not verdict.passed and row["outcome"] is Outcome.OK:
            columns |= {"outcome": Outcome.NUMERICS, "outcome_reason": verdict.reason}
        return columns

    def _tolerance(self, whole: Mapping[str, Any]) -> float:
        """The file's, or that of the number formats its knobs mean, or what two launches of one plan differ by."""
        assert self.baseline is not None
        meant = self.script.columns(whole)
        formats = [table[meant[k]] for k, table in numerics.LOSS_TOLERANCE.items() if meant.get(k) in table]
        noise = self.baseline.noise
        return max(self.script.tolerance, min(NOISE_FACTOR * noise, 1.0) if math.isfinite(noise) else 1.0, *formats)


_COLUMNS = {column.name for column in records.TRIALS}


def _move(own: Path, kept: Path) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(own, kept)
    except OSError as error:
        raise StoreError(f"{kept} cannot be written: {error.strerror or error}") from error
