"""What `watch` does."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.guarded import NOTHING_SUCCEEDED
from harness.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from harness.scripts.knobs_file import KnobsFile
    from strategies.knob import Setting

FIRST = 4
"""Losses that are shown, as many of the end."""
LINES = 12
"""Of the end of what a script that failed printed."""


def watch(
    command: Sequence[str],
    *,
    knobs: tuple[Path | None, Sequence[str]] = (None, ()),
    steps: int | None,
    budget: str,
    precision: str,
    warmup_steps: int,
    deadlines: tuple[str, str],
    as_json: bool,
    alone: str | None = None,
) -> int:
    """Run a script's command until its steps are known, end it, and print what was seen.

    Raises:
        InputError: the command cannot be started, or an option cannot be used.
        KeyboardInterrupt: it was interrupted; nothing of the script is left.
        MeasurementError: no process can be started here.
    """
    from harness.launchers.job import Deadlines, Measurement
    from harness.launchers.script import ScriptJob, check
    from harness.observe.injection import Settings
    from harness.store.records import Outcome
    from harness.sweeps.config import parse_duration, parse_share
    from harness.trial import script_jobs
    from harness.trial.folder import temporary_folder
    from harness.trial.script_summary import columns
    from harness.trial.scripted import follow_script

    file, pairs = knobs
    script, plan = _script(file, pairs, command)
    if script is None:
        check(command, Path.cwd())
    seconds, share = parse_duration(budget), parse_share(precision, "precision target")
    measurement = Measurement(warmup_steps=warmup_steps, seconds=seconds, precision=share)
    if steps is not None:
        measurement = Measurement(warmup_steps=warmup_steps, min_steps=steps, max_steps=steps, seconds=float("inf"))
    start, step = (parse_duration(text) for text in deadlines)
    with temporary_folder() as folder:
        if script is None:
            job = ScriptJob(
                folder=folder,
                command=tuple(command),
                workdir=Path.cwd(),
                measurement=measurement,
                observed=Settings(warmup_steps=warmup_steps),
            )
        else:
            job = script_jobs.of_plan(script, plan, folder, measurement)
        print(f"command   {shlex.join(job.command)}", file=sys.stderr, flush=True)
        trace = follow_script(job, Deadlines(start=start, step=step))
        given = script.batch(plan, len(trace.readers)) if script is not None and trace.readers else None
        found = columns(trace, given)
        found["plan"] = plan or None
    if found["outcome"] is Outcome.INTERRUPTED:
        raise KeyboardInterrupt
    _show(found, as_json, alone)
    return 0 if found["outcome"] is Outcome.OK else NOTHING_SUCCEEDED


def _show(found: Mapping[str, Any], as_json: bool, alone: str | None) -> None:
    if alone is not None:
        if alone not in found:
            raise UnknownNameError("field of what was seen", alone, found)
        print(found[alone])
    elif as_json:
        print(json.dumps(_finite(found), default=str, allow_nan=False))
    else:
        print("\n".join(lines(found)))


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity: they are texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value


def _script(
    file: Path | None, pairs: Sequence[str], command: Sequence[str]
) -> tuple[KnobsFile | None, dict[str, Setting]]:
    """The script of a knobs file and the plan that is asked for; a command on the command line wins over the file's."""
    from harness.plan import parse_settings
    from harness.scripts.knobs_file import read

    if file is None:
        if pairs:
            raise InputError("--set needs --knobs, the file that says where a knob goes")
        return None, {}
    script = read(file, shlex.join(command) if command else None)
    plan = script.plan(parse_settings(pairs, script.free))
    script.batch(plan, 1)  # what cannot be calculated is said before anything is started
    reason = script.why_not(plan)
    if reason is not None:
        raise InputError(f"this plan is not to be run: {reason}")
    return script, plan


