"""From nights and findings to the pages of harness.report.nightly."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from harness.nightly.acknowledge import Acknowledgement
from harness.nightly.environment import Change
from harness.nightly.findings import Finding
from harness.nightly.history import History, Night
from harness.nightly.outputs import ORDER, headline, sorted_findings
from harness.nightly.script_suite import knobs_path
from harness.nightly.suite import Suite
from harness.report.document import write
from harness.report.nightly.nights_page import render, render_index
from harness.report.nightly.nights_view import Accepted, Judged, Listed, NightlyView, Point
from harness.sweeps import command_lines
from harness.sweeps.command_lines import PROGRAM

KEPT = 30
"""Pages of single nights that are kept; each holds all that its charts need."""


def build(
    folder: Path,
    suite: Suite,
    nights: Sequence[Night],
    findings: Sequence[Finding],
    changed: Sequence[Change],
    entries: Sequence[Acknowledgement],
    commands: Sequence[tuple[str, str]],
    problems: Sequence[str],
) -> Path:
    """Write the page of the last night, and remove pages that are too old; returns its path."""
    tonight = nights[-1]
    view = NightlyView(
        suite=suite.name,
        hardware_id=tonight.hardware_id,
        night=tonight.night,
        headline=headline(findings),
        judged=tuple(_judged(finding) for finding in sorted_findings(findings)),
        series={
            (plan, metric): points
            for plan in suite.plans
            for metric in suite.metrics
            if (points := tuple(_points(suite, nights, plan, metric)))
        },
        said=_said(suite, nights),
        accepted=tuple(Accepted(plan=e.plan, metric=e.metric, night=e.night, because=e.because) for e in entries),
        changed=tuple((change.name, change.before, change.now) for change in changed),
        commands=tuple(commands),
        problems=tuple(problems),
    )
    place = folder / "nightly" / suite.name
    path = write(render(view), place / f"{tonight.night}.html")
    for old in sorted(place.glob("*.html"))[:-KEPT]:
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def index(root: Path, folder: Path) -> Path:
    """Write the page over every night of every suite in a results folder; returns its path."""
    listed = []
    for place in sorted(root.glob("nightly/*/*")):
        for night in History(root, place.parent.name, place.name).own():
            page = folder / "nightly" / night.suite / f"{night.night}.html"
            listed.append(_listed(night, f"{night.suite}/{night.night}.html" if page.exists() else None))
    listed.sort(key=lambda night: night.night, reverse=True)
    return write(render_index(listed), folder / "nightly" / "index.html")


def commands(suite: Suite, path: Path | None, findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """What a reader of the page may want to do."""
    given = f" {shlex.quote(str(path))}" if path is not None else ""
    found = [("Repeat the night", f"python -m harness nightly run{given}")]
    for finding in findings:
        if finding.verdict == "CONFIRMED":
            named = f"{finding.plan} {finding.metric}"
            found.append((f"Accept {named}", f'python -m harness nightly ack {named} --because "..."{_option(path)}'))
            found.append((f"Run {finding.plan} once", f"{PROGRAM} {_once(suite, path, finding.plan)}"))
    return found


def _option(path: Path | None) -> str:
    return "" if path is None else f" --suite {shlex.quote(str(path))}"


def _once(suite: Suite, path: Path | None, plan: str) -> str:
    """The command that runs a plan once, without its program."""
    settings = command_lines.set_words(suite.settings(plan))
    if suite.knobs is not None:
        command = f" -- {suite.script}" if suite.script else ""
        return f"watch {shlex.join(['--knobs', str(knobs_path(suite, path)), *settings])}{command}"
    asked = suite.asked(Path() if path is None else path.parent)
    return f"run {shlex.join([*command_lines.option_words({**asked, 'world_size': suite.world_size}), *settings])}"


def _judged(finding: Finding) -> Judged:
    known = asdict(finding) | {"verdict": str(finding.verdict)}
    return Judged(**{name: known[name] for name in Judged.__dataclass_fields__})


def _said(suite: Suite, nights: Sequence[Night]) -> dict[tuple[str, str, str], str]:
    identities = {plan: suite.identity(plan) for plan in suite.plans}
    return {
        (plan, verdict["metric"], night.night): str(verdict.get("verdict"))
        for night in nights
        for verdict in night.verdicts
        if (plan := verdict.get("plan")) in identities
        and verdict.get("metric") in suite.metrics
        and night.identities.get(str(plan)) == identities[str(plan)]
    }


def _points(suite: Suite, nights: Sequence[Night], plan: str, metric: str) -> Iterable[Point]:
    identity = suite.identity(plan)
    for night in nights:
        session = night.screened()
        values = session.values.get(plan, {}).get(metric, []) if session else []
        if values and night.identities.get(plan) == identity:
            said = [v["verdict"] for v in night.verdicts if (v.get("plan"), v.get("metric")) == (plan, metric)]
            yield Point(
                night=night.night,
                value=sorted(values)[len(values) // 2],
                launches=tuple(values),
                verdict=said[0] if said else "",
            )


def _listed(night: Night, page: str | None) -> Listed:
    verdicts = [str(v.get("verdict")) for v in night.verdicts]
    counts = [(verdict, verdicts.count(verdict)) for verdict in ORDER if str(verdict) in verdicts]
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts)
    return Listed(
        suite=night.suite,
        hardware_id=night.hardware_id,
        night=night.night,
        headline=said if night.complete else "it was cut short",
        worst=str(counts[0][0]) if counts else "",
        page=page,
    )
