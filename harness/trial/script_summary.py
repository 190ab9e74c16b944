"""From the events of a script's launch to what is told of it: columns of trials, and those that only scripts have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from harness import statistics
from harness.launchers.events import Event
from harness.rank.counters import differences, foreign_share
from harness.store.records import Outcome
from harness.trial import evidence, summary
from harness.trial.output import KEPT
from harness.trial.scripted import ScriptTrace, script_ending

USUAL_SHARE = 0.8
"""Share of the window's steps that must hold as many samples as most do, or a step has no number of samples."""


def columns(trace: ScriptTrace, given: Mapping[str, float] | None = None) -> dict[str, Any]:
    """One launch: `outcome` with its reason, everything that was measured, and what was recognised.

    `samples_per_step` and `tokens_per_step` are of all ranks together, from what the data loaders gave or the script
    said; where they are None, `samples_from` says why. Rates have an interval of 95 %, from that of the median step.

    Args:
        trace: of the launch.
        given: `samples_per_step` and `tokens_per_step` where they are known from elsewhere.
    """
    ending = script_ending(trace)
    found: dict[str, Any] = {
        "outcome": ending.outcome,
        "outcome_reason": ending.reason,
        "failed_phase": ending.phase,
        "failed_rank": ending.rank,
        "failed_step": ending.step,
        "command": list(trace.job.command),
        "exit_status": trace.status,
        "world_size": len(trace.readers) or None,
        **(summary.measured(trace) if trace.readers else {}),
        "stop": trace.stop,
        **_batch(trace),
        **(dict(given, samples_from="given") if given else {}),
        **_load(trace),
        **_seen(trace),
        "observer_trouble": trace.troubles[-KEPT:] or None,
    }
    found |= _rates(trace, found)
    found["evidence"] = None if ending.outcome is Outcome.OK else _evidence(trace)
    return found


def alone(found: Mapping[str, Any]) -> str | None:
    """A sentence where each of several ranks seems to train for itself; None where one was seen to send."""
    if (found.get("world_size") or 1) < 2 or found.get("comm_bytes_per_step") != 0:
        return None
    return f"{found['world_size']} ranks were seen, and none sent anything in a step: each seems to train alone"


def _window(trace: ScriptTrace) -> list[list[Event]]:
    """Of each rank, the steps of the window that count."""
    steps = sorted(summary.window(trace).items())
    late = {step for step, _ in steps[statistics.warmup_length([seconds for _, seconds in steps]) :]}
    return [[event for event in reader.all("step") if event["step"] in late] for reader in trace.readers]


def _batch(trace: ScriptTrace) -> dict[str, Any]:
    window = _window(trace)
    if not window or not all(window):
        return {}
    usual = [Counter(event.get("samples") for event in events).most_common(1)[0] for events in window]
    if all(count is None for count, _ in usual):
        why = "no data loader of torch's was seen, and the script did not say it"
        return {"samples_per_step": None, "tokens_per_step": None, "samples_from": why}
    if any(often < USUAL_SHARE * len(events) for (_, often), events in zip(usual, window, strict=True)):
        return {"samples_per_step": None, "tokens_per_step": None, "samples_from": "its steps hold unequal numbers"}
    tokens = [
        [event.get("tokens") or 0 for event in events if event.get("samples") == count]
        for events, (count, _) in zip(window, usual, strict=True)
    ]
    mean = sum(sum(each) / len(each) for each in tokens)
    return {
        "samples_per_step": sum(count or 0 for count, _ in usual),
        "tokens_per_step": mean or None,
        "samples_from": "batches",
    }


def _rates(trace: ScriptTrace, found: Mapping[str, Any]) -> dict[str, Any]:
    times = [max(each["step_time_s"] for each in steps) for steps in zip(*_window(trace), strict=True)]
    if not times:
        return {}
    low, high = statistics.median_interval(times)
    middle = statistics.median(times)
    rates = {"step_time_low_s": low, "step_time_high_s": high}
    for noun in ("samples", "tokens"):
        count = found.get(f"{noun}_per_step")
        if count is not None:
            rates |= {f"{noun}_per_s": count / middle}
            rates |= {f"{noun}_per_s_low": count / high, f"{noun}_per_s_high": count / low}
    return rates


def _load(trace: ScriptTrace) -> dict[str, Any]:
    """What others took of the processors in the window, as shares of their whole time, and its energy."""
    before, after = trace.opened, trace.closed
    if not (before and after):
        return {}
    wall_s, spent = after["t"] - before["t"], differences(before, after)
    foreign, whole = foreign_share(before, after, wall_s), wall_s * float(after.get("cpus") or 0)
    found: dict[str, Any] = {"foreign_cpu_share": foreign}
    if "stolen_cpu_s" in spent and whole > 0:
        found["stolen_cpu_share"] = spent["stolen_cpu_s"] / whole
    if "energy_j" in spent and trace.device_type == "cpu":
        found["energy_j"] = spent["energy_j"]
    return found


def _seen(trace: ScriptTrace) -> dict[str, Any]:
    """What the script is made of, as far as its ranks told."""
    done = [event for reader in trace.readers if (event := reader.last("done"))]
    steps = [event for reader in trace.readers for event in reader.all("step")]
    return {
        "optimizers": _all(done, lambda event: event["optimizers"]),
        "engines": _all(done, lambda event: event["engines"]),
        "devices": _all(done, lambda event: [event["device"]]),
        "batch_shapes": next((event["shapes"] for event in done if event["shapes"]), None),
        "backwards_per_step": _usual(event["backwards"] for event in steps),
        "skipped_steps": sum(bool(event.get("skipped")) for event in trace.readers[0].all("step")) if done else None,
        "steps_by_rank": [len(reader.all("step")) for reader in trace.readers],
        "hooks_s_per_step": max((event["hooks_s"] for event in done if event["hooks_s"]), default=None),
        "losses": summary.curve(trace).loss,
    }


def _all(events: list[Event], what: Callable[[Event], Iterable[str]]) -> list[str]:
    return sorted({name for event in events for name in what(event)})


def _usual(values: Iterable[int]) -> int | None:
    counted = Counter(values)
    return counted.most_common(1)[0][0] if counted else None


def _evidence(trace: ScriptTrace) -> str:
    """As of trials; what is printed comes from all ranks together, and is told once."""
    output = trace.outputs[0] if trace.outputs else ""
    trace.outputs = []
    found = {"output": output.encode()[-evidence.OUTPUT :].decode(errors="ignore"), **json.loads(evidence.of(trace))}
    trace.outputs = [output]
    return json.dumps(found, ensure_ascii=False)
