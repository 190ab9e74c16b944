from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError, StoreError
from harness.workloads import waiting_for
from harness.workloads.contents import fingerprint
from harness.workloads.ragged import Ragged, address
from harness.workloads.rows import Row

ROOT = Path(__file__).parents[2]
LISTS = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=12), min_size=1, max_size=30)


def rows_of(examples: Sequence[Sequence[int]]) -> Callable[[], Iterator[Row]]:
    return lambda: (Row(values={"ids": ids}, where=f"line {n + 1} of x") for n, ids in enumerate(examples))


def both(rows: Sequence[Row]) -> list[Mapping[str, Sequence[int]]]:
    """Two columns of different lengths; no example of a row that is None."""
    found = [row.values["ids"] for row in rows if row.values["ids"] is not None]
    return [{"ids": ids, "labels": ids[:1]} for ids in found]


def stored(folder: Path, examples: Sequence[Any], **options: Any) -> Ragged:
    data = Ragged(folder=folder, columns=("ids", "labels"), label="x.jsonl")
    data.store(rows_of(examples), both, **options)
    return data


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- what is read


@given(LISTS, st.integers(1, 7), st.integers(1, 9), st.data())
def test_examples_are_read_as_they_were_given(
    examples: list[list[int]], batch: int, length: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ragged = stored(Path(folder) / "store", examples, batch=batch)
        assert len(ragged) == len(examples)
        assert ragged.flat("ids").tolist() == [token for ids in examples for token in ids]
        assert ragged.lengths("ids").tolist() == [len(ids) for ids in examples]
        assert ragged.lengths("labels").tolist() == [len(ids[:1]) for ids in examples]
        chosen = data.draw(st.lists(st.integers(0, len(examples) - 1), max_size=9))
        assert ragged.lengths("ids", chosen).tolist() == [len(examples[n]) for n in chosen]
        padded = ragged.padded("ids", chosen, length, -100)
        assert (padded.shape, padded.dtype) == ((len(chosen), length), np.int64)
        assert padded.tolist() == [(examples[n] + [-100] * length)[:length] for n in chosen]


@given(LISTS, st.integers(1, 9))
def test_packed_rows_are_windows_whose_positions_begin_again_with_every_example(
    examples: list[list[int]], length: int
) -> None:
    flat = [(token, place, n) for n, ids in enumerate(examples) for place, token in enumerate(ids)]
    windows = [flat[at : at + length] for at in range(0, len(flat) - length + 1, length)]
    with tempfile.TemporaryDirectory() as folder:
        ragged = stored(Path(folder) / "store", examples)
        ids, positions = ragged.packed_rows("ids", length, np.arange(len(windows)))
    assert ids.tolist() == [[token for token, _, _ in window] for window in windows]
    expected = []
    for window in windows:
        position, row = 0, []
        for at, (_, _, example) in enumerate(window):
            position = 0 if not at or window[at - 1][2] != example else position + 1
            row.append(position)
        expected.append(row)
    assert positions.tolist() == expected


def test_a_sample_does_not_depend_on_which_others_are_asked_for(tmp_path: Path) -> None:
    ragged = stored(tmp_path / "store", [[0] * (n % 17) for n in range(100)])
    every = ragged.chosen(3, range(64), 1)
    assert ragged.chosen(3, [5, 60], 1).tolist() == every[[5, 60]].tolist()
    assert 0 <= every.min() < every.max() < 100
    assert ragged.chosen(4, range(64), 1).tolist() != every.tolist() != ragged.chosen(3, range(64), 2).tolist()


def test_a_pickle_is_a_reference_and_mapped_once(tmp_path: Path) -> None:
    ragged = stored(tmp_path / "store", [[1, 2], [3]] * 10_000)
    assert len(pickle.dumps(ragged)) < 1000
    copy: Ragged = pickle.loads(pickle.dumps(ragged))
    assert copy == ragged
    assert copy.flat("ids") is copy.flat("ids")
    assert not copy.flat("ids").flags.writeable


# -- storing


def test_a_row_may_give_none_or_several_examples(tmp_path: Path) -> None:
    ragged = Ragged(folder=tmp_path / "store", columns=("ids",))
    told: list[int] = []
    rows = rows_of([[1, 2, 3], [], [4]])
    with waiting_for.told(lambda what, done, total, unit: told.append(done)):
        ragged.store(rows, lambda some: [{"ids": [n]} for row in some for n in row.values["ids"]], batch=2)
    assert ragged.padded("ids", range(4), 1, 0).tolist() == [[1], [2], [3], [4]]
    assert told == [2, 3]


def test_a_store_that_is_there_is_kept_without_reading_a_row(tmp_path: Path) -> None:
    ragged = stored(tmp_path / "store", [[1]])
    before = contents(ragged.folder)
    ragged.store(lambda: pytest.fail("read"), both)
    assert contents(ragged.folder) == before
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["store"]


@pytest.mark.parametrize("damaged", ["journal.json", "ids.values.int32", "labels.ends.int64"])
def test_a_damaged_store_is_made_again(tmp_path: Path, damaged: str) -> None:
    before = contents(stored(tmp_path / "store", [[1, 2], [3]]).folder)
    (tmp_path / "store" / damaged).write_bytes(b"x")
    stored(tmp_path / "store", [[1, 2], [3]])
    assert contents(tmp_path / "store") == before


CHILD = """
import sys
from pathlib import Path
from harness.workloads.ragged import Ragged
from harness.workloads.rows import Row
folder, log, stop = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
def rows():
    return (Row(values={"n": n}, where=f"row {n}") for n in range(1000))
def encode(some):
    with log.open("a") as file:
        file.writelines(f"{row.values['n']}\\n" for row in some)
    if some[-1].values["n"] >= stop:
        print("there", flush=True)
        sys.stdin.read()
    return [{"ids": [row.values["n"]] * (row.values["n"] % 5)} for row in some]
Ragged(folder=folder, columns=("ids",)).store(rows, encode, batch=10)
"""


def child(folder: Path, log: Path, stop: int = 10**9) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(folder), str(log), str(stop)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def killed(folder: Path, log: Path, stop: int) -> None:
    with child(folder, log, stop) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL


def finished(folder: Path, log: Path) -> list[int]:
    """The rows that were encoded until the store was whole."""
    with child(folder, log) as process:
        process.communicate()
    assert process.returncode == 0
    return [int(line) for line in log.read_text().split()]


def test_what_was_encoded_before_a_kill_is_not_encoded_again(tmp_path: Path) -> None:
    killed(tmp_path / "store", tmp_path / "log", 504)
    assert not (tmp_path / "store").exists()
    with (tmp_path / "store.partial" / "ids.values.int32").open("ab") as file:
        file.write(b"half of a batch")  # as if it had been killed while it wrote
    encoded = finished(tmp_path / "store", tmp_path / "log")
    assert encoded == [*range(510), *range(500, 1000)]  # the batch in which it was killed twice, no other
    finished(tmp_path / "uninterrupted", tmp_path / "other-log")
    assert contents(tmp_path / "store") == contents(tmp_path / "uninterrupted")


def test_work_that_the_disk_lost_is_done_again(tmp_path: Path) -> None:
    killed(tmp_path / "store", tmp_path / "log", 504)
    path = tmp_path / "store.partial" / "ids.values.int32"
    path.write_bytes(bytes(path.stat().st_size))  # as many bytes, but zeros
    assert finished(tmp_path / "store", tmp_path / "log")[-1000:] == [*range(1000)]


def test_of_two_processes_that_store_the_same_one_does(tmp_path: Path) -> None:
    first, second = (child(tmp_path / "store", tmp_path / "log") for _ in range(2))
    for process in (first, second):
        process.communicate()
        assert process.returncode == 0
    assert (tmp_path / "log").read_text().split() == [str(n) for n in range(1000)]


def test_nothing_to_train_on_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    for examples in ([], [None, None]):
        with pytest.raises(InputError, match=rf"x.jsonl holds nothing to train on: none of its {len(examples)} rows"):
            stored(tmp_path / "store", examples)
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (
            [2**31],
            "-2**31 <= ids < 2**31 must hold, but between line 1 of x and line 2 of x it goes from 1 to 2147483648",
        ),
        ([-(2**31) - 1], "it goes from -2147483649 to 1"),
        ([2**64 - 1], "it goes from 1"),
        ([2**70], "ids must be a list of 32-bit integers, but between line 1 of x and line 2 of x is one of"),
        ([1.5], "is one of (shape=(1,), dtype=float64)"),
        ([[1]], "is one of (shape=(1, 1), dtype=int64)"),
        (["a"], "must be a list of 32-bit integers"),
    ],
)
def test_what_is_no_32_bit_integer_is_refused(tmp_path: Path, ids: Any, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        stored(tmp_path / "store", [[1], ids])
    assert problem in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("")
    with pytest.raises(StoreError, match="in-the-way cannot be written"):
        stored(tmp_path / "in-the-way" / "store", [[1]])


FULL = """
import resource, sys
from pathlib import Path
from harness.errors import StoreError
from tests.workloads.test_ragged import stored
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    stored(Path(sys.argv[1]), [[1, 2, 3]] * 20_000)
except StoreError as error:
    print(error)
"""


def test_a_full_disk_is_said_and_with_more_room_the_work_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "store")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == f"{tmp_path / 'store.partial'} cannot be written: File too large\n"
    assert not (tmp_path / "store").exists()
    done = json.loads((tmp_path / "store.partial" / "journal.json").read_text())["rows"]
    told: list[int] = []
    with waiting_for.told(lambda what, done, total, unit: told.append(done)):
        ragged = stored(tmp_path / "store", [[1, 2, 3]] * 20_000)
    assert told[0] == done + 256
    assert ragged.lengths("ids").tolist() == [3] * 20_000


