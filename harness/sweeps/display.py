"""What people see on the terminal: a live display where there is one, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from harness.search.evaluation import Event
    from harness.sweeps.experiment import Experiment
    from harness.sweeps.script_experiment import ScriptExperiment
    from harness.trial.recorder import Result

from harness import labels
from harness.labels import Row
from harness.report import certainty
from harness.report.format import duration, percent, rate, size
from harness.report.sweep_view import SweepView
from harness.scripts import lanes
from harness.store.records import Outcome, Role, Source
from harness.store.standings import USABLE
from harness.workloads import waiting_for

_ROLES = {Role.AGAIN: "again", Role.FINAL: "final", Role.BASELINE: "baseline"}
LIVE_PAUSE_S, LINE_PAUSE_S = 0.2, 10.0
"""Between two lines about a preparation, where one takes the place of the other, and where they pile up."""
OURS = ("data_parallel", "dp", "tp", "pp", "micro_batch_size", "precision", "activation_checkpoint", "compile")
"""Knobs that every plan of a workload has."""
SHOWN = 15
"""Rows of the ranked table on the terminal; the report has all."""


class Waiting:
    """Says how far the preparation of data is, and how long it will take.

    Args:
        say: takes a line.
        live: whether a line takes the place of the one before.
    """

    def __init__(self, say: Callable[[str], None], *, live: bool) -> None:
        self.say, self.pause = say, LIVE_PAUSE_S if live else LINE_PAUSE_S
        self.what, self.began, self.first, self.said = "", 0.0, 0, 0.0

    def __call__(self, what: str, done: int, total: int | None, unit: str) -> None:
        now = time.monotonic()
        if what != self.what:
            self.what, self.began, self.first, self.said = what, now, done, now
        elif now - self.said >= self.pause:
            self.said = now
            self.say(self.sentence(done, total, unit, now - self.began))

    def sentence(self, done: int, total: int | None, unit: str, seconds: float) -> str:
        """What is said after so many seconds."""
        scale, name = (1e6, "MB") if unit == "bytes" else (1, unit)
        if total is None:
            return f"preparing {self.what}: {done / scale:,.0f} {name}"
        text = f"preparing {self.what}: {done / scale:,.0f} of {total / scale:,.0f} {name}"
        new = done - self.first
        return f"{text}, about {duration(seconds * (total - done) / new)} more" if new > 0 else text


@contextlib.contextmanager
def waited(console: Console) -> Iterator[None]:
    """Say how far preparation is, where nothing else is shown meanwhile."""
    with contextlib.ExitStack() as stack:
        if console.is_terminal:
            status = stack.enter_context(console.status("preparing"))
            listener = Waiting(status.update, live=True)
        else:
            listener = Waiting(lambda text: console.print(text, highlight=False, markup=False), live=False)
        stack.enter_context(waiting_for.told(listener))
        yield


class SweepDisplay:
    """Progress of a sweep.

    Args:
        console: where to print; plain lines unless it is a terminal.
        seconds: the time budget, for the bar.
        trials: the budget of trials, for the bar.
    """

    def __init__(self, console: Console, seconds: float | None, trials: int | None) -> None:
        self.console, self.seconds, self.trials = console, seconds, trials
        self.began = time.monotonic()
        self.best = 0.0
        self.count = 0
        self.doing = "starting"
        self._waiting = contextlib.ExitStack()
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("starting", total=seconds or trials)

    def __enter__(self) -> SweepDisplay:
        self._waiting.enter_context(waiting_for.told(Waiting(self.message, live=self.console.is_terminal)))
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing, so that other lines can be printed."""
        self.progress.stop()
        self._waiting.close()

    def started(self, experiment: Experiment | ScriptExperiment, name: str) -> None:
        """Say what is about to happen."""
        self.console.print(f"sweep     {name}", highlight=False)
        if self.seconds is None and self.trials is None:
            self.seconds = experiment.seconds
            self.progress.update(self.task, total=self.seconds)
        from harness.sweeps.script_experiment import ScriptExperiment

        if isinstance(experiment, ScriptExperiment):
            self._started_script(experiment)
        else:
            self._started_workload(experiment)

    def _started_script(self, experiment: ScriptExperiment) -> None:
        def say(text: str) -> None:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

        say(f"hardware  {experiment.hardware.hardware_id}")
        words = (word if "{" in word else shlex.quote(word) for word in experiment.script.command)
        say(f"script    {' '.join(words)}")
        say(f"          in {experiment.script.workdir}")
        settings = ", ".join(f"{name}={value}" for name, value in experiment.space.baseline.items())
        say(f"baseline  {settings}")
        say(f"searching {' '.join(experiment.space.domains)}")

    def _started_workload(self, experiment: Experiment) -> None:
        machine = experiment.hardware
        self.console.print(f"hardware  {machine.hardware_id}, {experiment.world_size} ranks", highlight=False)
        for workload in experiment.workloads.values():
            facts = workload.facts()
            self.console.print(
                f"workload  {workload.name}, {facts.parameters / 1e6:.1f} M parameters, "
                f"global batch {workload.global_batch_size} x {workload.seq_len}",
                highlight=False,
            )
        if experiment.enlarged_from is not None:
            batch = next(iter(experiment.workloads))
            say = f"its own batch is {experiment.enlarged_from}, which {experiment.world_size} ranks do not divide"
            self.console.print(f"          {say}: {batch} is used; --global-batch chooses another", highlight=False)
        if machine.unused:
            self.console.print(f"note      {machine.unused}", highlight=False, markup=False, soft_wrap=True)
        if dropped := next(iter(experiment.workloads.values())).dropped:
            more = f" and {len(dropped) - 3} more" if len(dropped) > 3 else ""
            names = f"{', '.join(dropped[:3])}{more}"
            text = f"dropout was set to 0 ({names}): --keep-dropout keeps it"
            self.console.print(f"note      {text}", highlight=False, markup=False, soft_wrap=True)
        for note in next(iter(experiment.workloads.values())).notes:
            self.console.print(f"note      {note}", highlight=False, markup=False, soft_wrap=True)
        names = " ".join(strategy.name for strategy in experiment.strategies)
        self.console.print(f"searching {names}", highlight=False)

    def message(self, text: str) -> None:
        """Print a line."""
        self.doing = text
        self._refresh()
        if not self.console.is_terminal:
            self.console.print(text, highlight=False)

    def event(self, event: Event) -> None:
        """Show which plan is being tried."""
        if event.evaluation is None:
            self.doing = short(event.plan)
            self._refresh()

    def step(self, steps: int) -> None:
        """Keep the display alive."""
        self._refresh(f"step {steps}")

    def recorded(self, result: Result) -> None:
        """Print one line for a trial."""
        self.count += 1
        row = result.row
        label = short(row)
        notes = [_ROLES[role]] if (role := row.get("role")) in _ROLES else []
        notes += ["disturbed"] if row.get("disturbed") else []
        notes += ["stopped early"] if result.outcome is Outcome.STOPPED_EARLY else []
        label = " ".join([label, *(f"({note})" for note in notes)])
        if result.outcome in USABLE:
            speed = float(row["tokens_per_s"] or 0.0)
            mark = " *" if speed > self.best else ""
            self.best = max(self.best, speed)
            text = f"{rate(speed):>12}  {size(row['peak_memory_bytes']):>9}  {label}{mark}"
        else:
            text = f"{row['outcome']:>12}  {'':>9}  {label}: {row['outcome_reason']}"
        self.console.print(f"{self.count:4d}  {text}", highlight=False, markup=False, soft_wrap=True)
        self._refresh()

    def _refresh(self, suffix: str = "") -> None:
        done = time.monotonic() - self.began if self.seconds else float(self.count)
        self.progress.update(self.task, completed=done, description=f"{self.doing} {suffix}".strip())


