"""What strategies offer and refuse on devices, by what these can do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import strategies
from harness.trial.peaks import published
from strategies import Facts, Setting
from strategies.activation_checkpoint import _policy
from strategies.precision import multiply_in
from tests.tiny import facts, gpt, plan

HERE = replace(facts(gpt(), 1), extras=frozenset({"torchao"}), compiler=True)


def device(capability: tuple[int, int] | None = (9, 0), **changes: Any) -> Facts:
    return replace(HERE, device_type="cuda", capability=capability, **changes)


def refused(settings: dict[str, Setting], on: Facts) -> str | None:
    wanted = plan({"micro_batch_size": 8, **settings})
    reasons = [s.check(wanted, on) for s in strategies.registry().values() if s.active(wanted)]
    return next((reason for reason in reasons if reason), None)


@pytest.mark.parametrize(
    ("on", "shown"),
    [
        (HERE, ["bf16_autocast", "bf16_params", "bf16"]),
        (device((8, 0)), ["tf32", "bf16_autocast", "bf16_params", "bf16"]),
        (device((7, 5)), ["fp16"]),
        (device((7, 0)), ["fp16"]),
        (device(None, architecture="gfx942"), ["bf16_autocast", "bf16_params", "bf16"]),
    ],
)
def test_precisions_are_searched_where_the_device_has_them(on: Facts, shown: list[str]) -> None:
    precision = strategies.registry()["precision"]
    assert [way["precision"] for way in precision.showcases(on)] == shown
    assert all(refused({"precision": kind}, on) is None for kind in shown)


def test_precisions_that_a_device_only_emulates_are_refused() -> None:
    assert "8.0" in str(refused({"precision": "tf32"}, HERE))
    assert "8.0" in str(refused({"precision": "tf32"}, device((7, 5))))
    assert "emulated" in str(refused({"precision": "bf16_params"}, device((7, 5))))


@pytest.mark.parametrize(
    ("kind", "on", "runs"),
    [
        ("float8", device((8, 9)), True),
        ("float8", device((8, 0)), False),
        ("adamwfp8", device((8, 0)), False),
        ("adamw8bit", device((8, 0)), True),
        ("int8", device((7, 5)), True),
        ("int8", device((7, 0)), False),
        ("float8", device(None, architecture="gfx942"), True),
        ("float8", device(None, architecture="gfx90a"), False),
        ("float8", HERE, True),
        ("int8", replace(device(None), device_type="xpu"), False),
        ("int8", device(compiler=False), False),
        ("adamw8bit", device(compiler=False), False),
    ],
)
def test_quantised_plans_run_where_the_device_has_what_they_need(kind: str, on: Facts, runs: bool) -> None:
    assert (refused({"quantization": kind}, on) is None) is runs
    if not runs and on.compiler:
        shown = [way["quantization"] for way in strategies.registry()["quantization"].showcases(on)]
        assert kind not in shown


def test_compiling_needs_a_compiler_on_devices_too() -> None:
    assert refused({"compile": True}, device(compiler=False)) is not None
    assert refused({"compile": True}, device()) is None


def test_selective_checkpointing_keeps_products_of_every_kind() -> None:
    kept = [torch.ops.aten.mm.default, torch.ops.aten._scaled_mm.default, torch.ops.aten._int_mm.default]
    assert {_policy(None, operator).name for operator in kept} == {"MUST_SAVE"}
    assert _policy(None, torch.ops.aten.gelu.default).name == "PREFER_RECOMPUTE"


def test_fp32_is_fp32_whatever_the_environment_turned_on() -> None:
    kept = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high")  # as some container images do
        torch.backends.cudnn.allow_tf32 = True
        multiply_in("fp32")
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
        multiply_in("tf32")
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    finally:
        torch.set_float32_matmul_precision(kept[0])
        torch.backends.cudnn.allow_tf32 = kept[1]


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA RTX A4000",
        "NVIDIA RTX A1000 Laptop GPU",
        "NVIDIA RTX A400",
        "NVIDIA T400 4GB",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA A10-24Q",
        "NVIDIA H20",
    ],
)
def test_a_device_is_not_taken_for_another_one(name: str) -> None:
    assert published(name) is None


def test_float8_is_offered_compiled_too_where_it_is_for_speed() -> None:
    quantised = strategies.registry()["quantization"]
    compiled = {"quantization": "float8", "compile": True}
    assert compiled in quantised.showcases(device((8, 9)))
    assert compiled not in quantised.showcases(device((8, 0)))
    assert compiled not in quantised.showcases(device((9, 0), compiler=False))
    assert compiled not in quantised.showcases(HERE)
