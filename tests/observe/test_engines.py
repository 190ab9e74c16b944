"""Training loops of other packages: each is watched as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.store.records import Outcome
from tests.observe.test_watch import TWO, seen, told, watch

SCRIPT = str(Path(__file__).with_name("engine_scripts.py"))

pytestmark = [pytest.mark.launching, pytest.mark.slow]


def test_accelerate_accumulates_and_divides_by_itself(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    found, trace = watch(tmp_path, *TWO, SCRIPT, str(tmp_path), "accelerate")
    assert (found["outcome"], found["world_size"], found["engines"]) == (Outcome.OK, 2, ["accelerate"])
    assert (found["backwards_per_step"], found["samples_per_step"]) == (2, 16)
    for rank in range(2):
        made = told(tmp_path, rank)
        assert seen(trace, rank)[: len(made)] == pytest.approx(made, rel=1e-6)
        assert len(made) in (11, 12)  # it may have been stopped before it could write the last one


@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_deepspeed_divides_losses_after_the_backward(tmp_path: Path, stage: str) -> None:
    pytest.importorskip("deepspeed")
    found, trace = watch(tmp_path, *TWO, SCRIPT, str(tmp_path), "deepspeed", stage)
    assert (found["outcome"], found["steps_by_rank"], found["engines"]) == (Outcome.OK, [12, 12], ["deepspeed"])
    assert (found["backwards_per_step"], found["samples_per_step"]) == (2, 16)
    for rank in range(2):
        made = told(tmp_path, rank)
        assert seen(trace, rank)[: len(made)] == pytest.approx(made, rel=1e-6)
        assert len(made) >= 11


def test_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    found, trace = watch(tmp_path, *TWO, SCRIPT, str(tmp_path), "lightning")
    assert (found["outcome"], found["steps_by_rank"], found["engines"]) == (Outcome.OK, [12, 12], ["lightning"])
    assert (found["backwards_per_step"], found["samples_per_step"]) == (2, 16)
    for rank in range(2):
        assert seen(trace, rank)[:11] == pytest.approx(told(tmp_path, rank)[:11], rel=1e-6)


def test_the_trainer_of_transformers_with_padded_rows(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    found, trace = watch(tmp_path, *TWO, SCRIPT, str(tmp_path), "trainer")
    assert (found["outcome"], found["world_size"]) == (Outcome.OK, 2)
    assert found["engines"] == ["accelerate", "transformers"]
    assert (found["backwards_per_step"], found["samples_per_step"], found["tokens_per_step"]) == (2, 8, 8 * 9)
    made = told(tmp_path, 0)
    means = [sum(both) / 2 for both in zip(seen(trace, 0), seen(trace, 1), strict=True)]
    assert means[: len(made)] == pytest.approx(made, rel=1e-4)  # the Trainer rounds what it logs
    assert len(made) >= 11


@pytest.mark.parametrize(("case", "losses"), [("compiled", 1), ("gan", 2)])
def test_optimizers_that_are_compiled_or_several(tmp_path: Path, case: str, losses: int) -> None:
    import sys

    found, trace = watch(tmp_path, sys.executable, SCRIPT, str(tmp_path), case)
    assert (found["outcome"], found["steps_by_rank"]) == (Outcome.OK, [12])
    assert found["backwards_per_step"] == losses
    made = told(tmp_path, 0)
    if case == "compiled":
        assert seen(trace, 0) == made[:12]
    else:  # a step begins with the other optimizer, where it is the first one's that ends it
        assert len(made) in range(22, 27)


def test_ranks_that_multiprocessing_spawns(tmp_path: Path) -> None:
    import sys

    found, trace = watch(tmp_path, sys.executable, SCRIPT, str(tmp_path), "spawn")
    assert (found["outcome"], found["world_size"], found["steps_by_rank"]) == (Outcome.OK, 2, [12, 12])
    for rank in range(2):
        assert seen(trace, rank)[:11] == told(tmp_path, rank)[:11]
