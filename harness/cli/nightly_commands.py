"""What the nightly commands do."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from harness.errors import InputError, UnknownNameError
from harness.nightly import acknowledge
from harness.nightly.suite import Suite, load

SUITE, ACKNOWLEDGED = Path("nightly.toml"), Path("nightly-acknowledged.toml")
FORMATS = ("text", "markdown", "junit", "github", "benchmark", "otava", "json")


def suite_of(path: Path | None) -> tuple[Suite, Path | None]:
    """The suite of a file, of nightly.toml, or the one that comes with the harness."""
    if path is None and not SUITE.exists():
        with as_file(files("harness.nightly") / "default.toml") as default:
            return load(default), None
    return load(path or SUITE), path or SUITE


def run(
    path: Path | None,
    *,
    results: Path,
    reports: Path,
    deadline: str | None,
    project: Path | None,
    acknowledged: Path,
    format: str,
    hardware_label: str | None = None,
) -> int:
    """Measure and judge a night, write its page, print it; returns the exit code."""
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    suite, path = suite_of(path)
    entries = acknowledge.read(acknowledged)
    for entry in entries:
        acknowledge.check(suite, entry.plan, entry.metric)
    from harness.sweeps.config import SweepConfig, parse_duration

    seconds = None if deadline is None else parse_duration(deadline)
    config = SweepConfig(
        **suite.asked(Path() if path is None else path.parent),
        trust_remote_code=suite.trust_remote_code,
        world_size=suite.world_size or (None if suite.knobs else _ranks()),
        results=results,
        reports=reports,
        hardware_label=hardware_label,
    )

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    return _night(suite, path, config, entries, seconds, project, format, say)


def _ranks() -> int:
    """Of a suite that does not say how many: what a run has here, as a power of two, which its plans can divide."""
    from harness.machine.hardware import detect

    return 1 << (detect().default_ranks.bit_length() - 1)


def _night(
    suite: Suite,
    path: Path | None,
    config: Any,
    entries: tuple[acknowledge.Acknowledgement, ...],
    seconds: float | None,
    project: Path | None,
    format: str,
    say: Callable[[str], None],
) -> int:
    from harness.nightly import environment, night, pages
    from harness.nightly.history import History
    from harness.store.store import Store

    prepared = _prepared(suite, path, config)
    machine = prepared.hardware
    surroundings = environment.gather(machine, project or prepared.repository)
    prepared.get_ready()
    store, sweep = Store(config.results), f"nightly-{suite.name}"
    history = History(config.results, suite.name, machine.hardware_id, machine.machine_id)
    around = night.Surroundings(
        store=store, sweep=sweep, history=history, environment=surroundings, seconds=seconds, say=say
    )
    with history.alone(), _resumable(say), prepared.opened(around) as job:
        tonight, findings = job.run(entries)
    store.merge(machine.hardware_id, sweep)
    nights = history.nights()
    before = [n for n in nights if n.night < tonight.night and n.complete]
    changed = environment.changes(before[0].environment, tonight.environment) if before else ()
    ways = pages.commands(suite, path, findings)
    page = pages.build(config.reports, suite, nights, findings, changed, entries, ways, history.problems)
    pages.index(config.results, config.reports)
    _print(format, tonight, findings, changed, nights, ways[0][1], page)
    for problem in history.problems:
        say(f"warning: {problem}")
    return night.exit_code(findings)


def _prepared(suite: Suite, path: Path | None, config: Any) -> Any:
    """What a suite trains, checked on this machine."""
    if suite.knobs is None:
        from harness.nightly.recipe_night import Recipe

        return Recipe(suite, config)
    from harness.nightly.script_night import Script

    return Script(suite, path, config)


@contextlib.contextmanager
def _resumable(say: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say("what was measured is kept; the same command goes on with this night")
        raise


def _print(format: str, tonight: Any, findings: Any, changed: Any, nights: Any, repeat: str, page: Path) -> None:
    from harness.nightly import outputs

    made: dict[str, Callable[[], str]] = {
        "text": lambda: _text(tonight, findings, changed, page),
        "markdown": lambda: outputs.markdown(tonight, findings, changed, repeat),
        "junit": lambda: outputs.junit(tonight, findings),
        "github": lambda: outputs.github(findings),
        "benchmark": lambda: outputs.benchmark_json(findings, bigger_is_better=False),
        "otava": lambda: outputs.otava_csv(nights),
        "json": lambda: (
            json.dumps({"night": tonight.night, "findings": [f.to_json() for f in findings]}, indent=2) + "\n"
        ),
    }
    print(made[format](), end="")


def _text(tonight: Any, findings: Any, changed: Any, page: Path) -> str:
    from harness.nightly.outputs import headline, shown, sorted_findings
    from harness.report import format as fmt

    found = sorted_findings(findings)
    widths = [
        max(len(text) for text in column)
        for column in zip(*((f.verdict, f.plan, f.metric) for f in found), strict=True)
    ]
    lines = [f"{tonight.suite} on {tonight.hardware_id}, {tonight.night}: {headline(findings)}", ""]
    for finding in found:
        names = "  ".join(
            text.ljust(w) for text, w in zip((finding.verdict, finding.plan, finding.metric), widths, strict=True)
        )
        seen = f"; {finding.smallest:.1%} would have been seen" if finding.smallest is not None else ""
        lines.append(f"{names}  {shown(finding)}  {finding.why}{seen}")
    lines += ["", *(f"changed: {c.name}: {c.before} -> {c.now}" for c in changed)]
    return fmt.plain("\n".join([*lines, f"page      {page}"])) + "\n"


def init(
    sweep: str | None,
    results: Path,
    output: Path,
    name: str,
    script: tuple[str | None, Path | None, Sequence[str]] = (None, None, ()),
) -> int:
    """Write a suite from a sweep, or of a script: (its command, the file of its knobs, settings of some)."""
    from harness.nightly.init import write

    suite, trained = _made(sweep, results, output, name, *script)
    write(suite, output)
    print(f"{output}: {', '.join(suite.plans)}")
    if trained is not None and (other := _not_the_same(suite, output.parent, results, trained)) is not None:
        print(f"warning: {other}", file=sys.stderr)
    return 0


def _made(
    sweep: str | None,
    results: Path,
    output: Path,
    name: str,
    command: str | None,
    knobs: Path | None,
    pairs: Sequence[str],
) -> tuple[Suite, str | None]:
    """The suite, and of a sweep over a workload the workload_id that its trials have."""
    from harness.cli.commands import chosen
    from harness.nightly import script_suite
    from harness.nightly.init import from_sweep
    from harness.store.store import Store

    if knobs is None and (command is not None or pairs):
        raise InputError("--script and --set need --knobs, the file that says what can be turned about a script")
    if sweep is not None and (command is not None or pairs):
        raise InputError("a sweep says the command and the settings itself; leave out --script and --set, or the sweep")
    if sweep is None and knobs is not None:
        return script_suite.pinned(knobs, command, pairs, name, output), None
    store = Store(results)
    hardware_id, found = chosen(store, sweep)
    if "script" in store.sweep_info(hardware_id, found):
        return script_suite.of_sweep(store, hardware_id, found, name, output, knobs), None
    if knobs is not None:
        raise InputError(f"the sweep {found!r} is not of a script; leave out --knobs")
    return from_sweep(store, hardware_id, found, name, output.parent)


def _not_the_same(suite: Suite, folder: Path, results: Path, trained: str) -> str | None:
    """Why nights of a suite would not measure the workload with this workload_id; None if they will."""
    from harness import workloads

    asked = suite.asked(folder)
    try:
        made = workloads.create(
            asked.pop("workload"),
            cache=results / "cache",
            global_batch_size=asked.pop("global_batch")[0],
            **asked,
        )
    except InputError as error:
        return f"the suite's workload cannot be made here: {error}"
    if made.workload_id == trained:
        return None
    return f"the sweep trained {trained}, but the suite makes {made.workload_id}: a file or the harness has changed"


def ack(plan: str, metric: str, because: str, path: Path | None, acknowledged: Path, results: Path) -> int:
    """Accept a change: the baseline begins anew with the night in which it began."""
    if not because.strip():
        raise InputError("an acknowledgement says why: --because must not be empty")
    suite, _ = suite_of(path)
    acknowledge.check(suite, plan, metric)
    night, last = _since(results, suite, plan, metric)
    entry = acknowledge.Acknowledgement(plan=plan, metric=metric, night=night, because=because, last=last)
    acknowledge.append(acknowledged, entry)
    print(f"{acknowledged}: {plan} {metric} from {entry.night} on, because {because}")
    return 0


def _since(results: Path, suite: Suite, plan: str, metric: str) -> tuple[str, str]:
    """(the night in which a change that stands confirmed began, the last night if none does; the last night)."""
    from harness.nightly.history import History

    nights = [
        night
        for place in sorted(results.glob(f"nightly/{suite.name}/*"))
        for night in History(results, suite.name, place.name).own()
    ]
    if not nights:
        raise InputError(f"the suite {suite.name!r} has no night in {results}, so there is nothing to accept")
    last = max(nights, key=lambda night: night.night)
    for verdict in last.verdicts:
        if plan in (verdict.get("plan"), "*") and metric in (verdict.get("metric"), "*") and verdict.get("since"):
            return str(verdict["since"]), last.night
    return last.night, last.night


def install(form: str, path: Path | None, time: str, deadline: str, write: bool) -> int:
    """Print the unit that runs the suite every night, or put it where it belongs."""
    from harness.nightly import schedule
    from harness.sweeps.config import parse_duration

    parse_duration(deadline)
    hour, colon, minute = time.partition(":")
    if not (colon and hour.isdecimal() and minute.isdecimal()):
        raise InputError(f"the time of a night is written HH:MM, but got {time!r}")
    suite = (path or SUITE).absolute()
    load(suite)
    units = schedule.FORMS[form](
        schedule.Job(suite=suite, folder=suite.parent, hour=int(hour), minute=int(minute), deadline=deadline)
    )
    if write:
        schedule.write(units)
    for unit in units:
        print(f"# {unit.path}{' (written)' if write else ''}\n{unit.text}")
    return 0


def bisect(
    good: str,
    bad: str,
    project: Path | None,
    build: str,
    measure: str | None,
    runs: int,
    floor: str,
    of_suite: tuple[Path | None, str | None, str | None],
) -> int:
    """Find the commit that made a plan slower; of a suite of a script: (its file, the plan, the metric)."""
    from harness.nightly import script_bisect
    from harness.nightly.bisect import Bisect
    from harness.sweeps.config import parse_share

    if runs < 4:
        raise InputError(f"runs must be at least 4, but got {runs}")
    measured: Any = measure
    if measure is None:
        path, plan, metric = of_suite
        measured = script_bisect.of_suite(*suite_of(path), plan, metric or "step_time_s")
        if project is not None and project.resolve() != measured.project:
            raise InputError(f"the script of the suite is in {measured.project}, not in {project}; leave out --project")
        project = measured.project
    elif given := [name for name, value in zip(("suite", "plan", "metric"), of_suite, strict=True) if value]:
        raise InputError(f"--{given[0]} says what is measured instead of --measure; leave one of them out")
    job = Bisect(
        project or Path(),
        build,
        measured,
        runs,
        parse_share(floor, "floor"),
        say=lambda text: print(text, file=sys.stderr),
    )
    found = job.find(good, bad)
    if isinstance(found, str):
        print(f"{found} is the first bad commit")
        return 0
    print("the revisions that could not be measured leave these candidates:\n" + "\n".join(found))
    return 0
