"""The least that training state can take."""

from __future__ import annotations

import pytest

import strategies
from harness.errors import InputError
from harness.sweeps.config import SweepConfig
from harness.sweeps.limits import check_memory_limit, smallest_state_bytes
from strategies.facts import Facts, ModelFacts

MILLION = ModelFacts(parameters=1_000_000, blocks=())


def facts(world_size: int) -> Facts:
    return Facts(
        device_type="cpu", world_size=world_size, global_batch_size=8, seq_len=128, workload="gpt-test", model=MILLION
    )


@pytest.mark.parametrize(
    ("names", "precisions", "world", "bytes_per_parameter"),
    [
        (["ddp"], ["fp32"], 2, 16),
        (["zero1"], ["fp32"], 2, 4 + 4 + 8 / 2),
        (["zero1", "zero2"], ["fp32"], 4, 4 + (4 + 8) / 4),
        (["zero3"], ["fp32"], 8, 16 / 8),
        (["ddp", "tensor_parallel"], ["fp32"], 2, 16 / 2),
        (["ddp"], ["bf16_params", "bf16"], 2, 8),
        (["ddp", "quantization"], ["fp32"], 2, 4 + 4 + 2),
    ],
)
def test_state_per_parameter_follows_the_zero_paper(
    names: list[str], precisions: list[str], world: int, bytes_per_parameter: float
) -> None:
    chosen = [strategies.registry()[name] for name in names]
    assert smallest_state_bytes(chosen, precisions, facts(world)) == bytes_per_parameter * 1_000_000


def test_a_limit_below_every_plan_is_refused_and_one_above_is_not() -> None:
    chosen = [strategies.registry()["ddp"]]
    with pytest.raises(InputError, match=r"15.3 MiB that parameters, gradients and optimizer state of gpt-test"):
        check_memory_limit(SweepConfig(memory_limit="15MiB"), chosen, facts(2))
    check_memory_limit(SweepConfig(memory_limit="16MiB"), chosen, facts(2))
