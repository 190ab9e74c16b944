"""Options and TOML fields are one thing."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli.app import sweep as sweep_command
from harness.errors import InputError
from harness.sweeps.command_lines import resume_command
from harness.sweeps.config import SweepConfig, load_config, parse_duration, parse_size


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("5m", 300.0), ("2h", 7200.0), ("2.5s", 2.5)])
def test_durations_are_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "-1s", "0s", "5 m 3s", "1d", "nan s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="a duration is a positive number"):
        parse_duration(text)


@given(st.integers(1, 2**20), st.sampled_from([("KiB", 2**10), ("GiB", 2**30), ("MB", 10**6), ("GB", 10**9)]))
def test_sizes_are_read_in_bytes(number: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{number}{unit[0]}") == number * unit[1]


def test_an_option_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('trials = 30\nworld-size = 4\nstrategies = ["ddp", "zero1"]\nresults = "there"\n')
    config = load_config(file, {"trials": 7, "seed": None})
    assert (config.trials, config.world_size, config.strategies) == (7, 4, ("ddp", "zero1"))
    assert config.results == Path("there")
    assert config.seed == 0


def test_every_field_is_an_option_of_the_command() -> None:
    options = set(sweep_command.__annotations__)
    assert {field.name for field in fields(SweepConfig)} <= options


def test_the_resume_command_is_read_back_as_the_same_configuration() -> None:
    config = SweepConfig(
        workload="gpt:blocks=2", strategies=("ddp", "zero2"), set=("bucket_mb=8.0",), world_size=2, time_budget="9m"
    )
    words = shlex.split(resume_command(config, "night"))
    assert words[:4] == ["python", "-m", "harness", "sweep"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert options == {
        "--name": "night",
        "--workload": "gpt:blocks=2",
        "--strategies": "ddp,zero2",
        "--set": "bucket_mb=8.0",
        "--world-size": "2",
        "--time-budget": "9m",
    }


def test_without_a_budget_a_sweep_takes_three_minutes() -> None:
    assert SweepConfig().seconds == 180.0
    assert SweepConfig(trials=5).seconds is None
