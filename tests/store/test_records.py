from __future__ import annotations

import re

import pytest

from harness.store import records
from harness.store.records import PARTITIONS, REFERENCES, STEPS, TRIALS, Column, Outcome, row

REQUIRED = {"step": 0, "loss": 1.5, "step_time_s": 0.1, "workload_id": "w"}

SUFFIXES = {"s": "_s", "B": "_bytes", "MB": "_mb", "J": "_j", "1/s": "_per_s"}


def test_a_row_has_every_column_in_the_order_of_the_table() -> None:
    step = row(STEPS, {"trial_id": "t", "rank": 0, "step": 0, "phase": "warmup", "step_time_s": 0.1, "tokens": 8})
    assert list(step) == [column.name for column in STEPS]
    assert step["loss"] is None


def test_a_row_of_an_unknown_column_is_refused() -> None:
    with pytest.raises(KeyError, match="los"):
        row(REFERENCES, {**REQUIRED, "los": 1.0})


@pytest.mark.parametrize("name", REQUIRED)
def test_a_row_without_a_required_value_is_refused(name: str) -> None:
    without = {key: value for key, value in REQUIRED.items() if key != name}
    for values in (without, {**without, name: None}):
        with pytest.raises(ValueError, match=name):
            row(REFERENCES, values)


@pytest.mark.parametrize("table", [(*PARTITIONS, *TRIALS), (*PARTITIONS, *STEPS), REFERENCES])
def test_a_table_has_each_column_once_with_its_meaning(table: tuple[Column, ...]) -> None:
    assert len({column.name for column in table}) == len(table)
    assert all(re.fullmatch("[a-z][a-z0-9_]*", column.name) and column.meaning for column in table)


@pytest.mark.parametrize("table", [TRIALS, STEPS, REFERENCES])
def test_names_carry_base_units(table: tuple[Column, ...]) -> None:
    wrong = [c.name for c in table if (suffix := SUFFIXES.get(c.unit)) and suffix not in c.name]
    assert wrong == []


def test_the_meaning_of_outcome_lists_every_outcome() -> None:
    meaning = next(column.meaning for column in TRIALS if column.name == "outcome")
    assert all(outcome in meaning for outcome in Outcome)


def test_the_schema_is_versioned() -> None:
    assert f"{records.SCHEMA_VERSION}  " in str(records.__doc__)