def lines(found: Mapping[str, Any]) -> list[str]:
    """What is printed of a launch; what is not known is left out, or says why."""
    from harness.trial.script_summary import alone

    said = [_outcome(found), *_recognised(found), *_measured(found)]
    if (warning := alone(found)) is not None:
        said += ["", f"warning: {warning}"]
    if found["evidence"] is not None:
        said += ["", *_failed(json.loads(found["evidence"]))]
    if found["observer_trouble"]:
        said += ["", "the observer failed and was off from then on:", str(found["observer_trouble"]).rstrip()]
    return said


def _outcome(found: Mapping[str, Any]) -> str:
    reason = f": {found['outcome_reason']}" if found["outcome_reason"] else ""
    return f"outcome   {found['outcome']}{reason}"


def _recognised(found: Mapping[str, Any]) -> list[str]:
    from harness.report.format import count, listed

    if not found["world_size"]:
        return []
    devices = listed(found["devices"]) or "unknown device"
    said = [f"ranks     {count(found['world_size'], 'rank')} on {devices}"]
    made = found["steps_by_rank"]
    said[0] += f", {count(made[0], 'step')} each" if len(set(made)) == 1 else f", steps made: {made}"
    parts = [*found["engines"], *found["optimizers"]]
    if found["backwards_per_step"]:
        parts.append(f"{count(found['backwards_per_step'], 'backward pass', 'backward passes')} a step")
    if found["skipped_steps"]:
        parts.append(f"{count(found['skipped_steps'], 'step')} skipped because of infinite gradients")
    said += [f"training  {', '.join(parts)}"] if parts else []
    shapes = [f"{name} {'x'.join(map(str, shape))}" for name, shape in (found["batch_shapes"] or {}).items()]
    return said + ([f"batch     {', '.join(shapes)}"] if shapes else [])


def _measured(found: Mapping[str, Any]) -> list[str]:
    from harness.report.format import count, duration, plain, rate, size, span

    said = []
    if "step_time_low_s" in found:
        low, high = duration(found["step_time_low_s"]), duration(found["step_time_high_s"])
        steps = count(found["measured_steps"], "step")
        said.append(f"step      {duration(found['step_time_s'])}, 95 % interval {low} to {high}, from {steps}")
        for noun in ("samples", "tokens"):
            if found.get(f"{noun}_per_s"):
                within = span(found[f"{noun}_per_s_low"], found[f"{noun}_per_s_high"])
                a_step = f"{found[f'{noun}_per_step']:,.6g}"
                said.append(f"{noun:<8}  {rate(found[f'{noun}_per_s'])} a second, {within}; {a_step} a step")
        if not found.get("samples_per_s"):
            said.append(f"samples   unknown: {found['samples_from']}")
    if found.get("peak_memory_bytes") is not None:
        reserved = found.get("peak_reserved_bytes")
        beside = f", {size(reserved)} reserved" if reserved else " beyond what it held after importing torch"
        said.append(f"memory    {size(found['peak_memory_bytes'])} at the peak of the worst rank{beside}")
    losses = [f"{loss:.6g}" for loss in found["losses"]]
    if losses:
        shown = losses if len(losses) <= 2 * FIRST else [*losses[:FIRST], "...", *losses[-FIRST:]]
        said.append(f"losses    {' '.join(shown)}")
    if found.get("comm_by_collective"):
        sent = json.loads(found["comm_by_collective"])
        parts = [f"{name} {size(bytes_)} in {count(calls, 'call')}" for name, (bytes_, calls) in sent.items()]
        said.append(f"sent      {', '.join(parts) or 'nothing'} a step, by the rank that sends most")
    if found["hooks_s_per_step"]:
        said.append(f"observer  {duration(found['hooks_s_per_step'])} of processor time a step")
    return [plain(line) for line in said]


def _failed(evidence: Mapping[str, Any]) -> list[str]:
    """What was seen of a launch that did not end well."""
    said = []
    for rank in evidence["ranks"]:
        for name in ("traceback", "stacks"):
            if rank.get(name):
                said += [f"rank {rank['rank']}, {name}:", *str(rank[name]).rstrip().splitlines()[-LINES:]]
    printed = str(evidence.get("output", "")).rstrip().splitlines()[-LINES:]
    return said + (["the end of what was printed:", *printed] if printed else [])