def test_prepared_data_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"ids.ends.int64 cannot be read .* run again"):
        len(Ragged(folder=tmp_path / "none", columns=("ids",)))


@pytest.mark.parametrize("columns", [(), ("../ids",), ("a b",)])
def test_columns_are_names(tmp_path: Path, columns: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="columns must be one or more names"):
        Ragged(folder=tmp_path, columns=columns)


MEASURED = """
import sys, tracemalloc
from pathlib import Path
from harness.workloads.ragged import Ragged
from harness.workloads.rows import Row
rows = lambda: (Row(values={}, where="a row") for _ in range(int(sys.argv[2])))
tracemalloc.start()
Ragged(folder=Path(sys.argv[1]), columns=("ids",)).store(rows, lambda some: [{"ids": [7] * 100} for _ in some])
print(tracemalloc.get_traced_memory()[1])
"""


def test_twenty_times_the_rows_take_no_more_memory(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        command = [sys.executable, "-c", MEASURED, str(tmp_path / str(n)), str(n)]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    assert peak(40_000) < 1.2 * peak(2_000)
    assert (tmp_path / "40000" / "ids.values.int32").stat().st_size == 16_000_000


# -- addresses


def test_an_address_is_that_of_its_parts_in_order(tmp_path: Path) -> None:
    one = address(tmp_path, "ab", "c")
    assert one == address(tmp_path, "ab", "c")
    assert len({one, address(tmp_path, "a", "bc"), address(tmp_path, "c", "ab"), address(tmp_path, "abc")}) == 4
    assert one.parent == tmp_path
    assert len(one.name) == 16


def test_a_fingerprint_is_of_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_bytes(b"one")
    before = fingerprint(folder)
    (folder / ".hidden").write_bytes(b"")
    assert fingerprint(folder) == before
    assert fingerprint(folder / "deep" / "a") != before
    (folder / "deep" / "a").rename(folder / "deep" / "b")
    renamed = fingerprint(folder)
    (folder / "deep" / "b").write_bytes(b"two")
    assert len({before, renamed, fingerprint(folder)}) == 3
    with pytest.raises(InputError, match=r"the data .*none cannot be read"):
        fingerprint(tmp_path / "none")
    (folder / "memory").symlink_to("/proc/self/mem")
    with pytest.raises(InputError, match=r"memory cannot be read: Input/output error"):
        fingerprint(folder)
