"""A file of the user's own: what is derived, and what is refused in one sentence."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import workloads
from harness.errors import InputError, StoreError
from harness.workloads import create
from harness.workloads.own import File, Own
from strategies import dropout as dropping

EXAMPLE = Path(__file__).parents[1] / "example_model" / "mixer.py"
SMALL = """
import torch
from torch import nn
from harness.workloads.own import TorchWorkload
from strategies.facts import Split

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = {second}
    def forward(self, x):
        return self.b(self.a(x))

def batch(step, indices):
    rows = torch.from_numpy(indices).float()
    return {batch}

def loss(outputs, batch):
    return {loss}

def workload():
    return {returned}
"""
GOOD = {
    "second": "nn.Linear(4, 2)",
    "batch": "(rows[:, None] * torch.ones(3), rows.long() % 2)",
    "loss": "(nn.functional.cross_entropy(outputs, batch['y'], reduction='sum'), len(batch['y']))",
    "returned": "TorchWorkload(model=Net, batch=batch, loss=loss)",
}


def make(path: Path, text: str, cache: Path) -> Own:
    path.write_text(text, encoding="latin-1")
    workload = create(f"{path}:workload", cache=cache)
    assert isinstance(workload, Own)
    assert not cache.exists()
    return workload


def example(tmp_path: Path, **options: Any) -> Own:
    workload = create(f"{EXAMPLE}:workload", cache=tmp_path / "cache", **options)
    assert isinstance(workload, Own)
    return workload


def test_what_is_derived_of_the_example(tmp_path: Path) -> None:
    workload = example(tmp_path)
    facts = workload.facts()
    assert facts.blocks == tuple(f"layers.{i}" for i in range(5))
    assert facts.parameters == sum(p.numel() for p in workload.build().parameters())
    assert workload.inputs == ("images",)
    assert workload.survey.unused == ("left_over.weight", "left_over.bias")
    # By hand, of matrices alone: forward, and twice as much backward but for the gradient of the images.
    forward = 2 * (8 * 8 * 48 + 5 * (48 * 8 * 8 + 2 * 8 * 48 * 67) + 48 * 5)
    assert workload.survey.flops == 3 * forward - 2 * 8 * 8 * 48
    assert workload.flops_per_step() == 16 * workload.survey.flops


def test_what_is_unused_is_frozen_and_dropout_is_off(tmp_path: Path) -> None:
    model = example(tmp_path).build()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"left_over.weight", "left_over.bias"}
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


DROPPING = """
import torch
from torch import nn
from harness.workloads.own import TorchWorkload

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(4, 8), BODY, nn.Linear(8, 2)

    def forward(self, x):
        return self.head(FORWARD)

def workload():
    rows = lambda step, indices: (torch.from_numpy(indices)[:, None, None] + torch.ones(1, 3, 4) * step, )
    return TorchWorkload(model=Net, batch=rows, loss=lambda out, batch: (out.square().sum(), out.numel()))
