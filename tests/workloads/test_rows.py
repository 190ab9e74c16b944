from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.workloads import rows
from harness.workloads.rows import PIECE_BYTES, Row, pieces, read, text_of


def file(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(path: Path, *fields: str) -> list[dict[str, Any]]:
    return [dict(row.values) for row in read(path, fields)]


def refusal(path: Path, *fields: str) -> str:
    with pytest.raises(InputError) as caught:
        list(read(path, fields or ("text",)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(folder: Path, tables: Sequence[pa.Table], **state: Any) -> Path:
    """What `datasets.save_to_disk` writes."""
    names = [f"data-{n:05}-of-{len(tables):05}.arrow" for n in range(len(tables))]
    state = {"_data_files": [{"filename": name} for name in names], **state}
    file(folder / "state.json", json.dumps(state))
    file(folder / "dataset_info.json", "{}")
    for name, table in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return folder


# -- what is read


def test_jsonl_rows_are_objects_with_the_number_of_their_line(tmp_path: Path) -> None:
    path = file(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "one", "n": [1, 2]}\r\n\n{"text": null}\n')
    assert list(read(path, ["text"])) == [
        Row(values={"text": "one", "n": [1, 2]}, where=f"line 1 of {path}"),
        Row(values={"text": None}, where=f"line 3 of {path}"),
    ]


def test_odd_numbers_of_json_are_handed_on_as_they_are(tmp_path: Path) -> None:
    (row,) = values(file(tmp_path / "a.jsonl", '{"a": NaN, "b": 1e999, "c": 123456789012345678901234567890}'), "a")
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, 123456789012345678901234567890)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_csv_rows_have_the_names_of_the_header(tmp_path: Path, end: str, mark: bytes) -> None:
    lines = ["", "text,label", '"a, ""b""",1', "", "é,", '""," 2"']
    path = file(tmp_path / "a.csv", mark + end.join(lines).encode())
    found = list(read(path, ["label"]))
    assert [row.values for row in found] == [
        {"text": 'a, "b"', "label": "1"},
        {"text": "é", "label": ""},
        {"text": "", "label": " 2"},
    ]
    assert [row.where for row in found] == [f"line {n} of {path}" for n in (3, 5, 6)]


def test_a_value_of_csv_may_hold_line_ends_and_be_long(tmp_path: Path) -> None:
    path = file(tmp_path / "a.csv", 'text\n"one\r\ntwo\n"\n"' + "x" * 300_000 + '"\nlast\n')
    found = list(read(path, ["text"]))
    assert [row.values["text"] for row in found] == ["one\r\ntwo\n", "x" * 300_000, "last"]
    assert [row.where for row in found] == [f"line {n} of {path}" for n in (2, 5, 6)]


def test_parquet_rows_have_the_columns_that_were_asked_for(tmp_path: Path) -> None:
    path, n = tmp_path / "a.parquet", 1000
    table = pa.table({"text": [str(i) for i in range(n)], "label": [i or None for i in range(n)], "x": [[0]] * n})
    pq.write_table(table, path, row_group_size=300)
    found = list(read(path, ["label", "text"]))
    assert [row.values for row in found] == [{"label": i or None, "text": str(i)} for i in range(n)]
    assert [row.where for row in found] == [f"row {i + 1} of {path}" for i in range(n)]
    assert len(values(path)) == n


def test_a_saved_data_set_is_read_file_by_file_in_its_own_order(tmp_path: Path) -> None:
    tables = [pa.table({"text": ["b", "c"], "n": [1, 2]}), pa.table({"text": ["a"], "n": [3]})]
    folder = saved(tmp_path / "set", tables)
    assert values(folder, "text") == [{"text": "b"}, {"text": "c"}, {"text": "a"}]
    assert [row.where for row in read(folder, ["n"])][2] == f"row 1 of {folder / 'data-00001-of-00002.arrow'}"


def test_the_package_datasets_saves_what_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"text": f"text {i}", "label": i % 3, "tokens": [str(i)] * (i % 4)} for i in range(2500)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "set", num_shards=2)
    assert values(tmp_path / "set", "text", "label", "tokens") == rows
    shuffled = datasets.Dataset.from_list(rows).shuffle(seed=1)
    shuffled.save_to_disk(tmp_path / "shuffled")
    assert values(tmp_path / "shuffled", "text", "label", "tokens") == list(shuffled)


