"""What `predict` does: it answers in text, as JSON or as a page, and starts nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import strategies
from harness import workloads
from harness.cli import predict_fits
from harness.errors import InputError, UnknownNameError
from harness.labels import labels
from harness.plan import Plan, complete, parse_settings
from harness.predict import cluster_plans, devices, table
from harness.predict.cluster_plans import Question, Ranked
from harness.predict.devices import Cluster, Validated
from harness.report import format as fmt
from harness.search.spaces import Point
from harness.store.records import Outcome
from harness.store.store import Store
from harness.sweeps.forecast import Forecaster

CALIBRATE = "python -m harness doctor --calibrate"
DEFAULT = "gpt-124m"
"""What is asked about if nothing is."""


def predict(
    *,
    workload: str | None,
    cluster: str | None,
    table_file: Path | None,
    hardware: str | None,
    pairs: Sequence[str],
    options: Mapping[str, Any],
    top: int,
    fits: bool,
    trace: bool,
    page: bool,
    reports: Path,
    as_json: bool,
) -> int:
    """Rank plans of a cluster or of this machine, say what fits where, or predict the rows of a table."""
    if fits:
        beside = {
            "--cluster": cluster,
            "--table": table_file,
            "--hardware": hardware,
            "--world-size": options.get("world_size"),
            "--trace": trace,
            "--page": page,
        }
        if others := [name for name, value in beside.items() if value]:
            raise InputError(f"--fits looks at every described device by itself; leave {', '.join(others)} out")
        return predict_fits.answer(
            question_of(workload, Cluster(device=devices.device("H100"), nodes=1), pairs, options), options, as_json
        )
    if table_file is not None:
        return _table(table_file, hardware, as_json)
    if hardware is not None:
        raise InputError("--hardware names what a --table was measured on; a cluster is given as --cluster 8xH100")
    here = cluster is None
    answer = _here(workload, pairs, options, top) if here else _there(workload, str(cluster), pairs, options, top)
    if trace:
        answer["trace"] = _traced(workload, cluster, answer, options)
    if page:
        answer["page"] = str(_page(answer, reports))
    if as_json:
        print(json.dumps({name: value for name, value in answer.items() if not name.startswith("_")}))
    else:
        print("\n".join(_lines(answer)))
    return 0


# -- a table


def _table(path: Path, hardware: str | None, as_json: bool) -> int:
    if hardware is None:
        raise InputError(f"--table needs --hardware, one of {', '.join(devices.names())}, or a TOML file")
    found = table.predict_table(path, devices.device(hardware))
    if as_json:
        print(json.dumps(found))
        return 0
    print(f"{'row':>5} {'predicted s':>12} {'measured s':>12} {'error':>8}  memory")
    for row in found["rows"]:
        measured, error = row.get("measured_step_time_s"), row.get("error_step_time")
        cells = [
            fmt.MISSING if measured is None else f"{measured:.4g}",
            fmt.MISSING if error is None else f"{error:+.1%}",
        ]
        memory = fmt.size(row["peak_memory_bytes"])
        print(f"{row['row']:5} {row['step_time_s']:12.4g} {cells[0]:>12} {cells[1]:>8}  {memory}")
    for name in ("mape_step_time", "mape_constant_mfu", "mape_reserved", "kendall_tau", "top1_regret"):
        if found[name] is not None:
            print(f"{name:20} {found[name]:.4f}")
    return 0


# -- a cluster


def _there(
    workload: str | None, cluster: str, pairs: Sequence[str], options: Mapping[str, Any], top: int
) -> dict[str, Any]:
    question = question_of(workload, devices.parse_cluster(cluster), pairs, options)
    found = cluster_plans.ask(question, top)
    device = question.cluster.device
    return {
        "workload": question.name,
        "hardware": f"{question.cluster.nodes} x {device.devices_per_node} x {device.name}",
        "devices": question.cluster.devices,
        "global_batch_size": question.global_batch,
        "seq_len": question.seq_len,
        "memory_bytes": device.memory_bytes,
        "constants": " ".join(device.fitted.split()),
        "software": predict_fits.SOFTWARE,
        "notes": predict_fits.notes(question),
        "error_band": None if device.validated is None else asdict(device.validated),
        "plans": _plans(found, question, device.validated),
        "_question": question,
    }


def question_of(workload: str | None, cluster: Cluster, pairs: Sequence[str], options: Mapping[str, Any]) -> Question:
    """What is asked about a cluster.

    Raises:
        InputError: options that cannot be used.
    """
    made = _workload(workload or DEFAULT, options)
    fixed = parse_settings(pairs, strategies.knobs(strategies.registry().values()))
    model = made.facts()
    if options.get("vocab"):
        if model.counted is not None:
            raise InputError(f"--vocab is for models of this package; {made.name} has that of its config.json")
        model = replace(model, vocab_size=int(options["vocab"]))
    return Question(
        name=made.name,
        model=model,
        seq_len=made.seq_len,
        global_batch=options.get("global_batch")
        or cluster_plans.default_batch(made.global_batch_size, cluster.devices),
        cluster=cluster,
        fixed=fixed,
        sequences=made.tokens_per_step // (made.global_batch_size * made.seq_len),
    )


def _workload(name: str, options: Mapping[str, Any]) -> Any:
    known = {"gpt", "hf", *workloads.names()}
    own = name.partition(":")[0].endswith(".py")
    written = name if own or name.partition(":")[0] in known else f"gpt-{name}"
    if not own and written.partition(":")[0] not in known:
        raise UnknownNameError("workload", name, workloads.names())
    return workloads.create(
        written,
        cache=Path(options["results"]) / "cache",
        seq_len=options.get("seq_len"),
        global_batch_size=options.get("global_batch"),
    )


def _traced(
    workload: str | None, cluster: str | None, answer: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The worst rank of the first plan, run with tensors that have no content."""
    if cluster is None:
        raise InputError("--trace shows a rank of a described cluster; give one: --cluster 8x8xH100")
    from harness.predict.trace import worst_rank

    if options.get("vocab"):
        raise InputError("--trace runs the workload's own model; leave --vocab out")
    question: Question = answer["_question"]
    made = _workload(workload or DEFAULT, {**options, "global_batch": question.global_batch})
    made.prepare()
    plan = complete(answer["plans"][0]["plan"], strategies.knobs(strategies.registry().values()))
    found = worst_rank(made, plan, question.facts)
    return {
        "rank": found.rank,
        "tensor_bytes": {name: round(size) for name, size in found.memory.items()},
        "peak_tensor_bytes": round(found.peak_bytes),
        "operators": round(sum(found.operators.values())),
        "collectives": {
            name: {"bytes": round(sent), "calls": round(calls)} for name, (sent, calls) in found.collectives.items()
        },
    }