"""


def test_dropout_that_is_kept_is_another_workload_with_the_same_values(tmp_path: Path) -> None:
    off, kept = example(tmp_path), example(tmp_path, keep_dropout=True)
    assert off.workload_id != kept.workload_id
    assert off.values == kept.values
    assert kept.workload_id == create(f"{EXAMPLE}:workload,keep_dropout=true", cache=tmp_path / "cache").workload_id
    assert (off.facts().keeps_dropout, kept.facts().keeps_dropout, kept.dropped) == (False, True, ())
    assert tuple(kept.survey.kept) == tuple(f"layers.{i}.dropout" for i in range(5))
    model = kept.build()
    images = kept.samples(0, np.arange(4))["images"]

    def at_step(step: int) -> torch.Tensor:
        with dropping.at(dropping.Place(step=step, first=0, samples=4)):
            return model(images)  # type: ignore[no-any-return]

    assert torch.equal(at_step(1), at_step(1))
    assert not torch.equal(at_step(1), at_step(2))


@pytest.mark.parametrize(
    ("body", "forward", "sentence"),
    [
        (
            "nn.MultiheadAttention(8, 2, dropout=0.1)",
            "self.body(*[self.stem(x)] * 3)[0]",
            "body draws its masks inside",
        ),
        ("nn.LSTM(8, 8, 2, dropout=0.1)", "self.body(self.stem(x))[0]", "body draws its masks inside a kernel"),
        ("nn.AlphaDropout(0.1)", "self.body(self.stem(x))", "body draws its masks inside alpha_dropout"),
        (
            "nn.Dropout(0.1)",
            "self.body(self.stem(x).transpose(0, 1))",
            "samples are not the first dimension of what body",
        ),
        ("nn.Dropout(0.0)", "self.body(self.stem(x))", "nothing in the model drops; leave it out"),
    ],
)
def test_dropout_that_cannot_be_kept_is_said(body: str, forward: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "dropping.py"
    file.write_text(DROPPING.replace("BODY", body).replace("FORWARD", forward))
    with pytest.raises(InputError, match=sentence):
        create(f"{file}:workload", cache=tmp_path, keep_dropout=True)


def test_blocks_may_be_named_after_the_file(tmp_path: Path) -> None:
    workload = create(f"{EXAMPLE}:workload,blocks=layers.[0-3]", cache=tmp_path)
    assert workload.facts().blocks == tuple(f"layers.{i}" for i in range(4))
    assert workload.workload_id == example(tmp_path).workload_id  # the same is trained
    with pytest.raises(InputError, match=r"blocks='towers.\*' matches no module of the model"):
        create(f"{EXAMPLE}:workload,blocks=towers.*", cache=tmp_path)


def test_values_are_those_of_the_constructor_after_the_seed(tmp_path: Path) -> None:
    workload = example(tmp_path, seed=7)
    workload.prepare()
    torch.manual_seed(7)
    for name, expected in workload.asked.model().named_parameters():
        assert torch.equal(workload.initial(name, tuple(expected.shape), torch.device("cpu")), expected), name


def test_a_rank_gets_it_pickled(tmp_path: Path) -> None:
    workload = example(tmp_path)
    again = pickle.loads(pickle.dumps(workload))
    assert again.workload_id == workload.workload_id
    indices = np.arange(3)
    assert torch.equal(again.samples(5, indices)["images"], workload.samples(5, indices)["images"])


def test_another_file_is_another_workload(tmp_path: Path) -> None:
    first = make(tmp_path / "one.py", SMALL.format(**GOOD), tmp_path / "cache")
    (tmp_path / "two").mkdir()
    wider = {**GOOD, "second": "nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 2))"}
    second = make(tmp_path / "two" / "one.py", SMALL.format(**wider), tmp_path / "cache")
    assert first.name == second.name == "one"
    assert first.workload_id != second.workload_id


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"second": "nn.BatchNorm1d(4)"}, "b normalises over its micro-batch"),
        ({"second": "nn.Linear(5, 2)"}, "line 13 (return self.b(self.a(x))) raised RuntimeError"),
        ({"batch": "(torch.rand(len(rows), 3), rows.long())"}, "in step 0 two calls with the same indices differ"),
        ({"batch": "(rows[:, None] * rows.sum() * torch.ones(3), rows.long() % 2)"}, "when it is asked for alone"),
        ({"batch": "rows"}, "batch must return a mapping of tensors or (x, y), but returned Tensor"),
        ({"batch": "(torch.ones(3), rows.long())"}, "must be [32, ...], but x is [3]"),
        ({"batch": "{'z': rows, 'y': rows}"}, "forward takes (x), of which a batch must hold the first ones by name"),
        ({"loss": "outputs.sum()"}, "loss must return (sum over all predictions, their number)"),
        ({"loss": "(outputs.sum(1), 2)"}, "loss must return the sum as a scalar, but its shape is [1]"),
        ({"loss": "(batch['label'].sum(), 2)"}, "raised KeyError: 'label'"),
        (
            {"returned": "TorchWorkload(model=Net, batch=batch, loss=loss, tensor_parallel={'a': Split.VOCAB})"},
            "got vocab",
        ),
        (
            {"returned": "TorchWorkload(model=Net(), batch=batch, loss=loss)"},
            "model must be a function, but is of type Net",
        ),
        (
            {"returned": "TorchWorkload(model=Net, batch=batch, loss=loss, seq_len=0)"},
            "seq_len must be an integer of at",
        ),
        ({"batch": "(torch.ones(len(rows), 3, device='meta'), rows.long())"}, "x is elsewhere"),
        ({"returned": "exit(3)"}, "(return exit(3)) raised SystemExit: 3"),
        ({"returned": "3"}, "workload() must return a TorchWorkload, but returned int"),
        ({"returned": "TorchWorkload(model=Net, batch=batch, loss=loss, blocks='layers.*')"}, "matches no module"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(changed: dict[str, str], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    with pytest.raises(InputError) as caught:
        make(path, SMALL.format(**{**GOOD, **changed}), tmp_path / "cache")
    assert str(caught.value).startswith(str(path))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def workload(:\n", "is not Python: line 1"),
        ("import missing_package_of_mine\n", "line 1 (import missing_package_of_mine) raised ModuleNotFoundError"),
        ("x = 'caf\xe9'\n", "is not Python"),
        ("x = 1\n", "it has no function workload; write def workload(): return TorchWorkload(...)"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        make(tmp_path / "broken.py", text, tmp_path / "cache")
    assert sentence in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        create(f"{tmp_path}/nowhere.py:workload", cache=tmp_path / "cache")


def test_what_it_prints_is_not_mixed_with_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "loud.py", "print('hello')\n" + SMALL.format(**GOOD), tmp_path / "cache")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "hello\n")


def test_forward_may_call_its_argument_as_it_likes(tmp_path: Path) -> None:
    text = SMALL.format(**GOOD).replace("def forward(self, x)", "def forward(self, x, y=None)")
    assert make(tmp_path / "mine.py", text, tmp_path / "cache").inputs == ("x",)


def test_a_constructor_may_compute(tmp_path: Path) -> None:
    text = SMALL.format(**GOOD).replace(
        "self.b =", "self.rates = [r.item() for r in torch.linspace(0, 1, 3)]; self.b ="
    )
    assert make(tmp_path / "mine.py", text, tmp_path / "cache").survey.flops == 2 * (2 * (3 * 4) + 3 * (4 * 2))


def test_a_file_beside_the_harness_is_the_same_workload_whatever_was_imported_before(tmp_path: Path) -> None:
    (tmp_path / "harness").symlink_to(Path(workloads.__file__).parents[1])
    path = tmp_path / "mine.py"
    path.write_text("import harness.workloads.cnn\n" + SMALL.format(**GOOD))
    code = f"from harness.workloads import create; print(create('{path}', cache='{tmp_path}/cache').workload_id)"
    found = {
        subprocess.run(
            [sys.executable, "-c", text + code], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        for text in ("", "import harness.workloads.cnn; ")
    }
    assert len(found) == 1


def test_a_file_that_changes_under_a_sweep_is_not_trained(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    started = make(path, SMALL.format(**GOOD), tmp_path / "cache")
    assert started.predictions is None
    assert isinstance(started.source, File)
    later = replace(started, source=replace(started.source, source_id="another"))  # as a rank that imports it finds it
    with pytest.raises(RuntimeError, match="has changed since the start"):
        _ = later.predictions


def test_a_helper_beside_the_file_is_part_of_the_workload(tmp_path: Path) -> None:
    ids = set()
    for width in (4, 5):
        folder = tmp_path / str(width)
        folder.mkdir()
        (folder / "helper_of_mine.py").write_text(f"WIDTH = {width}\n")
        text = "from helper_of_mine import WIDTH\n" + SMALL.format(**GOOD)
        ids.add(make(folder / "mine.py", text, tmp_path / "cache").workload_id)
        del sys.modules["helper_of_mine"]  # another process starts without it
    assert len(ids) == 2


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written"):
        example(tmp_path).prepare()


def test_options_of_other_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes no seq_len"):
        example(tmp_path, seq_len=8)