def short(plan: Any) -> str:
    """A plan in few words, or a trial's: what differs from plain data parallelism; of a script every knob."""
    if plan.get("data_parallel") is None or plan.get("source") == Source.SCRIPT:
        return " ".join(
            f"{name}={value}" for name, value in (labels.settings(plan) if "knobs" in plan else plan).items()
        )
    axes = [f"{axis}{plan[axis]}" for axis in ("dp", "tp", "pp") if plan[axis] != 1]
    words = [*([plan["data_parallel"]] if plan["data_parallel"] != "none" else []), *axes]
    words.append(f"mb{plan['micro_batch_size']}")
    words += [str(plan[name]) for name in ("precision", "quantization") if plan[name] not in ("fp32", "none")]
    if plan["activation_checkpoint"] != "none":
        words.append(f"checkpoint-{plan['activation_checkpoint']}")
    return " ".join(map(str, words + (["compiled"] if plan["compile"] else [])))


def ranked_table(view: SweepView, ranking: Sequence[Row]) -> Table:
    """The best trials of a ranking, the winner first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    timed = view.objective == "time-to-loss"
    headings = ("#", *(["to the loss"] if timed else []), view.unit, "95 % interval", "launches", "peak memory", "step")
    for heading in (*headings, "numerics", "plan"):
        table.add_column(heading, justify="left" if heading == "plan" else "right", overflow="fold")
    ties = {row["trial_id"] for row in view.ties}
    for place, row in enumerate(ranking[:SHOWN], start=1):
        middle, low, high = view.interval(row)
        table.add_row(
            f"{place}{'=' if row['trial_id'] in ties else ''}",
            *([duration(row["time_to_loss_s"])] if timed else []),
            f"{middle:,.0f}",
            f"{low:,.0f} - {high:,.0f}",
            str(row["launches"]),
            size(row["peak_memory_bytes"]),
            f"{row['step_time_s'] * 1000:.0f} ms",
            f"{row['numerics']} {row['numerics_max_rel_error'] or 0:.0e}",
            view.label(row),
        )
    return table


def print_result(console: Console, view: SweepView, repeats: dict[str, str]) -> None:
    """The ranked tables, what failed, and the commands that repeat the winners."""
    console.print()
    if view.winner is None:
        console.print("no plan succeeded:", style="bold")
    for ranking in view.rankings:
        if len(view.rankings) > 1:
            console.print(_ranking_name(view, ranking[0]), style="bold", highlight=False)
        console.print(ranked_table(view, ranking))
        if ties := view.ties_with(ranking[0]):
            console.print(f"= cannot be told apart from the winner ({len(ties)} tied)", highlight=False)
    for sentence in certainty.sentences(view):
        console.print(sentence, highlight=False, markup=False)
    failed = {name: count for name, count in view.outcomes.items() if name not in USABLE}
    if failed:
        counts = ", ".join(f"{count} {name}" for name, count in failed.items())
        console.print(f"not ranked: {counts}; the report says why", highlight=False)
    if view.winner is None:
        for row in view.failed[:SHOWN]:
            console.print(f"  {view.label(row)}: {row['outcome_reason']}", highlight=False, markup=False)
        return
    commands = [repeats[winner["trial_id"]] for winner in view.winners if winner["trial_id"] in repeats]
    if commands:
        console.print(f"\nrepeat the winner{'s' if len(commands) > 1 else ''}:", highlight=False)
    for command in commands:
        console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)


def _ranking_name(view: SweepView, first: Row) -> str:
    if not view.is_script:
        return f"global batch {first['global_batch_size']}"
    apart = first["workload_id"].endswith(lanes.APART)
    return "something else than the script as it stood, ranked apart" if apart else "the same as the script as it stood"


def print_trial(console: Console, result: Result) -> None:
    """One trial in a few lines."""
    row = result.row
    console.print(f"{row['outcome']}  {short(row)}", highlight=False, markup=False)
    if row["outcome_reason"]:
        console.print(f"  {row['outcome_reason']}", highlight=False, markup=False)
    if row.get("tokens_per_s"):
        for name, text in _figures(row):
            console.print(f"  {name:<14} {text}", highlight=False)


def _figures(row: dict[str, Any]) -> Sequence[tuple[str, str]]:
    interval = f"{row['tokens_per_s_low']:,.0f} to {row['tokens_per_s_high']:,.0f}"
    numerics = row["numerics"]
    if row.get("numerics_max_rel_error") is not None:
        numerics += f", {row['numerics_max_rel_error']:.1e} of {row['numerics_tolerance']:g} allowed"
    return (
        ("throughput", f"{rate(row['tokens_per_s'])} (95 % interval {interval}, {row['measured_steps']} steps)"),
        ("step", f"{row['step_time_s'] * 1000:.1f} ms"),
        ("peak memory", size(row["peak_memory_bytes"])),
        ("sent", f"{size(row['comm_bytes_per_step'])} a step" if row.get("comm_bytes_per_step") is not None else "-"),
        ("loss", f"{row['loss_first']:.4f} to {row['loss_last']:.4f}"),
        ("numerics", numerics),
        ("fixed cost", f"{row['launch_s'] + row['setup_s'] + row['teardown_s']:.2f} s"),
    )


def shares(part: float, whole: float) -> str:
    """A share in words."""
    return percent(part / whole) if whole else "-"