def _plans(found: Sequence[Ranked], question: Question, validated: Validated | None) -> list[dict[str, Any]]:
    names = _names([one.plan for one in found], question.global_batch)
    return [
        {
            "label": name,
            "plan": dict(one.plan),
            "set": cluster_plans.settings(one.plan),
            "step_time_s": one.step_time_s,
            "tokens_per_s": one.tokens_per_s,
            "tokens_per_s_low": None if validated is None else one.tokens_per_s / (1 + validated.p95),
            "tokens_per_s_high": None if validated is None else one.tokens_per_s * (1 + validated.p95),
            "mfu": one.mfu,
            "shares": dict(one.shares),
            "memory_bytes": dict(one.memory),
            "needed_bytes": one.needed_bytes,
            "fits": one.fits,
        }
        for name, one in zip(names, found, strict=True)
    ]


# -- this machine


def _here(workload: str | None, pairs: Sequence[str], options: Mapping[str, Any], top: int) -> dict[str, Any]:
    from harness.sweeps.config import load_config
    from harness.sweeps.experiment import prepare
    from harness.sweeps.runners import make_forecaster

    if options.get("vocab"):
        raise InputError("--vocab is for a described cluster; here the vocabulary is that of the workload's data")
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("global_batch"):
        given["global_batch"] = (given["global_batch"],)
    experiment = prepare(load_config(None, {**given, "workload": workload, "set": tuple(pairs)}))
    store, world = Store(Path(options["results"])), experiment.world_size
    calibration = _calibration(store, experiment.hardware.hardware_id, world)
    forecaster = make_forecaster(experiment, calibration, compared=True)
    held = forecaster.limit_bytes or experiment.hardware.memory_bytes
    rows = _taught(forecaster, store, experiment.hardware.hardware_id)
    points = [Point(size, plan) for size, space in experiment.spaces().items() for plan in space.grid()]
    forecaster.prepare(points)
    found = [(point, forecast) for point in points if (forecast := forecaster.forecast(point)) is not None]
    size, made = next(iter(experiment.workloads.items()))
    if not found:
        raise InputError(f"closed forms say nothing about {made.name}: nothing can be predicted")
    found.sort(key=lambda pair: (pair[1].fits(held) is False, pair[1].step_time_s))
    names = _names([point.plan for point, _ in found[:top]], size)
    return {
        "workload": made.name,
        "hardware": experiment.hardware.hardware_id,
        "devices": world,
        "global_batch_size": size,
        "seq_len": made.seq_len,
        "memory_bytes": held,
        "constants": f"measured on this machine, corrected by {fmt.count(len(rows), 'recorded trial')}",
        "error_band": _band(rows),
        "plans": [
            {
                "label": name,
                "plan": dict(point.plan),
                "set": cluster_plans.settings(point.plan),
                "step_time_s": forecast.step_time_s,
                "tokens_per_s": made.tokens_per_step / forecast.step_time_s,
                "needed_bytes": forecast.peak_memory_bytes,
                "fits": forecast.fits(held),
            }
            for name, (point, forecast) in zip(names, found, strict=False)
        ],
    }


