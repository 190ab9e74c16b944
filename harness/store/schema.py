"""The schema page of the results folder: `python -m harness.store.schema > results/README.md`."""

from __future__ import annotations

from collections.abc import Sequence

from harness.store.records import PARTITIONS, REFERENCES, SCHEMA_VERSION, STEPS, TRIALS, Column

_HEAD = f"""# results

Everything a sweep records, as parquet. This page is made from `harness/store/records.py` by
`python -m harness.store.schema`; schema version {SCHEMA_VERSION}. Column names carry base units.

| folder | what |
|---|---|
| `trials/hardware_id=.../sweep=.../` | one row a trial, whatever its outcome |
| `steps/hardware_id=.../sweep=.../` | one row a step and rank |
| `references/` | the single-process fp32 curve of each workload; `.agreed`: of a plan that others agree with |
| `sweeps/` | how each sweep was called, its environment, the command that repeats each trial (JSON) |
| `hardware/` | the measured peak of each machine: matrix products by number format, copying (JSON) |
| `studies/` | the Optuna journal of each sweep |
| `cache/` | tokens of text that was trained on; may be deleted |
| `reference/` | a small sweep recorded on a CPU, in the same layout |

`trials` and `steps` each read as one table, with the partitions as columns:

```python
import pandas as pd

trials = pd.read_parquet("results/trials")
steps = pd.read_parquet("results/steps")
```

```sql
select data_parallel, max(tokens_per_s) from read_parquet('results/trials/**/*.parquet', hive_partitioning = true)
where outcome = 'ok' group by all;
```

A file appears whole or not at all. A trial's steps are written before its row. A value that was not measured, or has
no meaning for the plan, is null.
"""


def page() -> str:
    """The whole page as Markdown."""
    tables = (("trials", (*PARTITIONS, *TRIALS)), ("steps", (*PARTITIONS, *STEPS)), ("references", REFERENCES))
    return _HEAD + "".join(f"\n## {name}\n\n{_table(columns)}" for name, columns in tables)


def _table(columns: Sequence[Column]) -> str:
    rows = [f"| `{c.name}` | {c.type} | {c.unit} | {c.meaning} |" for c in columns]
    return "\n".join(["| column | type | unit | meaning |", "|---|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    print(page(), end="")
