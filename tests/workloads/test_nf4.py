"""Matrices in 4 bits: what a round trip may cost, what a layer computes of them, and a model's loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harness.workloads import create, nf4
from harness.workloads.hf import Hf
from tests.families import written

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(64, 256), (101, 48), (7,), (3, 20000)])
def test_a_round_trip_is_off_by_half_the_widest_gap_and_the_error_of_a_scale(shape: tuple[int, ...]) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.02
    stored = nf4.quantised(value)
    assert stored.numel() == nf4.stored_bytes(value.numel())
    found = nf4.dequantised(stored, shape, torch.float32)
    flat = torch.nn.functional.pad(value.flatten(), (0, -value.numel() % nf4.BLOCK)).view(-1, nf4.BLOCK)
    off = torch.nn.functional.pad((found - value).flatten(), (0, -value.numel() % nf4.BLOCK)).view(-1, nf4.BLOCK)
    scale = flat.abs().amax(1)
    gap = max(high - low for low, high in zip(nf4.LEVELS, nf4.LEVELS[1:], strict=False)) / 2
    of_scale = (scale - scale.mean()).abs().max() / 254
    assert bool((off.abs().amax(1) <= gap * scale + of_scale + 1e-7).all())


def test_zero_stays_zero_and_a_matrix_takes_4_127_bits_a_value() -> None:
    value = torch.zeros(1024, 1024)
    value[:2] = 1.0
    found = nf4.dequantised(nf4.quantised(value), value.shape, torch.float32)
    assert torch.equal(found[2:], value[2:])
    assert nf4.stored_bytes(2**24) * 8 / 2**24 == pytest.approx(4.127, abs=1e-3)


def test_it_is_as_near_as_what_torchao_makes() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    value = torch.randn(256, 256, generator=torch.Generator().manual_seed(2)) * 0.02
    theirs = torchao.NF4Tensor.from_tensor(value, nf4.BLOCK, nf4.GROUP).get_original_weight()
    ours = nf4.dequantised(nf4.quantised(value), value.shape, torch.float32)
    assert float((ours - value).norm()) == pytest.approx(float((theirs - value).norm()), rel=0.01)


@pytest.mark.parametrize("turned", [False, True])
def test_a_layer_computes_what_the_dequantised_matrix_would(turned: bool) -> None:
    pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    layer = Conv1D(40, 24) if turned else nn.Linear(24, 40)
    layer.requires_grad_(False)
    value = layer.weight.detach().clone()
    kept = nf4.Quantised(layer)
    kept.weight.data = nf4.quantised(value)
    layer.weight.data = nf4.dequantised(kept.weight, tuple(value.shape), torch.float32)
    ours, theirs = (torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(3)).requires_grad_() for _ in "ab")
    torch.testing.assert_close(kept(ours), layer(theirs))
    kept(ours).square().sum().backward()
    layer(theirs).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    with pytest.raises(TypeError, match="has 4 bits here"):
        kept(ours.detach().to(torch.int8))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_first_loss_is_that_of_the_quantised_model_without_adapters(family: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    path = f"hf:{written(family, tmp_path)},blocks=2"
    base, trained = (create(f"{path}{more}", cache=tmp_path, seq_len=16) for more in ("", ",lora=4,load=4bit"))
    assert isinstance(trained, Hf)
    facts = trained.facts()
    layers = {name.removesuffix(".base_layer") for name in nf4_layers(trained)}
    assert (facts.quantized, base.facts().quantized) == (facts.parameters - trained_or_small(trained), 0)
    losses = []
    for workload in (base, trained):
        model = workload.build()
        for name, parameter in list(model.named_parameters()):
            value = workload.initial(name, tuple(parameter.shape), CPU)
            if workload is base and name.removesuffix(".weight") in layers and name.endswith(".weight"):
                value = nf4.dequantised(nf4.quantised(value), tuple(value.shape), torch.float32)
            assert value.dtype == parameter.dtype
            model.get_parameter(name).data = value
        batch = workload.samples(0, np.arange(2))
        losses.append(workload.loss(model(batch["input_ids"]), batch)[0].detach())
    torch.testing.assert_close(losses[0], losses[1])


def nf4_layers(workload: Hf) -> list[str]:
    return [name for name, module in workload.build().named_modules() if isinstance(module, nf4.Quantised)]


def trained_or_small(workload: Hf) -> int:
    """Parameters that are not in 4 bits."""
    return sum(p.numel() for p in workload.build().parameters() if p.dtype is not nf4.STORED)