def test_a_folder_gives_every_known_file_sorted_and_no_hidden_one(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    file(folder / "b.txt", "last")
    file(folder / "a/deep.JSONL", '{"text": "first"}')
    file(folder / "c.csv", "")
    file(folder / ".hidden/a.txt", "no")
    file(folder / "picture.png", b"\0")
    assert values(folder, "text") == [{"text": "first"}, {"text": "last"}]


def test_a_text_is_cut_after_lines(tmp_path: Path) -> None:
    text = "".join(f"line {i} é\r\n" for i in range(20_000))
    path = file(tmp_path / "a.txt", text)
    found = [(row.values["text"], row.where) for row in read(path, ["text"])]
    assert "".join(piece for piece, _ in found) == text
    assert len(found) == math.ceil(len(text.encode()) / PIECE_BYTES) > 2
    assert all(piece.endswith("\n") for piece, _ in found)
    assert found[1][1] == f"offset {len(found[0][0].encode())} of {path}"


@given(st.text("a\né€😀\r", max_size=80), st.integers(8, 16), st.booleans())
def test_no_piece_of_a_text_is_too_long_and_nothing_is_lost(text: str, most: int, mark: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "PIECE_BYTES", most)
        found = list(pieces(file(Path(folder) / "a.txt", b"\xef\xbb\xbf" * mark + text.encode())))
    assert "".join(piece for _, piece in found) == text
    assert all(0 < len(piece.encode()) <= most for _, piece in found)
    assert all("\n" not in piece or piece.endswith("\n") for _, piece in found[:-1])
    assert [at for at, _ in found[1:]] == [at + len(piece.encode()) for at, piece in found[:-1]]


MEASURED = """
import sys, tracemalloc
from pathlib import Path
import pyarrow.parquet
from harness.workloads.rows import read
tracemalloc.start()
count = sum(1 for _ in read(Path(sys.argv[1]), ["text"]))
print(tracemalloc.get_traced_memory()[1], count)
"""


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv", "parquet"])
def test_a_file_may_be_larger_than_the_memory(tmp_path: Path, suffix: str) -> None:
    lines, path = ["x" * 1000] * 16_000, tmp_path / f"large.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"text": lines}), path, row_group_size=1000, use_dictionary=False)
    else:
        wrapped = [json.dumps({"text": line}) for line in lines] if suffix == "jsonl" else ["text", *lines]
        file(path, "\n".join(wrapped))
    command = [sys.executable, "-c", MEASURED, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    peak, count = map(int, run.stdout.split())
    assert count >= 16_000_000 // PIECE_BYTES
    assert peak < 4e6  # a quarter of the file


# -- what is refused


def test_a_missing_path_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the data .*nothing.csv cannot be read \(No such file or directory\)"):
        read(tmp_path / "nothing.csv", ["text"])


def test_an_unknown_suffix_is_refused_at_once_with_the_known_ones(tmp_path: Path) -> None:
    path = file(tmp_path / "a.json", "[]")
    with pytest.raises(InputError, match=r"ending in \.txt, \.jsonl, \.csv, \.parquet, but got .*a\.json"):
        read(path, ["text"])


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
@pytest.mark.parametrize("content", ["", "\n\n", "text\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: str) -> None:
    if (name == "a.txt" and content) or (name == "a.jsonl" and content == "text\n"):
        pytest.skip("that is a row, or no JSON")
    assert refusal(file(tmp_path / name, content)) == f"{tmp_path / name} is empty: it has no rows to train on"


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert "a.parquet is empty" in refusal(tmp_path / "a.parquet")
    assert "set is empty" in refusal(saved(tmp_path / "set", []))


def test_a_folder_without_a_known_file_is_refused(tmp_path: Path) -> None:
    file(tmp_path / "a.xls", "")
    assert f"the folder {tmp_path} is empty: it has no file ending in" in refusal(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to(
        "/proc/self/mem"
    )  # root may open every file, and read this one no more than others
    assert refusal(tmp_path / "a.jsonl") == f"{tmp_path / 'a.jsonl'} cannot be read: Input/output error"


def test_a_text_file_has_no_field_but_text(tmp_path: Path) -> None:
    message = refusal(file(tmp_path / "README.txt", "x"), "text", "label")
    assert "README.txt has no field 'label': a .txt file has the field 'text' alone" in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"abc\0def", "a zero byte at offset 3"),
        (b"\xef\xbb\xbfabc\0def", "a zero byte at offset 6"),
        (b"abc\xff", "no UTF-8 at offset 3"),
        (b"abc\xc3", "no UTF-8 at offset 3"),
        (b"\n" * PIECE_BYTES + b"b\xed\xa0\x80", f"no UTF-8 at offset {PIECE_BYTES + 1}"),
        (b"\x80" * PIECE_BYTES * 2, "no UTF-8 at offset 0"),
        ("é".encode("utf-16"), "no UTF-8 at offset 0"),
        ("née".encode("latin-1"), "no UTF-8 at offset 1"),
    ],
)
def test_a_file_that_is_not_text_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = file(tmp_path / "a.txt", content)
    assert refusal(path) == f"{path} is not text: it has {problem}; save it as UTF-8"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{oops", "line 3 of {path} is not JSON (Expecting property name"),
        (b'{"text": "n\xe9e"}', "line 3 of {path} is not JSON: it is not UTF-8; save the file as UTF-8"),
        ('{"text": "a"}'.encode("utf-16"), "line 3 of {path} is not JSON: it is not UTF-8"),
        ('{"text": "a"}'.encode("utf-16-le"), "line 3 of {path} is not JSON ("),
        (b'{"text": "\0"}', "line 3 of {path} is not JSON (Invalid control character"),
        (b"\0\0", "line 3 of {path} is not JSON"),
        (b"[" * 100_000, "line 3 of {path} is not JSON"),
        (b'{"text": ' + b"1" * 5000 + b"}", "line 3 of {path} is not JSON (Exceeds the limit"),
        (b'[{"text": "a"}]', "line 3 of {path} must be a JSON object, but is of type list"),
        (b"null", "line 3 of {path} must be a JSON object, but is of type NoneType"),
        (b'{"a": 1, "b": 2}', "line 3 of {path} has no field 'text'; its fields are a, b"),
        (b"{}", "line 3 of {path} has no field 'text'; its fields are none"),
    ],
)
def test_a_bad_jsonl_line_is_named_by_its_number(tmp_path: Path, line: bytes, problem: str) -> None:
    path = file(tmp_path / "a.jsonl", b'{"text": "fine"}\n\n' + line)
    assert problem.format(path=path) in refusal(path)


def test_a_sentence_lists_no_more_than_twenty_fields(tmp_path: Path) -> None:
    message = refusal(file(tmp_path / "a.jsonl", json.dumps({f"f{n}": 0 for n in range(30)})))
    assert message.endswith("f18, f19, ...")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.workloads.rows.MOST_LINE_BYTES", 2**20)
    message = refusal(file(tmp_path / name, "text" * 2**20))
    assert "line 1 of" in message
    assert "it is longer than 1 MiB; give one row a line" in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"id,body\n1,2", "{path} has no column 'text'; its columns are id, body"),
        (b"id;text\n1;2", "{path} has no column 'text'; its columns are id;text"),
        (b"text,id,text\n1,2,3", "{path} has 2 columns called 'text'; give each a name of its own"),
        (b"text,id\n1,2\n1,2,3\n", "line 3 of {path} has 3 values, but the header names 2 columns (text, id); quote"),
        (b"text,id\n1,2\n1\n", "line 3 of {path} has 1 values, but the header names 2 columns (text, id)"),
        (b'text\n"a\nb', "line 2 of {path} is not CSV (unexpected end of data)"),
        (b'text\n"a"b\n', "line 2 of {path} is not CSV ("),
        (b"text\na\nb\0c\n", "line 3 of {path} is not CSV: it has a zero byte; save the file as UTF-8"),
        (b"text\nn\xe9e\n", "line 2 of {path} is not CSV: it is not UTF-8; save the file as UTF-8"),
        ("text\nné".encode("utf-16"), "line 1 of {path} is not CSV: it is not UTF-8"),
        ("text\nn".encode("utf-16-le"), "line 1 of {path} is not CSV: it has a zero byte"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_said(tmp_path: Path, content: bytes, problem: str) -> None:
    path = file(tmp_path / "a.csv", content)
    assert problem.format(path=path) in refusal(path)


def test_a_table_without_the_column_lists_those_it_has(tmp_path: Path) -> None:
    table = pa.table({"title": ["a"], "body": ["b"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert "a.parquet has no column 'text'; its columns are title, body" in refusal(tmp_path / "a.parquet")
    assert "has no column 'text'; its columns are title, body" in refusal(saved(tmp_path / "set", [table]))
    twice = pa.table([["a"], ["b"]], names=["text", "text"])
    pq.write_table(twice, tmp_path / "b.parquet")
    assert "b.parquet has 2 columns called 'text'" in refusal(tmp_path / "b.parquet")


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_damaged_table_is_named(tmp_path: Path, keep: int) -> None:
    table = pa.table({"text": ["some text"] * 50})
    path, folder = tmp_path / "a.parquet", saved(tmp_path / "set", [table])
    pq.write_table(table, path)
    arrow = folder / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:keep])
    arrow.write_bytes(arrow.read_bytes()[: keep if keep >= 0 else 300])
    assert "a.parquet is not a readable parquet file" in refusal(path)
    assert "00001.arrow" in refusal(folder)


@given(st.binary(min_size=1, max_size=40), st.integers(0, 2000))
def test_no_damage_to_a_table_escapes_as_another_error(damage: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        pq.write_table(pa.table({"text": ["some text é"] * 50, "n": list(range(50))}), path)
        whole = path.read_bytes()
        path.write_bytes(whole[:at] + damage + whole[at + len(damage) :])
        with contextlib.suppress(InputError):
            assert len(values(path, "text", "n")) >= 0


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ("{", "does not say which files the data set has"),
        ("[]", "does not say which files"),
        ("{}", "does not say which files"),
        ('{"_data_files": null}', "does not say which files"),
        ('{"_data_files": [{"filename": "../outside.arrow"}]}', "names the file '../outside.arrow', which is not in"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "names the file 'gone.arrow', which is not in its folder"),
    ],
)
def test_a_saved_data_set_whose_state_is_damaged_is_refused(tmp_path: Path, state: str, problem: str) -> None:
    folder = saved(tmp_path / "set", [pa.table({"text": ["a"]})])
    file(tmp_path / "outside.arrow", "")
    file(folder / "state.json", state)
    assert problem in refusal(folder)


def test_splits_that_were_saved_together_are_to_be_named_one_by_one(tmp_path: Path) -> None:
    saved(tmp_path / "train", [pa.table({"text": ["a"]})])
    file(tmp_path / "dataset_dict.json", '{"splits": ["train"]}')
    assert "holds several splits, each in a folder of its own" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (5, "x must hold text, but holds int"),
        (None, "x must hold text, but holds nothing (null)"),
        (["a"], "x must hold text, but holds list"),
        (b"a", "x must hold text, but holds bytes"),
        ("\ud800", "x is not text: surrogates not allowed"),
    ],
)
def test_what_is_not_text_is_refused_where_text_is_needed(value: Any, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        text_of(value, "x")
    assert str(caught.value) == problem
    assert text_of("é", "x") == "é"
