"""Memory and step time on this machine, predicted without the plan's own measurement.

`--plans` plans of each of two models (or of those that `--workloads` names, blanks between them, such as "llama-mini
moe-mini bert-mini t5-mini vit-mini") are launched once: every way of using each strategy, then random plans of the
whole space. Beside each measurement stand

    tensors     the trace (harness.predict.trace): no measurement at all
    closed      the closed form of memory, from the same plan: no measurement at all
    resident    the kernel's peak: the trace and what all other plans' peaks have in common beside theirs, corrected by
                a Gaussian process over the other plans
    step time   the closed form from the machine's calibration and its short trainings, corrected by a Gaussian process
                over the other plans ("others"), or over ten plans that were launched before ("after 10"), or not at all
                ("closed form")
    constant    one MFU for all plans, that of the others

"said to fit" counts limits at every decile of the measured peaks, as a sweep and `predict` answer: a plan surely fits
if its predicted peak lies below the limit by 2.33 standard deviations of the prediction, surely does not if it lies
above it by 1.645 (`harness.sweeps.forecast`); of the others only a launch tells.

Goals: tensors at most 3 %, worst 10 %; resident at most 10 %; said to fit wrongly at most 1 %, refused wrongly at most
5 %; step time at most 15 %, after ten trials at most 8 %, Kendall's tau at least 0.85.
"""

from __future__ import annotations

import atexit
import json
import math
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from harness.plan import Plan
    from harness.sweeps.experiment import Experiment

WORKLOADS = ("gpt-nano", "gpt:blocks=6,width=384,heads=6")
TENSORS = tuple(f"memory_{name}_bytes" for name in ("params", "grads", "optimizer", "buffers", "activations"))
HEADER = ("model", "plans", "predicted", "MAPE", "median", "P90", "worst", "Kendall tau")


def chosen(prepared: Experiment, count: int) -> list[Plan]:
    """Every showcase that can run, then random plans."""
    from harness.search.choosers import at_random

    space = next(iter(prepared.spaces().values()))
    found = {plan: None for plan in space.showcases() if space.why_not(plan) is None}
    choose = at_random(random.Random(0))
    while len(found) < count:
        plan = space.draw(choose)
        if space.why_not(plan) is None:
            found[plan] = None
    return list(found)[:count]


def launched(name: str, count: int) -> dict[str, Any]:
    """In a fresh process: the plans of one model with what was measured of them."""
    from harness.sweeps.runners import calibrated

    with common.runner(name, seconds=1.0) as (made, prepared):
        workload = next(iter(prepared.workloads.values()))
        facts = prepared.facts(workload)
        made.reference(prepared.reference_plan(workload), workload, prepared.facts(workload, 1), 4)
        calibration = calibrated(prepared, made).ranks
        rows = []
        for plan in chosen(prepared, count):
            row = made.run(plan, workload, facts).row
            if row["outcome"] == "ok" and row["memory_params_bytes"] is not None:
                wanted = ("step_time_s", "peak_memory_bytes", "flops_per_step", *TENSORS)
                rows.append({"plan": plan.to_json(), **{column: row[column] for column in wanted}})
            print(f"\r{name} {len(rows)} {row['outcome']:12}", end="", file=sys.stderr, flush=True)
    return {"calibration": calibration, "rows": rows}


def predicted(name: str, found: Mapping[str, Any]) -> list[dict[str, float]]:
    """Each row's measurements beside what the trace and the closed forms say."""
    from harness.plan import Plan
    from harness.predict import this_machine
    from harness.predict.memory import peak_memory
    from harness.predict.setup import Setup
    from harness.predict.shape import Shape
    from harness.predict.time import step_time
    from harness.predict.trace import worst_rank

    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    prepared = common.experiment(name, folder)
    workload = next(iter(prepared.workloads.values()))
    workload.prepare()
    facts = prepared.facts(workload)
    device = this_machine.measured(found["calibration"], 2, 1 << 34)
    shape = Shape.of_facts(facts.model, workload.seq_len)
    rows = []
    for row in found["rows"]:
        plan = Plan.from_json(row["plan"])
        setup = Setup.of_plan(plan, workload.global_batch_size)
        rows.append(
            {
                **row,
                "plan": plan,
                "tensors": float(sum(row[column] for column in TENSORS)),
                "traced": worst_rank(workload, plan, facts).peak_bytes,
                "closed_bytes": float(peak_memory(shape, setup, device).allocated),
                "closed_s": float(step_time(shape, setup, device).total),
            }
        )
        print(f"\rtraced {len(rows)}/{len(found['rows'])}      ", end="", file=sys.stderr, flush=True)
    return rows


def without(rows: Sequence[Mapping[str, Any]], at: int) -> list[Mapping[str, Any]]:
    """All rows but one."""
    return [row for number, row in enumerate(rows) if number != at]


