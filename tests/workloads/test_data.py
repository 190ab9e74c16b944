from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError, StoreError
from harness.workloads.data import TokenData, counter_hash, load

SEEDS = st.integers(-(2**70), 2**70)
STEPS = st.integers(0, 2**40)
INDICES = st.lists(st.integers(0, 10_000), min_size=1, max_size=40)


def counting(n: int) -> TokenData:
    """Tokens that are their own positions."""
    tokens = np.arange(n, dtype=np.int32)
    return TokenData(path=Path("none"), data_id="", vocab_size=n, n_tokens=n, description="", loaded=tokens)


def read(source: Path | None, tmp_path: Path, **options: Any) -> TokenData:
    return load(source, **{"cache": tmp_path / "cache", "seq_len": 3, **options})


def refusal(source: Path | None, tmp_path: Path, **options: Any) -> str:
    """The sentence that refuses a source; whatever was refused, nothing was written."""
    with pytest.raises(InputError) as caught:
        read(source, tmp_path, **options)
    assert not (tmp_path / "cache").exists()
    return str(caught.value)


def text_of(data: TokenData) -> bytes:
    return data.tokens.astype(np.uint8).tobytes()


def file(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def array(tmp_path: Path, values: Any, **options: Any) -> Path:
    path = tmp_path / "tokens.npy"
    np.save(path, values, **options)
    return path


# -- windows


@given(SEEDS, STEPS, INDICES, st.integers(1, 30), st.integers(1, 1000))
def test_windows_lie_inside_the_tokens_and_are_contiguous(
    seed: int, step: int, indices: list[int], seq_len: int, spare: int
) -> None:
    n = seq_len + spare
    windows = counting(n).windows(step, indices, seq_len, seed)
    assert windows.shape == (len(indices), seq_len + 1)
    assert windows.dtype == np.int64
    assert (np.diff(windows, axis=1) == 1).all()
    assert windows.min() >= 0
    assert windows.max() < n


@given(SEEDS, STEPS, INDICES, st.data())
def test_a_sample_does_not_depend_on_which_others_are_asked_for(
    seed: int, step: int, indices: list[int], data: st.DataObject
) -> None:
    tokens = counting(5000)
    together = tokens.windows(step, indices, 8, seed)
    chosen = data.draw(st.lists(st.integers(0, len(indices) - 1), min_size=1))
    apart = tokens.windows(step, [indices[i] for i in chosen], 8, seed)
    assert (apart == together[chosen]).all()


@given(SEEDS, STEPS)
def test_seed_step_and_index_each_change_the_draw(seed: int, step: int) -> None:
    draws = counter_hash(seed, step, range(64))
    assert np.unique(draws).size == 64
    assert not np.intersect1d(draws, counter_hash(seed + 1, step, range(64))).size
    assert not np.intersect1d(draws, counter_hash(seed, step + 1, range(64))).size


def test_the_draws_never_change_between_versions() -> None:
    assert counter_hash(1, 2, [0, 3]).tolist() == [16613338946343043936, 15020427595393229491]


def test_every_start_is_drawn_about_as_often_as_any_other() -> None:
    starts = counting(13).windows(0, range(10_000), 3, seed=0)[:, 0]
    counts = np.bincount(starts, minlength=10)
    assert counts.size == 10
    # 99.9 % point of chi-squared with 9 degrees of freedom.
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9


# -- sources


def test_the_standard_library_is_the_default_and_always_the_same(tmp_path: Path) -> None:
    first, second = read(None, tmp_path), read(None, tmp_path, seq_len=128)
    assert first == second
    assert first.vocab_size == 256
    assert first.n_tokens > 2**20
    assert first.description.startswith(f"Python {sys.version_info.major}.{sys.version_info.minor} standard library, ")
    assert b"\nclass OrderedDict" in text_of(first)


def test_the_standard_library_is_cut_after_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "library"
    for name in ("a.py", "b.py", "c.py"):
        file(library, name, name * 10)
    file(library, "site-packages/x.py", "no")
    file(library, "json/tests/x.py", "no")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(library)})
    monkeypatch.setattr("harness.workloads.corpus.STANDARD_LIBRARY_CAP_BYTES", 85)
    assert text_of(read(None, tmp_path)) == b"a.py" * 10 + b"\n" + b"b.py" * 10


def test_a_python_without_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    assert "has no .py files" in refusal(None, tmp_path)