def _band(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How far the predictions that were recorded before launches have been off; None if there are fewer than ten."""
    pairs = [(row["predicted_step_time_s"], row["step_time_s"]) for row in rows]
    errors = [abs(float(p) / float(m) - 1) for p, m in pairs if p and m]
    if len(errors) < 10:
        return None
    median, p95 = (float(value) for value in np.quantile(errors, (0.5, 0.95)))
    return {"median": median, "p95": p95, "runs": len(errors), "what": "trials of this workload on this machine"}


def _calibration(store: Store, hardware_id: str, world: int) -> Mapping[str, Any]:
    known = (store.peaks(hardware_id) or {}).get("interconnect", {}).get(str(world))
    if known is not None and "matmul" in known:
        return dict(known)
    others = sorted(path.stem for path in (store.root / "hardware").glob("*.json") if path.stem != hardware_id)
    of = f"only of {', '.join(others)}, " if others else ""
    raise InputError(
        f"{store.root} has no calibration of {hardware_id} with {world} ranks, {of}so nothing can be predicted here; "
        f"run: {CALIBRATE}"
    )


def _taught(forecaster: Forecaster, store: Store, hardware_id: str) -> list[dict[str, Any]]:
    """The recorded trials that a forecaster has learnt from."""
    known = {w.workload_id: (size, facts.world_size) for size, (w, facts) in forecaster.workloads.items()}
    rows = [
        row
        for row in store.rows(hardware_id=hardware_id)
        if row["outcome"] == Outcome.OK and known.get(row["workload_id"], (0, 0))[1] == row["world_size"]
    ]
    for row in rows:
        forecaster.learn(Point(known[row["workload_id"]][0], Plan.from_json(row["knobs"])), row)
    return rows


def _names(plans: Sequence[Plan], global_batch: int) -> list[str]:
    """Short names that tell plans apart, as pages name trials."""
    rows = [
        {
            "trial_id": str(number),
            "plan_id": plan.plan_id,
            "workload_id": "",
            "global_batch_size": global_batch,
            "knobs": plan.to_json(),
            **plan,
        }
        for number, plan in enumerate(plans)
    ]
    named = labels(rows)
    return [named[str(number)] for number in range(len(plans))]


# -- as text and as a page


def error_band(found: Mapping[str, Any] | None) -> str:
    """How far predictions can be believed, in one sentence."""
    if found is None:
        return "not known: no run was compared with its prediction here"
    return (
        f"step times were off by {fmt.percent(found['median'])} in the median, by {fmt.percent(found['p95'])} or "
        f"less in 95 % of {found['runs']} runs ({found['what']})"
    )


def _lines(answer: Mapping[str, Any]) -> list[str]:
    lines = [
        f"workload  {answer['workload']}, global batch {answer['global_batch_size']:,} x {answer['seq_len']:,} tokens",
        f"hardware  {answer['hardware']}, {fmt.size(answer['memory_bytes'])} a device",
        f"constants {answer['constants']}",
        *(f"software  {answer[name]}" for name in ("software",) if name in answer),
        *(f"note      {note}" for note in answer.get("notes", ())),
        f"error     {error_band(answer['error_band'])}",
        f"{'#':>3} {'tokens/s':>12} {'MFU':>6} {'memory':>9} {'comm.':>6} {'bubble':>6}  plan",
    ]
    for number, plan in enumerate(answer["plans"], 1):
        shares = plan.get("shares", {})
        cells = (
            f"{fmt.percent(plan['mfu'])}" if "mfu" in plan else fmt.MISSING,
            fmt.size(plan["needed_bytes"]),
            fmt.percent(shares.get("communication")),
            fmt.percent(shares.get("bubble")),
        )
        does = {True: "", None: " (may not fit)", False: " (does not fit)"}[plan["fits"]]
        lines.append(
            f"{number:3} {plan['tokens_per_s']:12,.0f} {cells[0]:>6} {cells[1]:>9} {cells[2]:>6} {cells[3]:>6}  "
            f"{plan['label']}{does}"
        )
    if "trace" in answer:
        found = answer["trace"]
        held = ", ".join(f"{name} {fmt.size(size)}" for name, size in found["tensor_bytes"].items())
        sent = ", ".join(f"{c['calls']} {name} of {fmt.size(c['bytes'])}" for name, c in found["collectives"].items())
        lines.append(f"traced    rank {found['rank']} of plan 1 holds {fmt.size(found['peak_tensor_bytes'])}: {held}")
        lines.append(f"          it runs {found['operators']:,} operators and sends {sent or 'nothing'}")
    if "page" in answer:
        lines.append(f"page      {answer['page']}")
    return lines


def _page(answer: Mapping[str, Any], reports: Path) -> Path:
    if "_question" not in answer:
        raise InputError("--page shows a described cluster; give one: --cluster 8x8xH100")
    from harness.predict.whatif import what_if
    from harness.report.document import write
    from harness.report.prediction import render

    question = answer["_question"]
    name = "".join(c if c.isalnum() or c in "-." else "-" for c in f"predict-{answer['workload']}-{answer['hardware']}")
    said = {**answer, "said": error_band(answer["error_band"])}
    return write(render(said, what_if(question)), reports / f"{name.replace(' ', '')}.html")
