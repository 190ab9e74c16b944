from __future__ import annotations

import numpy as np
import pytest

from harness.predict import this_machine
from harness.predict.overtakings import overtakings
from tests.predict.test_this_machine import SHAPE, calibration
from tests.sweeps.test_forecast import PLANS, forecaster, point
from tests.tiny import plan

DEVICE = this_machine.measured(calibration(), 2, 1 << 30)
PAIR = [
    plan({"dp": 2, "data_parallel": "ddp", "micro_batch_size": 4}),
    plan({"pp": 2, "pp_schedule": "gpipe", "micro_batch_size": 4}),
]


def test_what_sends_more_overtakes_as_bandwidth_grows() -> None:
    (found,) = overtakings(SHAPE, PAIR, 8, DEVICE, np.ones(2))
    assert (found.below, found.above) == ("pipeline_parallel", "ddp")
    assert 1 / 32 < found.factor < 32


def test_a_correction_moves_the_crossing() -> None:
    (plain,) = overtakings(SHAPE, PAIR, 8, DEVICE, np.ones(2))
    (slower,) = overtakings(SHAPE, PAIR, 8, DEVICE, np.array([1.1, 1.0]))
    assert slower.factor > plain.factor


def test_one_kind_is_overtaken_by_nobody() -> None:
    assert overtakings(SHAPE, PAIR[:1], 8, DEVICE, np.ones(1)) == []
    assert overtakings(SHAPE, [], 8, DEVICE, np.ones(0)) == []


@pytest.mark.parametrize("seen", [0, 3])
def test_a_forecaster_looks_at_the_plans_it_was_asked_about(seen: int) -> None:
    made = forecaster()
    assert made.overtakings(8) == []
    for of in PLANS[:seen]:
        made.values(point(of))
    assert isinstance(made.overtakings(8), list)