def test_a_text_file_becomes_its_bytes(tmp_path: Path) -> None:
    data = read(file(tmp_path, "poem.txt", "héllo"), tmp_path)
    assert text_of(data) == "héllo".encode()
    assert (data.n_tokens, data.vocab_size, data.description) == (6, 256, "poem.txt, 1 file, 0.0 MB")


def test_a_jsonl_file_gives_the_named_field_of_each_line(tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", '{"body": "one", "text": "x"}\n\n{"body": "two"}\r\n')
    assert text_of(read(path, tmp_path, field="body")) == b"one\ntwo"


@pytest.mark.parametrize("dtype", ["str", "category"])
def test_a_parquet_file_gives_the_named_column(tmp_path: Path, dtype: Any) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"body": pd.Series(["one", None, "two"], dtype=dtype)}).to_parquet(path)
    assert text_of(read(path, tmp_path, field="body")) == b"one\ntwo"


def test_a_folder_gives_every_known_file_sorted_and_no_hidden_one(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    file(folder, "b.txt", "last")
    file(folder, "a/deep.jsonl", '{"text": "first"}')
    file(folder, "empty.txt", "")
    file(folder, ".hidden/a.txt", "no")
    file(folder, "picture.png", b"\0")
    data = read(folder, tmp_path)
    assert text_of(data) == b"first\nlast\n"
    assert data.description == "folder, 3 files, 0.0 MB"


@pytest.mark.parametrize(
    ("values", "stored", "vocab_size"),
    [
        (np.array([1, 2, 255, 0], "int64"), "uint8", 256),
        (np.array([1, 2, 256, 0], ">u4"), "uint16", 257),
        (np.array([1, 2, 65536, 0], "uint64"), "int32", 65537),
    ],
)
def test_a_token_array_is_kept_in_the_smallest_type(tmp_path: Path, values: Any, stored: str, vocab_size: int) -> None:
    data = read(array(tmp_path, values), tmp_path)
    assert data.tokens.tolist() == values.tolist()
    assert (data.tokens.dtype.name, data.vocab_size) == (stored, vocab_size)


def test_the_hash_is_of_the_tokens_not_of_where_they_lie(tmp_path: Path) -> None:
    one = read(file(tmp_path, "one.txt", "the same"), tmp_path)
    two = read(file(tmp_path, "two.jsonl", '{"text": "the same"}'), tmp_path)
    other = read(file(tmp_path, "other.txt", "the sane"), tmp_path)
    assert one.data_id == two.data_id != other.data_id


def test_the_hash_holds_the_size_of_the_vocabulary(tmp_path: Path) -> None:
    text = read(file(tmp_path, "one.txt", "abcd"), tmp_path)
    tokens = read(array(tmp_path, np.frombuffer(b"abcd", np.uint8)), tmp_path)
    assert text.tokens.tolist() == tokens.tokens.tolist()
    assert text.data_id != tokens.data_id


# -- refused sources


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nothing.txt"
    assert f"the data {path} cannot be read (No such file or directory)" in refusal(path, tmp_path)


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    message = refusal(file(tmp_path, "a.csv", "text"), tmp_path)
    assert ".txt, .jsonl, .parquet or .npy" in message
    assert "a.csv" in message


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    assert f"{name} is empty" in refusal(file(tmp_path, name, ""), tmp_path)


def test_a_folder_without_a_known_file_is_refused(tmp_path: Path) -> None:
    folder = file(tmp_path, "folder/a.csv", "x").parent
    assert f"the folder {folder} is empty" in refusal(folder, tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"abc\0def", "a zero byte at offset 3"),
        (b"abc\xff", "no UTF-8 at offset 3"),
        ("é".encode("utf-16"), "no UTF-8"),
    ],
)
def test_a_file_that_is_not_text_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    message = refusal(file(tmp_path, "a.txt", content), tmp_path)
    assert "a.txt is not text" in message
    assert problem in message


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{oops", "line 2 of {path} is not JSON"),
        (b"\xff\xfe{", "line 2 of {path} is not JSON"),
        (b"[" * 100_000, "line 2 of {path} is not JSON"),
        (b"[1]", "line 2 of {path} must be a JSON object, but is of type list"),
        (b'{"a": 1, "b": 2}', "line 2 of {path} has no field 'text'; its fields are a, b"),
        (b"{}", "line 2 of {path} has no field 'text'; its fields are none"),
        (b'{"text": 5}', "field 'text' in line 2 of {path} must hold text, but holds int"),
        (b'{"text": "\\ud800"}', "field 'text' in line 2 of {path} is not text"),
    ],
)
def test_a_bad_jsonl_line_is_named_by_its_number(tmp_path: Path, line: bytes, problem: str) -> None:
    path = file(tmp_path, "a.jsonl", b'{"text": "fine"}\n' + line)
    assert problem.format(path=path) in refusal(path, tmp_path)