def resident(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """(the kernel's peak of each row, predicted from the other rows, the deviation of its logarithm)."""
    from harness.search.residual import Corrected

    found, deviations = [], []
    for at, row in enumerate(rows):
        others = without(rows, at)
        known = [[other[column] for other in others] for column in ("plan", "traced", "peak_memory_bytes")]
        amounts, deviation = Corrected(*known).at([row["plan"]], [row["traced"]])
        found.append(float(amounts[0]))
        deviations.append(float(deviation[0]))
    return found, deviations


def corrected(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The step time of each row by the closed form, corrected by what the other rows were measured to be."""
    from harness.search.residual import Residual

    found = []
    for at, row in enumerate(rows):
        others = without(rows, at)
        errors = [math.log(other["step_time_s"] / other["closed_s"]) for other in others]
        mean, _ = Residual([other["plan"] for other in others], errors).at([row["plan"]])
        found.append(row["closed_s"] * math.exp(float(mean[0])))
    return found


def after(rows: Sequence[Mapping[str, Any]], count: int, draws: int = 10) -> tuple[list[float], list[float]]:
    """(predicted, measured) step times of all plans but `count` random ones that were launched before."""
    from harness.search.residual import Residual

    predictions, measurements = [], []
    for seed in range(draws):
        mixed = random.Random(seed).sample(list(rows), len(rows))
        known, rest = mixed[:count], mixed[count:]
        errors = [math.log(row["step_time_s"] / row["closed_s"]) for row in known]
        means, _ = Residual([row["plan"] for row in known], errors).at([row["plan"] for row in rest])
        predictions += [row["closed_s"] * math.exp(mean) for row, mean in zip(rest, means, strict=True)]
        measurements += [row["step_time_s"] for row in rest]
    return predictions, measurements


def line(model: str, what: str, found: Sequence[float], measured: Sequence[float]) -> list[str]:
    """One row of the table."""
    from scipy.stats import kendalltau

    errors = sorted(abs(a / b - 1) for a, b in zip(found, measured, strict=True))
    tau = kendalltau(found, measured).statistic
    numbers = (
        statistics.fmean(errors),
        statistics.median(errors),
        errors[math.ceil(0.9 * len(errors)) - 1],
        errors[-1],
    )
    return [model, str(len(found)), what, *(f"{number:.1%}" for number in numbers), f"{tau:.2f}"]


def fitting(rows: Sequence[Mapping[str, Any]], peaks: Sequence[float], deviations: Sequence[float]) -> list[str]:
    """Shares of wrong answers over limits at the deciles of the measured peaks, and of plans that get none."""
    from harness.sweeps.forecast import between, fits

    measured = [row["peak_memory_bytes"] for row in rows]
    answers: dict[bool | None, list[bool]] = {True: [], False: [], None: []}
    for limit in statistics.quantiles(measured, n=10):
        for peak, deviation, real in zip(peaks, deviations, measured, strict=True):
            answers[fits(between(peak, deviation), limit)].append(real <= limit)
    wrong = [f"{answers[said].count(not said) / max(1, len(answers[said])):.1%}" for said in (True, False)]
    total = sum(map(len, answers.values()))
    return [*wrong, *(f"{len(answers[said]) / total:.0%}" for said in (True, False, None))]


def main() -> None:
    """Launch, predict, print the tables."""
    given = common.arguments(__doc__, plans=60, launch="", keep="", workloads=" ".join(WORKLOADS))
    if given.launch:
        print(json.dumps(launched(given.launch, given.plans)))
        return
    lines, fits = [], []
    for number, name in enumerate(given.workloads.split()):
        kept = Path(f"{given.keep}-{number}.json") if given.keep else None
        if kept is not None and kept.exists():
            found = json.loads(kept.read_text())
        else:
            script = str(common.HERE / "predict_machine.py")
            found = common.measure([script, "--launch", name, "--plans", str(given.plans)])
            if kept is not None:
                kept.write_text(json.dumps(found))
        rows = predicted(name, found)
        tensors = [row["tensors"] for row in rows]
        peaks, deviations = resident(rows)
        times = [row["step_time_s"] for row in rows]
        lines += [
            line(name, "tensors by the trace", [row["traced"] for row in rows], tensors),
            line(name, "tensors by the closed form", [row["closed_bytes"] for row in rows], tensors),
            line(name, "resident peak, others", peaks, [row["peak_memory_bytes"] for row in rows]),
            line(name, "step time, closed form", [row["closed_s"] for row in rows], times),
            line(name, "step time, others", corrected(rows), times),
            line(name, "step time, after 10", *after(rows, 10)),
            line(name, "step time, constant MFU", [statistics.geometric_mean(times)] * len(times), times),
        ]
        fits.append([name, *fitting(rows, peaks, deviations)])
    print(file=sys.stderr)
    common.print_table(
        HEADER, lines, "The same work in every plan: a constant MFU predicts the mean step time for all."
    )
    answers = ("surely fit", "surely do not", "only a launch tells")
    common.print_table(("model", "said to fit that do not", "refused that would fit", *answers), fits)


if __name__ == "__main__":
    main()
