"""A night in the formats of what teams already have: Markdown, JUnit, GitHub, github-action-benchmark, Otava."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from harness.nightly.environment import Change
from harness.nightly.findings import Finding, Verdict
from harness.nightly.history import Night
from harness.nightly.suite import METRICS
from harness.report import format as fmt

ORDER = tuple(
    Verdict(name) for name in ("CONFIRMED", "ENV_CHANGE", "NOT_MEASURED", "SUSPECT", "IMPROVED", "INSUFFICIENT", "PASS")
)
"""The verdicts, the most urgent first."""


def sorted_findings(findings: Sequence[Finding]) -> list[Finding]:
    """The most urgent first."""
    return sorted(findings, key=lambda finding: ORDER.index(finding.verdict))


def headline(findings: Sequence[Finding]) -> str:
    """What the night says, in one line."""
    counts = {verdict: sum(f.verdict is verdict for f in findings) for verdict in ORDER}
    return ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)


def shown(finding: Finding) -> str:
    """Tonight's value against the baseline's, for people."""
    if finding.value is None:
        return fmt.MISSING
    value = fmt.by_name(finding.metric, finding.value)
    if finding.baseline is None:
        return value
    worse = finding.value / finding.baseline - 1
    return f"{value} ({fmt.signed_percent(worse, 1)} against {fmt.by_name(finding.metric, finding.baseline)})"


def markdown(night: Night, findings: Sequence[Finding], changed: Sequence[Change], repeat: str) -> str:
    """For a pull request or a chat."""
    lines = [f"### {night.suite} on {night.hardware_id}, {night.night}", "", headline(findings), ""]
    lines += ["| verdict | plan | metric | tonight | why |", "|---|---|---|---|---|"]
    lines += [
        f"| {f.verdict} | {_cell(f.plan)} | {f.metric} | {shown(f)} | {_cell(f.why)} |"
        for f in sorted_findings(findings)
    ]
    if changed:
        lines += ["", "What changed since the baseline:", ""]
        lines += [f"- {_cell(c.name)}: {_cell(c.before)} -> {_cell(c.now)}" for c in changed]
    return fmt.plain("\n".join([*lines, "", f"Repeat: `{repeat}`"])) + "\n"


def junit(night: Night, findings: Sequence[Finding]) -> str:
    """A test case for each metric of each plan; confirmed ones failed, those that could not be measured are errors."""
    suite = ET.Element(
        "testsuite",
        name=f"nightly {night.suite}",
        tests=str(len(findings)),
        failures=str(sum(f.verdict is Verdict.CONFIRMED for f in findings)),
        errors=str(sum(f.verdict is Verdict.NOT_MEASURED for f in findings)),
        skipped=str(sum(f.verdict is Verdict.INSUFFICIENT for f in findings)),
    )
    tags = {Verdict.CONFIRMED: "failure", Verdict.NOT_MEASURED: "error", Verdict.INSUFFICIENT: "skipped"}
    for finding in findings:
        case = ET.SubElement(suite, "testcase", classname=f"nightly.{night.suite}.{finding.plan}", name=finding.metric)
        text = f"{finding.verdict}: {finding.why}"
        if finding.verdict in tags:
            ET.SubElement(case, tags[finding.verdict], message=_printable(text))
        else:
            ET.SubElement(case, "system-out").text = _printable(text)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def github(findings: Sequence[Finding]) -> str:
    """Workflow commands that annotate a run of GitHub Actions (docs.github.com, workflow commands)."""
    levels = {Verdict.CONFIRMED: "error", Verdict.NOT_MEASURED: "error", Verdict.SUSPECT: "warning"}
    levels |= {Verdict.ENV_CHANGE: "warning", Verdict.IMPROVED: "notice"}
    return "".join(
        f"::{levels[f.verdict]} title={_property(f'{f.verdict} {f.plan} {f.metric}')}::{_message(f.why)}\n"
        for f in sorted_findings(findings)
        if f.verdict in levels
    )


def benchmark_json(findings: Sequence[Finding], bigger_is_better: bool) -> str:
    """What github-action-benchmark reads as customSmallerIsBetter or customBiggerIsBetter."""
    entries = [
        {
            "name": f"{f.plan} {f.metric}",
            "unit": METRICS[f.metric].unit or "1",
            "value": f.value,
            "range": fmt.plain(f"{f.low:.4g} to {f.high:.4g}") if f.low is not None and f.high is not None else "",
            "extra": f"{f.verdict}: {f.why}",
        }
        for f in findings
        if f.value is not None and METRICS[f.metric].more_is_worse is not bigger_is_better
    ]
    return json.dumps(entries, indent=2) + "\n"


def otava_csv(nights: Sequence[Night]) -> str:
    """All nights as Apache Otava reads them: a line a night, a column for each metric of each plan."""
    keys = sorted(
        {
            (p, m)
            for night in nights
            for s in [night.screened()]
            if s
            for p, metrics in s.values.items()
            for m in metrics
        }
    )
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["time", "night", "commit", *(f"{plan}.{metric}" for plan, metric in keys)])
    for night in nights:
        session = night.screened()
        if session is None:
            continue
        stamp = night.night.partition("-")[0]
        time = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[9:11]}:{stamp[11:13]}:{stamp[13:15]}+00:00"
        values = (session.values.get(plan, {}).get(metric, []) for plan, metric in keys)
        medians = [sorted(found)[len(found) // 2] if found else "" for found in values]
        writer.writerow([time, night.night, night.environment.get("project", ""), *medians])
    return text.getvalue()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _printable(text: str) -> str:
    """XML has no place for control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
