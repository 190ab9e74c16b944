"""Measures a plan of a suite of a script in a checkout of another revision of the repository that holds it.

The command, the knobs and their files are today's where they lie outside the repository. Of what lies in it, the folder
in which the command runs and the files that knobs go into are those of the revision; the knobs file itself says how the
plan is written, and stays today's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import InputError, UnknownNameError
from harness.launchers.job import Deadlines
from harness.nightly.bisect import UnbuildableError
from harness.nightly.night import measurement
from harness.nightly.script_night import plans
from harness.nightly.script_suite import knobs_path, repository
from harness.nightly.suite import METRICS, Suite
from harness.plan import Plan
from harness.scripts import knobs_file
from harness.scripts.knobs_file import KnobsFile
from harness.store.records import Outcome
from harness.sweeps.script_experiment import START_S
from harness.trial import script_jobs
from harness.trial.folder import temporary_folder
from harness.trial.script_summary import columns
from harness.trial.scripted import follow_script


@dataclass(frozen=True, kw_only=True)
class Checkouts:
    """Measures one metric of one plan in checkouts; called with the root of one.

    Raises:
        UnbuildableError: the plan does not run there, or does not tell the metric.
        KeyboardInterrupt: it was interrupted.
        MeasurementError: no process can be started here.
    """

    suite: Suite
    script: KnobsFile
    plan: Plan
    metric: str
    project: Path
    """The repository's root today."""

    def __call__(self, tree: Path) -> float:
        script = self._there(tree)
        whole, kernels = script.plan(self.plan), tree.parent / "kernels"
        try:
            with temporary_folder() as folder:
                job = script_jobs.of_plan(
                    script,
                    whole,
                    folder,
                    measurement(self.suite),
                    kernels=kernels,
                    environment=_imports(tree, script.env),
                )
                trace = follow_script(job, replace(Deadlines(), start=START_S))
                row = columns(trace, script.batch(whole, len(trace.readers)) if trace.readers else None)
        except InputError as error:  # a file or the command is not there in that revision
            raise UnbuildableError(str(error)) from None
        if row["outcome"] is Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        if row["outcome"] is not Outcome.OK:
            raise UnbuildableError(f"the script ended with {row['outcome']}: {row['outcome_reason']}")
        value = row.get(self.metric)
        if value is None or not value > 0:
            raise UnbuildableError(f"a launch told no positive {self.metric}")
        return float(value)

    def _there(self, tree: Path) -> KnobsFile:
        def moved(path: Path) -> Path:
            inside = path.resolve()
            return tree / inside.relative_to(self.project) if inside.is_relative_to(self.project) else path

        files = {name: moved(path) for name, path in self.script.files.items()}
        return replace(self.script, workdir=moved(self.script.workdir), files=files)


def _imports(tree: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Packages of the repository's root are those of the checkout, wherever else they are installed."""
    if "PYTHONPATH" in environment:  # the knobs file says where they are
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH"))))}


def of_suite(suite: Suite, path: Path | None, plan: str | None, metric: str) -> Checkouts:
    """What measures a plan of a suite.

    Args:
        suite: what `load` gave.
        path: its file.
        plan: its name; may be left out where there is one.
        metric: what is to be small.

    Raises:
        InputError: the suite is not of a script, its script is in no git repository, or nothing says which plan.
        UnknownNameError: no such plan or metric.
    """
    if suite.knobs is None:
        raise InputError("--measure must say what is run, a command that prints a number: the suite is not of a script")
    if plan is None and len(suite.plans) > 1:
        raise InputError(f"--plan must say which plan of the suite is measured: {', '.join(suite.plans)}")
    name = plan or next(iter(suite.plans))
    if name not in suite.plans:
        raise UnknownNameError("plan of the suite", name, suite.plans)
    smaller = [each for each, about in METRICS.items() if about.more_is_worse]
    if metric not in smaller:
        raise UnknownNameError("metric that is to be small", metric, smaller)
    script = knobs_file.read(knobs_path(suite, path), suite.script)
    project = repository(script.workdir)
    if project is None:
        raise InputError(f"{script.workdir}, in which the script runs, is in no git repository that could be bisected")
    return Checkouts(
        suite=suite, script=script, plan=plans(suite, script)[name], metric=metric, project=project.resolve()
    )
