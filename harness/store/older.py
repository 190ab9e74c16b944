"""Rows of earlier versions of the schema, in the words of this one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.plan import ONE_UNIT, Plan

if TYPE_CHECKING:
    import pandas as pd

READ = ("plan_id", "knobs", "bucket_mb")
"""Columns whose words have changed."""
NEEDED = ("knobs", "schema_version")
"""Columns that tell how."""


def upgrade(frame: pd.DataFrame) -> pd.DataFrame:
    """Trials as this version would have recorded them: their plans mean what they meant when they ran.

    Args:
        frame: with the columns `NEEDED`, and any of `READ`.
    """
    old = frame["schema_version"].lt(ONE_UNIT) & frame["knobs"].str.contains('"bucket_mb"', regex=False)
    for knobs, rows in frame[old].groupby("knobs"):
        plan = Plan.from_json(str(knobs), int(rows["schema_version"].iloc[0]))
        words = {"plan_id": plan.plan_id, "knobs": plan.to_json(), "bucket_mb": plan.get("bucket_mb")}
        for name in READ:
            if name in frame:
                frame.loc[rows.index, name] = words[name]
    return frame


def command(text: str, row: Mapping[str, Any]) -> str:
    """A recorded command that runs a plan, so that it still runs the same one.

    Args:
        text: as it was recorded with the row.
        row: after `upgrade`.
    """
    if row["schema_version"] >= ONE_UNIT or not text:
        return text
    plain = re.sub(r" --set bucket_mb=\S+", "", text)
    return plain if row.get("bucket_mb") is None else f"{plain} --set bucket_mb={row['bucket_mb']}"
