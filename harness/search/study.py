"""The Optuna study of a sweep, in a journal file that optuna-dashboard can open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from harness.errors import InputError, StoreError

Direction = Literal["minimize", "maximize"]

_LOCK_GRACE_S = 5
"""A lock this old belongs to a killed process: a living one holds it for one write."""


def open_study(path: Path, name: str, directions: Sequence[Direction]) -> optuna.Study:
    """The study of this name in the journal at `path`; both are made if they do not exist.

    The caller sees to it that no other process writes to it. So what a kill left is put right: an unfinished last line
    is dropped, and a lock is removed at once instead of being waited for.

    Args:
        path: the journal, `results/studies/NAME.log`.
        name: the sweep.
        directions: one for each value of a trial.

    Raises:
        StoreError: the journal is corrupt or cannot be written.
        InputError: the study has other directions.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Absolute, so that it stays where it is if the working directory changes.
    path = path.absolute()
    lock = JournalFileOpenLock(str(path), grace_period=_LOCK_GRACE_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
        _check_journal(path, lock)
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        study = optuna.create_study(storage=storage, study_name=name, directions=list(directions), load_if_exists=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be read and written: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise _corrupt(path, f"Optuna cannot replay it: {type(error).__name__} {error}") from error
    _check_directions(study, directions)
    return study


def _check_journal(path: Path, lock: JournalFileOpenLock) -> None:
    """Drop an unfinished last line, and refuse a journal with any other line that is no record.

    Optuna ignores a broken last line, but then appends to it and cannot read on.
    """
    if not path.exists():
        return
    lock.acquire()
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(sum(map(len, lines[:-1])))
            lines.pop()
    finally:
        lock.release()
    for number, line in enumerate(lines, start=1):
        if not _is_record(line):
            raise _corrupt(path, f"line {number} is not a record of Optuna's")


def _is_record(line: bytes) -> bool:
    try:
        return "op_code" in json.loads(line)
    except (ValueError, TypeError):
        return False


def _corrupt(path: Path, what: str) -> StoreError:
    return StoreError(
        f"{path} is corrupt: {what}; move it away and give the command again, "
        "the recorded trials are in the results folder and start the new journal"
    )


def _check_directions(study: optuna.Study, directions: Sequence[Direction]) -> None:
    has = [direction.name.lower() for direction in study.directions]
    if has != list(directions):
        raise InputError(
            f"sweep {study.study_name!r} was begun to {' and '.join(has)}, but now to {' and '.join(directions)}; "
            "resume it with the same objective, or give this sweep another --name"
        )
