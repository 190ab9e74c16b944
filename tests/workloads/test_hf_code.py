"""Code that a model's folder brings: run where it was asked for, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.workloads import create
from harness.workloads.hf import Hf
from tests.tiny import Laboratory

pytest.importorskip("transformers")

CONFIGURATION = """
from transformers import PretrainedConfig

class Config(PretrainedConfig):
    model_type = "{kind}"

    def __init__(self, vocab_size=61, hidden_size=16, num_hidden_layers=2, **other):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        super().__init__(**other)
"""
MODEL = """
from pathlib import Path
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from .configuration import Config

Path({ran!r}).touch()

class Model(PreTrainedModel):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.stem = nn.Embedding(config.vocab_size, width)
        self.rows = nn.ModuleList(nn.Linear(width, width) for _ in range(config.num_hidden_layers))
        self.head = nn.Linear(width, config.vocab_size)
        self.post_init()

    def forward(self, input_ids):
        x = self.stem(input_ids)
        for row in self.rows:
            x = row(x).tanh()
        return CausalLMOutput(logits=self.head(x))
"""


def brought(tmp_path: Path, kind: str, **changes: object) -> Path:
    """A folder with code of its own, which leaves `ran` behind when it runs."""
    folder = tmp_path / f"folder_{kind}"
    folder.mkdir()
    auto = {"AutoConfig": "configuration.Config", "AutoModelForCausalLM": "model.Model"}
    config = {"model_type": kind, "architectures": ["ModelForCausalLM"], "auto_map": auto, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    (folder / "configuration.py").write_text(CONFIGURATION.format(kind=kind))
    (folder / "model.py").write_text(MODEL.format(ran=str(tmp_path / "ran")))
    return folder


def test_it_is_not_run_unasked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\(configuration.Config\), which is not done unasked.*--trust-remote-code"):
        create(f"hf:{brought(tmp_path, 'unasked')}", cache=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_ranks_run_what_the_parent_ran(tmp_path: Path, laboratory: Laboratory) -> None:
    folder = brought(tmp_path, "trusted")
    workload = create(f"hf:{folder}", cache=tmp_path, trust_remote_code=True, seq_len=16, global_batch_size=8)
    assert isinstance(workload, Hf)
    assert workload.code is not None
    assert workload.identity()["code"] == workload.code.digest
    assert workload.facts().blocks == ("rows.0", "rows.1")
    laboratory.follows({"dp": 2, "data_parallel": "zero3", "micro_batch_size": 2}, workload)
    (folder / "model.py").write_text((folder / "model.py").read_text() + "\nother = 1\n")
    row = laboratory.run({"dp": 2, "micro_batch_size": 4}, workload)
    assert (row["outcome"], "has changed since the start" in row["outcome_reason"]) == ("crash", True)
    with pytest.raises(InputError, match="this process knows 'trusted' by other code already; start a new one"):
        create(f"hf:{folder}", cache=tmp_path, trust_remote_code=True)


@pytest.mark.parametrize(
    ("auto", "sentence"),
    [
        ({"AutoConfig": "else/where--c.C", "AutoModelForCausalLM": "m.M"}, "code of another repository"),
        ({"AutoModelForCausalLM": "m.M"}, "must name AutoConfig and a model, but names AutoModelForCausalLM"),
        (["m.M"], r"must name classes of its folder, but got \['m.M'\]"),
        (
            {"AutoConfig": "configuration.Config", "AutoModelForMaskedLM": "configuration.Config"},
            "names no AutoModelFor",
        ),
    ],
)
def test_what_cannot_be_run_is_said(auto: object, sentence: str, tmp_path: Path) -> None:
    folder = brought(tmp_path, f"refused{abs(hash(sentence))}", auto_map=auto)
    with pytest.raises(InputError, match=sentence):
        create(f"hf:{folder}", cache=tmp_path, trust_remote_code=True)


def test_code_that_raises_is_said_with_its_line(tmp_path: Path) -> None:
    folder = brought(tmp_path, "raising")
    (folder / "model.py").write_text("from .configuration import Config\nraise ValueError('no')\n")
    with pytest.raises(InputError, match=r"its code: line 2 \(raise ValueError\('no'\)\) raised ValueError: no"):
        create(f"hf:{folder}", cache=tmp_path, trust_remote_code=True)
