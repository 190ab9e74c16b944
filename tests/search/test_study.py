from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileOpenLock

from harness.errors import InputError, StoreError
from harness.search.evaluation import Budget
from harness.search.loop import run
from harness.search.study import open_study
from harness.store.records import SCHEMA_VERSION
from tests.search.fake_machine import Machine, small, space


def swept(path: Path, trials: int = 4) -> Machine:
    machine = Machine()
    run(open_study(path, "s", ["maximize"]), space(), machine.evaluate, machine.refuse, Budget(trials=trials))
    return machine


def test_a_study_is_made_with_its_folders_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "studies" / "s.log"
    machine = swept(path, trials=9)
    told = {trial.user_attrs["trial_id"] for trial in open_study(path, "s", ["maximize"]).trials}
    assert told == {record.evaluation.trial_id for record in machine.store}
    assert [p.name for p in path.parent.iterdir()] == ["s.log"]


def test_a_relative_path_stays_where_it_was_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = open_study(Path("studies/s.log"), "s", ["maximize"])
    monkeypatch.chdir("/")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    assert len(open_study(tmp_path / "studies" / "s.log", "s", ["maximize"]).trials) == 1


def test_optuna_alone_reads_plans_values_and_reasons_from_the_journal(tmp_path: Path) -> None:
    machine = swept(tmp_path / "s.log")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "s.log")))
    trial = optuna.load_study(study_name="s", storage=storage).trials[0]
    record = machine.store[0]
    assert trial.values == list(record.evaluation.values)
    assert trial.user_attrs == {
        "plan": record.plan.to_json(),
        "schema_version": SCHEMA_VERSION,
        "plan_id": record.plan.plan_id,
        "global_batch_size": 16,
        "trial_id": record.evaluation.trial_id,
        "outcome": "ok",
        "reason": None,
    }


def test_other_directions_are_refused(tmp_path: Path) -> None:
    open_study(tmp_path / "s.log", "s", ["maximize"])
    with pytest.raises(InputError, match=r"begun to maximize, but now to minimize; .* another --name"):
        open_study(tmp_path / "s.log", "s", ["minimize"])


def test_an_unfinished_last_line_is_dropped_and_the_sweep_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "s.log"
    first = swept(path)
    path.write_bytes(path.read_bytes()[:-20])
    second = Machine()
    study = open_study(path, "s", ["maximize"])
    summary = run(study, space(), second.evaluate, second.refuse, Budget(trials=6), recorded=first.store)
    assert len(second.launched) == 2
    assert summary.launched_in_all == 6
    assert not set(first.launched) & set(second.launched)
    assert open_study(path, "s", ["maximize"]).best_value == study.best_value


def test_a_lock_that_a_kill_left_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.log"
    swept(path)
    trials = len(open_study(path, "s", ["maximize"]).trials)
    JournalFileOpenLock(str(path)).acquire()

    def never(seconds: float) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr("optuna.storages.journal._file.time.sleep", never)
    assert len(open_study(path, "s", ["maximize"]).trials) == trials


def test_a_journal_cut_short_anywhere_goes_on_without_losing_or_repeating_a_trial(tmp_path: Path) -> None:
    path, first = tmp_path / "s.log", Machine()
    run(open_study(path, "s", ["maximize"]), small(), first.evaluate, first.refuse, Budget(trials=1))
    data = path.read_bytes()
    ends = [at for at, byte in enumerate(data) if byte == ord("\n")]
    near_an_end = {end + beside for end in ends for beside in (-1, 0, 1)}
    for length in sorted(near_an_end | set(range(0, len(data), 29))):
        path.write_bytes(data[:length])
        study, again = open_study(path, "s", ["maximize"]), Machine()
        summary = run(study, small(), again.evaluate, again.refuse, Budget(trials=1), recorded=first.store)
        assert (again.launched, summary.launched_in_all) == ([], 1)
        told = [trial.user_attrs.get("trial_id") for trial in study.trials if trial.state.name == "COMPLETE"]
        assert sorted(told) == sorted(record.evaluation.trial_id for record in first.store)
        assert not [trial for trial in study.trials if trial.state.name == "RUNNING"]


@pytest.mark.parametrize(
    "garbage", [b"{]\n", b"\xff\x00\n", b"[]\n", b"7\n", b'{"op_code": 99}\n', b'{"op_code": 4}\n']
)
@pytest.mark.parametrize("at", [0, 3, -1])
def test_a_corrupt_journal_is_named_with_what_to_do(tmp_path: Path, garbage: bytes, at: int) -> None:
    path = tmp_path / "s.log"
    swept(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines.insert(at if at >= 0 else len(lines), garbage)
    path.write_bytes(b"".join(lines))
    with pytest.raises(StoreError, match=r"s\.log is corrupt: .*; move it away and give the command again"):
        open_study(path, "s", ["maximize"])
    assert path.read_bytes() == b"".join(lines)


def test_a_moved_journal_is_made_anew_from_the_store(tmp_path: Path) -> None:
    first = swept(tmp_path / "s.log", trials=12)
    (tmp_path / "s.log").rename(tmp_path / "old")
    second, study = Machine(), open_study(tmp_path / "s.log", "s", ["maximize"])
    summary = run(study, space(), second.evaluate, second.refuse, Budget(trials=12), recorded=first.store)
    assert (second.launched, summary.launched_in_all) == ([], 12)
    assert study.best_value == max(r.evaluation.values[0] for r in first.store if r.evaluation.values)
    assert study.best_trial.params


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/s\.log cannot be read and written"):
        open_study(tmp_path / "file" / "s.log", "s", ["maximize"])
    (tmp_path / "s.log").mkdir()
    with pytest.raises(StoreError, match="cannot be read and written"):
        open_study(tmp_path / "s.log", "s", ["maximize"])