def test_a_parquet_file_without_the_column_lists_those_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"title": ["a"], "body": ["b"]}).to_parquet(path)
    assert "has no column 'text'; its columns are title, body" in refusal(path, tmp_path)


def test_a_parquet_column_of_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": [1, 2]}).to_parquet(path)
    assert "must hold text, but holds int" in refusal(path, tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_damaged_parquet_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": ["some text"] * 50}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:keep])
    assert "a.parquet is not a readable parquet file" in refusal(path, tmp_path)


@pytest.mark.parametrize("values", [np.ones(9), np.ones((3, 3), int), np.ones(9, bool), np.array(5)])
def test_an_array_that_is_not_a_row_of_integers_is_refused(tmp_path: Path, values: Any) -> None:
    message = refusal(array(tmp_path, values), tmp_path)
    assert f"(shape={values.shape}, dtype={values.dtype})" in message


@pytest.mark.parametrize("values", [[1, -1, 2, 3, 4], [2**31, 0, 0, 0, 0], [2**40, 0, 0, 0, 0]])
def test_a_token_outside_the_range_is_refused(tmp_path: Path, values: list[int]) -> None:
    message = refusal(array(tmp_path, np.array(values)), tmp_path)
    assert "must hold, but" in message
    assert f"from {min(values)} to {max(values)}" in message


def test_an_empty_array_is_refused(tmp_path: Path) -> None:
    assert "tokens.npy is empty" in refusal(array(tmp_path, np.zeros(0, int)), tmp_path)


class Trap:
    """Unpickling it is an accident."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a data file was executed",)


def test_a_pickled_array_is_refused_and_not_executed(tmp_path: Path) -> None:
    path = array(tmp_path, np.array([Trap()], object), allow_pickle=True)
    assert "is not an array of plain numbers" in refusal(path, tmp_path)
    path.write_bytes(pickle.dumps(Trap()))
    assert "is not an array of plain numbers" in refusal(path, tmp_path)


@pytest.mark.parametrize("keep", [0, 20, 140])
def test_a_damaged_array_is_named(tmp_path: Path, keep: int) -> None:
    path = array(tmp_path, np.arange(10))
    path.write_bytes(path.read_bytes()[:keep])
    assert f"{path} is not an array of plain numbers" in refusal(path, tmp_path)


@given(st.binary(max_size=60), st.integers(0, 120))
def test_no_damage_to_an_array_escapes_as_another_error(damage: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = array(Path(folder), np.arange(10))
        whole = path.read_bytes()
        path.write_bytes(whole[:at] + damage + whole[at + len(damage) :])
        with contextlib.suppress(InputError):
            assert read(path, Path(folder)).tokens.min() >= 0


def test_data_of_one_window_is_enough_and_one_token_less_is_not(tmp_path: Path) -> None:
    path = file(tmp_path, "a.txt", "12345")
    assert read(path, tmp_path, seq_len=4).windows(0, [0, 1], 4, 0).shape == (2, 5)
    assert "seq_len=5 needs 6 tokens, but it has 5" in refusal(path, tmp_path, seq_len=5)


# -- tokenizers


def tokenizer_file(tmp_path: Path, vocabulary: dict[str, int], unknown: str | None = "?") -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    codec = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=unknown))
    codec.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    codec.enable_truncation(2)
    codec.enable_padding(length=9)
    path = tmp_path / "tokenizer.json"
    codec.save(str(path))
    return path


def test_a_tokenizer_encodes_every_document_whole(tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", "\n".join(json.dumps({"text": text}) for text in ("a b b a", "b what a")))
    data = read(path, tmp_path, tokenizer=tokenizer_file(tmp_path, {"a": 0, "b": 300, "?": 1}))
    assert data.tokens.tolist() == [0, 300, 300, 0, 300, 1, 0]
    assert (data.vocab_size, data.tokens.dtype.name) == (301, "uint16")


def test_a_tokenizer_sets_the_vocabulary_of_a_token_array(tmp_path: Path) -> None:
    tokenizer = tokenizer_file(tmp_path, {"a": 0, "b": 300})
    assert read(array(tmp_path, [0, 1, 2, 3]), tmp_path, tokenizer=tokenizer).vocab_size == 301
    message = refusal(array(tmp_path, [0, 1, 2, 301]), tmp_path, tokenizer=tokenizer)
    assert "0 <= token < 301 must hold" in message


def test_a_missing_tokenizer_file_is_named(tmp_path: Path) -> None:
    text = file(tmp_path, "a.txt", "some text")
    assert "the tokenizer file" in refusal(text, tmp_path, tokenizer=tmp_path / "none.json")


@pytest.mark.parametrize("content", ["", "{}", "\0"])
def test_an_invalid_tokenizer_file_is_named(tmp_path: Path, content: str) -> None:
    pytest.importorskip("tokenizers")
    text, bad = file(tmp_path, "a.txt", "some text"), file(tmp_path, "bad.json", content)
    assert f"{bad} is not a tokenizer file" in refusal(text, tmp_path, tokenizer=bad)


def test_a_text_that_the_tokenizer_cannot_encode_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_file(tmp_path, {"a": 0}, unknown=None)
    assert "cannot encode a.txt" in refusal(file(tmp_path, "a.txt", "a b"), tmp_path, tokenizer=tokenizer)


def test_without_the_package_a_tokenizer_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    text, some = file(tmp_path, "a.txt", "some text"), file(tmp_path, "some.json", "{}")
    assert "pip install 'distributed-harness[tokenizers]'" in refusal(text, tmp_path, tokenizer=some)


# -- storing


def test_loading_writes_nothing_and_storing_one_file(tmp_path: Path) -> None:
    data = read(file(tmp_path, "a.txt", "some text"), tmp_path)
    assert not data.path.exists()
    data.store()
    assert list((tmp_path / "cache").iterdir()) == [data.path] == [tmp_path / "cache" / f"{data.data_id}.npy"]
    assert np.load(data.path).tobytes() == b"some text"


def test_a_pickle_is_small_and_reads_the_same_tokens_from_the_file(tmp_path: Path) -> None:
    data = read(None, tmp_path)
    data.store()
    pickled = pickle.dumps(data)
    assert len(pickled) < 2000
    copy: TokenData = pickle.loads(pickled)
    assert copy == data
    assert copy.loaded is None
    assert (copy.windows(3, range(4), 16, 0) == data.windows(3, range(4), 16, 0)).all()
    assert copy.tokens is copy.tokens


def test_a_stored_array_is_used_again(tmp_path: Path) -> None:
    data = read(file(tmp_path, "a.txt", "some text"), tmp_path)
    data.store()
    before = data.path.stat()
    data.store()
    assert data.path.stat().st_ino == before.st_ino


@pytest.mark.parametrize("damage", [b"", b"garbage", "short"])
def test_a_damaged_stored_array_is_replaced(tmp_path: Path, damage: bytes | str) -> None:
    data = read(file(tmp_path, "a.txt", "some text"), tmp_path)
    data.store()
    data.path.write_bytes(data.path.read_bytes()[:-1] if isinstance(damage, str) else damage)
    data.store()
    assert np.load(data.path).tobytes() == b"some text"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    cache = file(tmp_path, "in-the-way", "")
    data = read(file(tmp_path, "a.txt", "some text"), tmp_path, cache=cache)
    with pytest.raises(StoreError, match=r"in-the-way cannot be written"):
        data.store()


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", b"abc " * 9), ("a.jsonl", b'{"text": "abc abc"}\n{"text": "def"}\n')]
)
def test_a_byte_order_mark_is_no_text(name: str, content: bytes, tmp_path: Path) -> None:
    plain, marked = tmp_path / "plain" / name, tmp_path / "marked" / name
    for path, mark in ((plain, b""), (marked, b"\xef\xbb\xbf")):
        path.parent.mkdir()
        path.write_bytes(mark + content)
    one, other = (load(path, cache=tmp_path / "cache", seq_len=4) for path in (plain, marked))
    assert one.data_id == other.data_id


MEASURED = """
import resource, sys
from pathlib import Path
from harness.workloads.data import load
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = load(sys.argv[1], cache=Path(sys.argv[2]), seq_len=128)
data.store()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, data.n_tokens)
"""


def test_a_large_text_takes_about_its_own_size(tmp_path: Path) -> None:
    path, lines = tmp_path / "large.txt", 600_000
    path.write_bytes((b"a" * 99 + b"\n") * lines + "\N{GRINNING FACE}".encode())  # decoded, each character takes 4 B
    command = [sys.executable, "-c", MEASURED, str(path), str(tmp_path / "cache")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    grown_kib, tokens = map(int, run.stdout.split())
    assert tokens == path.stat().st_size
    assert grown_kib * 1024 < 1.5 * path.stat().st_size
