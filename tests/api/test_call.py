"""What `harness.sweep` takes and refuses: errors are exceptions, and nothing is started or written."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.api.options import Options, parsed
from harness.errors import InputError
from harness.sweeps.config import SweepConfig
from harness.workloads.passed import create
from tests.workloads import cells


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"model": cells.Net}, "a workload needs model, batch and loss, but batch and loss was not given"),
        ({"workload": "cnn", "model": cells.Net}, "give a workload, or model, batch and loss"),
        ({"workload": 3}, "workload must be a name, a file or a TorchWorkload, but got int"),
        ({"workload": cells.example(), "seq_len": 8}, "brings its own data and takes no seq_len"),
        ({"trials": "5"}, "trials must be int, but got '5'"),
        ({"time_budget": "5"}, "a duration is a positive number and s, m or h"),
        ({"triels": 5}, "unknown option of a sweep 'triels': did you mean 'trials'?"),
        ({"workload": "gtp-nano"}, "unknown workload 'gtp-nano': did you mean 'gpt-nano'?"),
    ],
)
def test_what_cannot_work_raises_one_sentence(
    arguments: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        harness.sweep(**arguments, progress=False)
    assert sentence in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_every_option_of_the_command_is_an_argument() -> None:
    named = {*inspect.signature(harness.sweep).parameters, *Options.__annotations__}
    assert set(SweepConfig.__dataclass_fields__) - named == set()


def test_options_may_be_written_as_on_the_command_line_or_as_values() -> None:
    assert parsed({"strategies": "ddp,zero2", "global_batch": "8,16", "results": "out", "set": ["tp=1"]}) == parsed(
        {"strategies": ["ddp", "zero2"], "global_batch": [8, 16], "results": Path("out"), "set": {"tp": 1}}
    )


def test_the_function_is_not_hidden_by_a_module() -> None:
    assert callable(harness.sweep)
    assert set(harness.__all__) <= set(dir(harness))


def test_a_closed_over_value_or_a_global_makes_another_workload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(scale: float) -> str:
        return create(cells.example(scale), cache=tmp_path, global_batch_size=None, seed=0).workload_id

    first = made(1.0)
    assert made(1.0) == first
    assert made(2.0) != first
    monkeypatch.setattr(cells, "WIDTH", 5)
    assert made(1.0) != first
