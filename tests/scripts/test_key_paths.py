from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.scripts import key_paths

scalars = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(max_size=8)
trees = st.recursive(
    scalars.filter(lambda v: v is not None) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), trees, max_size=4))
def test_what_is_written_as_toml_is_read_as_it_was(content: dict[str, object]) -> None:
    assert tomllib.loads(key_paths.toml(content)) == content


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".toml"])
def test_a_copy_has_the_new_values_and_everything_else(tmp_path: Path, suffix: str) -> None:
    content = {"a": {"b": [1, {"c": "x"}]}, "d": 1.5, "e": "on"}
    key_paths.save(content, tmp_path / f"one{suffix}")
    loaded = key_paths.load(tmp_path / f"one{suffix}")
    assert loaded == content
    key_paths.put(loaded, "a.b.1.c", True, "file")
    key_paths.put(loaded, "new.key", 7, "file", new=True)
    key_paths.drop(loaded, "d")
    key_paths.drop(loaded, "not.there")
    assert loaded == {"a": {"b": [1, {"c": True}]}, "e": "on", "new": {"key": 7}}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a.x", "has no 'a.x': there is no 'x'; there are b"),
        ("a.b.2", "there is no '2'; there is a list of 1"),
        ("a.b.0.c", "there is no 'c'; there is the value 1"),
        ("z", "there is no 'z'; there are a"),
    ],
)
def test_a_key_path_that_a_file_lacks_is_named_with_what_is_there(path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        key_paths.put({"a": {"b": [1]}}, path, 1, "ds.json")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is no JSON"),
        ("a.toml", "a =", "is no TOML"),
        ("a.yaml", "a: [", "is no YAML"),
        ("a.yaml", "!!python/object/apply:os.getcwd []", "is no YAML"),
        ("a.ini", "", "must end with"),
    ],
)
def test_files_that_cannot_be_read_are_a_sentence(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        key_paths.load(tmp_path / name)


def test_what_yaml_has_in_two_places_is_changed_in_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: &b {lr: 1}\nother: *b\n")
    content = key_paths.load(tmp_path / "a.yaml")
    key_paths.put(content, "other.lr", 9, "file")
    assert content == {"base": {"lr": 1}, "other": {"lr": 9}}


def test_a_date_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("day: 2024-13-45\n")
    with pytest.raises(InputError, match="is no YAML: month must be in"):
        key_paths.load(tmp_path / "a.yaml")
