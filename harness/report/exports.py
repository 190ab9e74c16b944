"""The records of a sweep in the formats of other tools: CSV files, TensorBoard's event files."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InputError, StoreError, UnknownNameError
from harness.labels import settings
from harness.report.sweep_view import SweepView

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("tokens_per_s", "step_time_s", "peak_memory_bytes", "mfu", "loss_last", "numerics_max_rel_error")
"""Columns of a trial that TensorBoard's table of hyperparameters shows beside them."""
CURVES = ("loss", "grad_norm", "step_time_s", "memory_bytes", "accuracy")


def check(formats: Iterable[str]) -> None:
    """Refuse formats that cannot be written here.

    Raises:
        UnknownNameError: a format does not exist.
        InputError: its package is not installed.
    """
    for name in formats:
        if name not in FORMATS:
            raise UnknownNameError("format", name, FORMATS)
        if name == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
            raise InputError(
                "--also tensorboard needs a package: python -m pip install 'distributed-harness[tensorboard]'"
            )


def write(formats: Iterable[str], view: SweepView, folder: Path) -> list[Path]:
    """Write a sweep in other formats beside its page; what was there is replaced.

    Returns:
        What was written, one path for each format.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [FORMATS[name](view, folder) for name in formats]
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}") from error


def _csv(view: SweepView, folder: Path) -> Path:
    """NAME.trials.csv with every column of the trials, NAME.steps.csv with those of the steps."""
    path = folder / f"{view.sweep}.trials.csv"
    view.trials.to_csv(path, index=False)
    view.steps.to_csv(folder / f"{view.sweep}.steps.csv", index=False)
    return path


def _tensorboard(view: SweepView, folder: Path) -> Path:
    """NAME.tensorboard/ with a run for each launched trial: its curves by step, its settings and what they came to."""
    from tensorboard.plugins.hparams import summary_v2

    root = folder / f"{view.sweep}.tensorboard"
    shutil.rmtree(root, ignore_errors=True)
    by_trial = dict(tuple(view.steps.groupby("trial_id")))
    root.mkdir()
    for row in view.rows:
        steps = by_trial.get(row["trial_id"])
        if steps is None:
            continue
        with _Run(root / row["trial_id"], row["started_at"].timestamp()) as run:
            run.add(summary_v2.hparams_pb(_plain(settings(row)) | {"plan": view.label(row)}))
            for name in METRICS:
                if row[name] is not None:
                    run.scalar(name, row[name], 0)
            _curves(run, steps)
    return root


def _curves(run: _Run, steps: pd.DataFrame) -> None:
    """Losses as means over ranks, the rest as of the worst rank."""
    by_step = steps.groupby("step").agg({name: "mean" if name in ("loss", "accuracy") else "max" for name in CURVES})
    for name in CURVES:
        for step, value in by_step[name].dropna().items():
            run.scalar(f"steps/{name}", float(value), int(step))


def _plain(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, (bool, int, float)) else str(value) for name, value in plan.items()}


class _Run:
    """One event file."""

    def __init__(self, folder: Path, wall_time: float) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.wall_time = wall_time
        self.writer = EventFileWriter(str(folder))

    def add(self, summary: Any, step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.writer.add_event(Event(wall_time=self.wall_time, step=step, summary=summary))

    def scalar(self, name: str, value: float, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.add(Summary(value=[Summary.Value(tag=name, simple_value=value)]), step)

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.writer.close()


FORMATS: Mapping[str, Callable[[SweepView, Path], Path]] = {"csv": _csv, "tensorboard": _tensorboard}
"""Name -> writer; each returns what it wrote."""
