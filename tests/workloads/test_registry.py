from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import workloads
from harness.errors import InputError, UnknownNameError
from harness.workloads import Request, create, names
from harness.workloads.gpt import SIZES, Gpt
from harness.workloads.workload import Workload


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("a short text " * 200)
    return path


def make(name: str, tmp_path: Path, **options: Any) -> Workload:
    """Create a workload; creating never writes."""
    workload = create(name, cache=tmp_path / "cache", **options)
    assert not (tmp_path / "cache").exists()
    return workload


def refusal(name: str, tmp_path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        make(name, tmp_path, **options)
    return str(caught.value)


def test_every_size_of_gpt_is_registered() -> None:
    assert {name for name in names() if name.startswith("gpt-")} == {f"gpt-{size}" for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
def test_a_named_size_has_its_shape(size: str, tmp_path: Path, text: Path) -> None:
    workload = make(f"gpt-{size}", tmp_path, data=text)
    assert isinstance(workload, Gpt)
    assert workload.name == f"gpt-{size}"
    assert {field: getattr(workload, field) for field in SIZES[size]} == SIZES[size]


def test_a_bare_gpt_is_the_smallest(tmp_path: Path, text: Path) -> None:
    assert make("gpt", tmp_path, data=text) == make("gpt-nano", tmp_path, data=text)


def test_fields_and_options_replace_those_of_the_size(tmp_path: Path, text: Path) -> None:
    workload = make(
        "gpt:blocks=6, width=384,heads=6,tied=True", tmp_path, data=text, seq_len=32, global_batch_size=4, seed=7
    )
    assert isinstance(workload, Gpt)
    assert (workload.blocks, workload.width, workload.heads, workload.tied) == (6, 384, 6, True)
    assert (workload.seq, workload.global_batch_size, workload.seed) == (32, 4, 7)
    assert workload.name == "gpt-nano-blocks6-heads6-tiedtrue-width384"


def test_the_data_is_stored_on_demand(tmp_path: Path, text: Path) -> None:
    workload = make("gpt-nano", tmp_path, data=text)
    assert isinstance(workload, Gpt)
    workload.data.store()
    assert workload.data.path.parent == tmp_path / "cache"
    assert workload.data.path.exists()


def test_cnn_takes_its_channels(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    assert make("cnn", tmp_path).tokens_per_step == 64
    workload = make("cnn:channels=16", tmp_path, global_batch_size=10, seed=3)
    assert (workload.name, workload.tokens_per_step, workload.seed) == ("cnn-channels16", 10, 3)


@pytest.mark.parametrize("option", [{"data": "a.txt"}, {"tokenizer": "t.json"}, {"seq_len": 128}])
def test_cnn_refuses_options_that_mean_nothing_to_it(option: dict[str, Any], tmp_path: Path) -> None:
    [(name, value)] = option.items()
    assert f"cnn takes no {name}, but got {value}" in refusal("cnn", tmp_path, **option)


def test_an_unknown_name_gets_the_nearest_and_all_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'gpt-nano'\? valid are bert-mini, cnn, gpt, gpt-1.3b"):
        create("gpt-nanno", cache=tmp_path)


def test_an_unknown_field_gets_the_nearest_and_all_valid_ones(tmp_path: Path) -> None:
    message = refusal("gpt-mini:block=6", tmp_path)
    assert "unknown field of workload gpt-mini 'block': did you mean 'blocks'? valid are blocks, heads" in message


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("gpt:blocks", "written NAME=VALUE, but got 'blocks'"),
        ("gpt:", "written NAME=VALUE, but got ''"),
        ("gpt:blocks=1,blocks=2", "blocks=1 and blocks=2"),
        ("gpt:blocks=0", "blocks must be an integer from 1 to 999999999, but got '0'"),
        ("gpt:blocks=-3", "blocks must be an integer"),
        ("gpt:blocks=two", "blocks must be an integer"),
        ("gpt:blocks=" + "9" * 5000, "blocks must be an integer"),
        ("gpt:tied=yes", "tied must be true or false, but got 'yes'"),
        ("gpt:width=250,heads=4", "width must be a multiple of heads"),
        ("cnn:channels=9", "channels must be a multiple of 8"),
    ],
)
def test_a_bad_field_is_refused(name: str, problem: str, tmp_path: Path) -> None:
    assert problem in refusal(name, tmp_path)


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ({"global_batch_size": 0}, "the global batch must be at least 1, but got 0"),
        ({"seq_len": -1}, "the sequence length must be at least 1, but got -1"),
        ({"seq_len": 10_000}, "seq_len=10000 needs 10001 tokens"),
    ],
)
def test_a_bad_option_is_refused(option: dict[str, Any], problem: str, tmp_path: Path, text: Path) -> None:
    assert problem in refusal("gpt", tmp_path, data=text, **option)


# -- entry points

EXTENSION = """
from harness.workloads.gpt import Gpt
from harness.workloads.data import load

def wide(request):
    data = load(request.data, cache=request.cache, seq_len=8)
    return Gpt(name=request.name, data=data, global_batch_size=2, seq=8, heads=2, blocks=1, **request.parsed(width=int))
"""


@pytest.fixture
def extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "extension-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extension\nVersion: 1.0\n")
    points = "[harness.workloads]\nwide-gpt = extension_of_a_test:wide\nbroken = no_such_module_anywhere:x\n"
    (info / "entry_points.txt").write_text(points)
    (info.parent / "extension_of_a_test.py").write_text(EXTENSION)
    monkeypatch.syspath_prepend(info.parent)


@pytest.mark.usefixtures("extension")
def test_a_workload_of_another_package_is_created_by_its_name(tmp_path: Path, text: Path) -> None:
    assert "wide-gpt" in names()
    workload = make("wide-gpt:width=64", tmp_path, data=text)
    assert isinstance(workload, Gpt)
    assert (workload.name, workload.width) == ("wide-gpt", 64)


@pytest.mark.usefixtures("extension")
def test_a_workload_that_cannot_be_loaded_says_where_it_is(tmp_path: Path) -> None:
    assert "the workload broken cannot be loaded from no_such_module_anywhere:x" in refusal("broken", tmp_path)


def test_a_request_parses_its_fields_by_type(tmp_path: Path) -> None:
    request = Request(
        name="x", fields={"a": "3", "b": "false"}, data=None, field="text", tokenizer=None, cache=tmp_path,
        global_batch_size=None, seq_len=None, seed=0,
    )  # fmt: skip
    assert request.parsed(a=int, b=bool, c=int) == {"a": 3, "b": False}


def test_naming_the_workloads_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, harness.workloads as w; w.names(); print({'torch', 'numpy'} & set(sys.modules))"
    root = Path(workloads.__file__).parents[2]
    printed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert printed.stdout == "set()\n"
