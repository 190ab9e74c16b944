"""`predict --fits`: the smallest number of each described device that trains a workload."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.labels import labels
from harness.predict import cluster_plans, devices
from harness.predict.cluster_plans import Question
from harness.predict.fits import MOST, Fit, fits
from harness.report import format as fmt

SOFTWARE = (
    "trainings in plain PyTorch, and Megatron-LM where the constants are an A100's; software with fused kernels of its "
    "own may be faster: no run of such was fitted"
)
"""What the constants of device descriptions stand for."""


def notes(question: Question) -> list[str]:
    """What a user must know beside the numbers."""
    model, found = question.model, []
    if question.shape.experts > 1:
        found.append(
            f"{question.shape.experts} experts, of which a token goes through {question.shape.active}: times assume "
            "that each gets equally many tokens, and no run of such a model was compared with its prediction"
        )
    if model.frozen:
        share = 1 - model.frozen / model.parameters
        found.append(f"{fmt.percent(share)} of the parameters are trained; the others have no gradient and no moments")
    return found


def answer(question: Question, options: Mapping[str, Any], as_json: bool) -> int:
    """Print which devices train what is asked about, and how many of each."""
    given = options.get("global_batch")
    found = fits(question, given, devices.names())
    found.sort(key=lambda fit: (fit.number is None, fit.number or 0, -(fit.best.tokens_per_s if fit.best else 0.0)))
    if as_json:
        rows = [_row(fit) for fit in found]
        about = {"workload": question.name, "seq_len": question.seq_len, "global_batch_size": given, "most": MOST}
        print(json.dumps({**about, "software": SOFTWARE, "notes": notes(question), "devices": rows}))
        return 0
    batch = f"global batch {given:,}" if given else "a global batch that grows with the devices"
    print(f"workload  {question.name}, {question.model.parameters:,} parameters, {question.seq_len:,} tokens, {batch}")
    print(f"software  {SOFTWARE}")
    for note in notes(question):
        print(f"note      {note}")
    print(f"{'device':<14} {'smallest':>8} {'nodes':>6} {'needs':>9} {'of':>9} {'tokens/s':>12}  plan")
    for fit in found:
        if fit.number is None or fit.best is None:
            print(f"{fit.device.name:<14} {fmt.MISSING:>8}  {fit.reason}")
            continue
        has, needs = fmt.size(fit.device.memory_bytes), fmt.size(fit.best.needed_bytes)
        rate = f"{fit.best.tokens_per_s:12,.0f}"
        print(f"{fit.device.name:<14} {fit.number:8,} {fit.nodes:6,} {needs:>9} {has:>9} {rate}  {_label(fit)}")
    if all(fit.number is None for fit in found):
        print(f"no described device trains it, not even {MOST:,} of them")
    return 0


def _row(fit: Fit) -> dict[str, Any]:
    row: dict[str, Any] = {
        "device": fit.device.name,
        "number": fit.number,
        "nodes": fit.nodes,
        "memory_bytes": fit.device.memory_bytes,
        "reason": fit.reason,
    }
    if fit.best is None:
        return row
    best = fit.best
    return {
        **row,
        "needed_bytes": best.needed_bytes,
        "needed_by_category": dict(best.memory),
        "tokens_per_s": best.tokens_per_s if best.fits else None,
        "mfu": best.mfu if best.fits else None,
        "set": cluster_plans.settings(best.plan),
    }


def _label(fit: Fit) -> str:
    assert fit.best is not None
    plan = fit.best.plan
    row = {"trial_id": "0", "plan_id": plan.plan_id, "workload_id": "", "global_batch_size": 0, "knobs": plan.to_json()}
    return labels([{**row, **plan}])["0"]
