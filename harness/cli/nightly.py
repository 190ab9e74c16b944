"""The command line of the nightly run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import nightly_commands as commands
from harness.cli.guarded import guarded

app = typer.Typer(rich_markup_mode=None, help="Measure a suite every night and hear of what got worse.")

SuiteFile = Annotated[Path | None, typer.Argument(help="Suite; nightly.toml if it exists, else the default suite.")]
SuiteOption = Annotated[Path | None, typer.Option("--suite", help="Suite; nightly.toml if left out.")]
Results = Annotated[Path, typer.Option(help="Folder of the parquet files and nights.")]
Reports = Annotated[Path, typer.Option(help="Folder of the HTML pages.")]
Acknowledged = Annotated[Path, typer.Option(help="File of acknowledgements, to be kept in git.")]


@app.callback(invoke_without_command=True, epilog="Example: python -m harness nightly run")
def top(context: typer.Context) -> None:
    """Measure a suite every night and hear of what got worse. Without a command: run."""
    if context.invoked_subcommand is None:
        run()


@app.command(epilog="Example: python -m harness nightly run nightly.toml --deadline 2h")
def run(
    suite: SuiteFile = None,
    results: Results = Path("results"),
    reports: Reports = Path("reports"),
    deadline: Annotated[str | None, typer.Option(help="Of the whole night, such as 2h.")] = None,
    project: Annotated[Path | None, typer.Option(help="Git working tree whose commit is recorded.")] = None,
    acknowledged: Acknowledged = commands.ACKNOWLEDGED,
    format: Annotated[str, typer.Option(help="text, markdown, junit, github, benchmark, otava or json.")] = "text",
    hardware_label: Annotated[str | None, typer.Option(help="Part of the hardware_id.")] = None,
) -> None:
    """Measure and judge a night: exit 0, 1 for a confirmed regression, 3 if something could not be measured."""
    guarded(
        lambda: commands.run(
            suite,
            results=results,
            reports=reports,
            deadline=deadline,
            project=project,
            acknowledged=acknowledged,
            format=format,
            hardware_label=hardware_label,
        )
    )


@app.command(epilog="Example: python -m harness nightly init my-sweep")
def init(
    sweep: Annotated[str | None, typer.Argument(help="The sweep; the last one if left out.")] = None,
    results: Results = Path("results"),
    output: Annotated[Path, typer.Option(help="File to write.")] = commands.SUITE,
    name: Annotated[str, typer.Option(help="Name of the suite.")] = "nightly",
    script: Annotated[
        str | None, typer.Option(help="Command of a script, {name} for each knob; instead of a sweep.")
    ] = None,
    knobs: Annotated[
        Path | None, typer.Option(help="TOML file with a script's knobs; it may have the command.")
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", help="A script's knob, NAME=VALUE; may be repeated.")
    ] = None,
) -> None:
    """Make a suite from a sweep: its winner, and the best of each strategy; or of a script as it stands."""
    guarded(lambda: commands.init(sweep, results, output, name, (script, knobs, set or [])))


@app.command(
    epilog='Example: python -m harness nightly ack winner step_time_s --because "the new tokenizer is worth it"'
)
def ack(
    plan: Annotated[str, typer.Argument(help="Name of the plan in the suite, or *.")],
    metric: Annotated[str, typer.Argument(help="Name of the metric, or *.")],
    because: Annotated[str, typer.Option(help="Why the change is accepted.")],
    suite: SuiteOption = None,
    acknowledged: Acknowledged = commands.ACKNOWLEDGED,
    results: Results = Path("results"),
) -> None:
    """Accept a change: a line in a file in git, from which the baseline begins anew."""
    guarded(lambda: commands.ack(plan, metric, because, suite, acknowledged, results))


@app.command(epilog="Example: python -m harness nightly install --cron")
def install(
    suite: SuiteFile = None,
    cron: Annotated[bool, typer.Option("--cron", help="A crontab.")] = False,
    systemd: Annotated[bool, typer.Option("--systemd", help="A user service and its timer.")] = False,
    github: Annotated[bool, typer.Option("--github", help="A workflow for a runner of your own.")] = False,
    pull_request: Annotated[
        bool, typer.Option("--pull-request", help="A workflow that judges each pull request by the nights.")
    ] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="A batch script that queues the next night.")] = False,
    time: Annotated[str, typer.Option(help="When, HH:MM.")] = "01:00",
    deadline: Annotated[str, typer.Option(help="Of the whole night.")] = "2h",
    write: Annotated[bool, typer.Option("--write", help="Put it where it belongs instead of printing alone.")] = False,
) -> None:
    """Print the unit that runs the suite every night."""
    named = {"cron": cron, "systemd": systemd, "github": github, "pull_request": pull_request, "slurm": slurm}
    forms = [name for name, chosen in named.items() if chosen]
    if len(forms) != 1:
        raise typer.BadParameter("choose one of --cron, --systemd, --github, --pull-request and --slurm")
    guarded(lambda: commands.install(forms[0], suite, time, deadline, write))


@app.command(
    epilog="Example: python -m harness nightly bisect --good v1.0 --bad main --project . "
    "--build 'make' --measure 'python bench.py'"
)
def bisect(
    good: Annotated[str, typer.Option(help="A revision that was fast.")],
    bad: Annotated[str, typer.Option(help="A revision that is slow.")],
    measure: Annotated[
        str | None,
        typer.Option(help="Command whose last printed number is to be small; else a plan of a script's suite."),
    ] = None,
    project: Annotated[
        Path | None, typer.Option(help="Git working tree; here, or that of the suite's script, if left out.")
    ] = None,
    build: Annotated[str, typer.Option(help="Command that builds a revision.")] = "",
    runs: Annotated[int, typer.Option(help="Of each side in a comparison.")] = 6,
    floor: Annotated[str, typer.Option(help="Smallest slowdown that counts.")] = "2%",
    suite: SuiteOption = None,
    plan: Annotated[str | None, typer.Option(help="Plan of the suite; may be left out where there is one.")] = None,
    metric: Annotated[str | None, typer.Option(help="Of the plan. [default: step_time_s]")] = None,
) -> None:
    """Find the commit of your project that made it slower: good and bad are measured in turns."""
    of_suite = (suite, plan, metric)
    guarded(lambda: commands.bisect(good, bad, project, build, measure, runs, floor, of_suite))
