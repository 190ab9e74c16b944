from __future__ import annotations

from typing import Any

import pytest

from harness.trial.script_summary import alone


@pytest.mark.parametrize(
    ("found", "warned"),
    [
        ({"world_size": 2, "comm_bytes_per_step": 0}, True),
        ({"world_size": 2, "comm_bytes_per_step": 8}, False),
        ({"world_size": 2, "comm_bytes_per_step": None}, False),  # nobody looked
        ({"world_size": 2}, False),
        ({"world_size": 1, "comm_bytes_per_step": 0}, False),
        ({"world_size": None}, False),
    ],
)
def test_ranks_that_train_each_for_itself_are_told(found: dict[str, Any], warned: bool) -> None:
    said = alone(found)
    assert (said is not None and said.startswith("2 ranks were seen, and none sent anything")) == warned
