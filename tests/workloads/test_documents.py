"""Documents for causal language models: what of them is learned, how they are packed, and what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import HarnessError, InputError
from harness.workloads import create, hf_model
from harness.workloads.hf import Hf
from strategies.cross_entropy import IGNORED, cross_entropy
from tests.families import FAMILIES, written

pytest.importorskip("transformers")
pytest.importorskip("jinja2")

PLAIN = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"  # noqa: E501
MARKED = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}</>{% endfor %}"  # noqa: E501
TALK = [
    {"role": "user", "content": "ab"},
    {"role": "assistant", "content": "cd"},
    {"role": "user", "content": "e"},
    {"role": "assistant", "content": "fgh"},
]


def bytes_tokenizer(folder: Path) -> None:
    """A token for each byte of ASCII."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    codec = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(alphabet())}, merges=[]))
    codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    codec.decoder = decoders.ByteLevel()
    codec.save(str(folder / "tokenizer.json"))


def alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def spoken(ids: torch.Tensor) -> str:
    return "".join(alphabet()[int(one)] for one in ids)


def made(
    folder: Path,
    rows: list[dict[str, Any]],
    fields: str = "",
    family: str = "llama",
    template: str = "",
    eos: int | list[int] = 256,
    **options: Any,
) -> Hf:
    """The workload on these rows, not prepared. The token after a document is 256."""
    model = written(family, folder, eos_token_id=eos, pad_token_id=255)
    bytes_tokenizer(model)
    if template:
        (model / "chat_template.jinja").write_text(template)
        (model / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "^"}}))
    data = folder / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    workload = create(f"hf:{model}{fields}", cache=folder / "cache", data=data, **{"seq_len": 64, **options})
    assert isinstance(workload, Hf)
    return workload


@pytest.mark.parametrize(
    ("template", "learned"), [(PLAIN, ["cd</>", "fgh</>"]), (MARKED, ["cd", "fgh"])], ids=["prefixes", "marks"]
)
def test_only_what_the_assistant_says_is_learned(template: str, learned: list[str], tmp_path: Path) -> None:
    workload = made(tmp_path, [{"messages": TALK}], field="messages", template=template)
    workload.prepare()
    batch = workload.samples(0, np.array([0]))
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    kept = labels != IGNORED
    assert spoken(labels[kept]) == "".join(learned)
    assert torch.equal(labels[:-1][kept[:-1]], ids[1:][kept[:-1]])
    assert spoken(ids[ids != 255]).startswith(("^<user>ab</><assistant>cd", "<user>ab</><assistant>cd"))
    assert workload.predictions is None
    assert workload.real_tokens(0) == 8 * int((ids != 255).sum())


def test_of_a_pair_the_second_text_is_learned(tmp_path: Path) -> None:
    workload = made(tmp_path, [{"source": "abc", "target": "de"}], field="source,target", seq_len=8)
    workload.prepare()
    batch = workload.samples(0, np.array([0]))
    assert spoken(batch["input_ids"][0, :5]) == "abcde"
    labels = batch["labels"][0].tolist()
    assert labels[:2] + labels[5:] == [IGNORED] * 5
    assert (spoken(torch.tensor(labels[2:4])), labels[4]) == ("de", 256)


def test_documents_that_cannot_be_learned_are_left_out_and_said(tmp_path: Path) -> None:
    rows = [{"source": "a" * 20, "target": "b"}, {"source": "a", "target": "b"}]
    workload = made(tmp_path, rows, field="source,target", seq_len=8)
    workload.prepare()
    assert ((workload.samples(0, np.arange(8))["labels"] != IGNORED).sum(1) == 2).all()
    assert workload.notes == ("1 of 2 documents have nothing to learn within 8 tokens and are left out",)
    with pytest.raises(HarnessError, match="nothing to learn within 8 tokens: what is given is longer everywhere"):
        made(tmp_path, rows[:1], field="source,target", seq_len=8).prepare()


@pytest.mark.parametrize("family", sorted(hf_model.PACKING))
def test_packed_documents_are_computed_as_rows_of_their_own(family: str, tmp_path: Path) -> None:
    words = ["on and on", "a line", "x", "another line of text, longer than a row of sixteen tokens", "the end"] * 3
    workload = made(tmp_path, [{"text": word} for word in words], ",packing=true", family, seq_len=16)
    workload.prepare()
    batch = workload.samples(0, np.arange(6))
    assert workload.inputs == ("input_ids", "position_ids")
    assert (batch["position_ids"] == 0).sum() > 6
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = hf_model.make(workload.config, "causal-lm", None)
    hf_model.adapted(model, workload.inputs)
    with torch.no_grad():
        together = cross_entropy(model(batch["input_ids"], batch["position_ids"]), batch["labels"])
        apart, documents = torch.zeros(()), 0
        for ids, positions, labels in zip(batch["input_ids"], batch["position_ids"], batch["labels"], strict=True):
            starts = [*torch.where(positions == 0)[0].tolist(), 16]
            for begin, end in itertools.pairwise(starts):
                one = model(ids[None, begin:end], torch.arange(end - begin)[None])
                apart += cross_entropy(one, labels[None, begin:end])
                documents += 1
        blurred = cross_entropy(model(batch["input_ids"], torch.arange(16).expand(6, -1)), batch["labels"])
    assert documents > 6
    assert float(together) == pytest.approx(float(apart), rel=1e-5)
    assert abs(float(blurred) / float(apart) - 1) > 1e-4  # or the comparison would see nothing


def test_nothing_is_learned_across_the_end_of_a_document(tmp_path: Path) -> None:
    workload = made(tmp_path, [{"text": "ab"}, {"text": "cde"}] * 8, ",packing=true", seq_len=7)
    workload.prepare()
    row = workload.samples(0, np.array([0]))
    assert workload.examples.predictions is None
    ends = torch.where(row["input_ids"][0] == 256)[0]
    assert (row["labels"][0, ends] == IGNORED).all()
    assert workload.real_tokens(0) is None


def test_how_documents_are_laid_out_is_part_of_the_workload(tmp_path: Path) -> None:
    rows = [{"text": "a line of text"}] * 20
    ids = {made(tmp_path, rows, fields, seq_len=8).workload_id for fields in ("", ",packing=true", ",padding=fixed")}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        ([{"text": "a"}], {"field": "messages"}, "has no field 'messages'; its fields are text"),
        ([{"messages": TALK}], {"field": "messages", "template": ""}, "has no chat template for messages: put one"),
        ([{"messages": TALK}, {"messages": "hi"}], {"field": "messages"}, "must be a list of messages .* but is str"),
        ([{"messages": TALK}, {"messages": []}], {"field": "messages"}, "but is an empty list"),
        ([{"messages": [{"role": "user"}]}], {"field": "messages"}, "message 1 of .* has no 'content'; it has role"),
        ([{"messages": ["hi"]}], {"field": "messages"}, "message 1 of .* must be an object, but is of type str"),
        ([{"messages": TALK[:1]}], {"field": "messages"}, "no message has the role 'assistant', only user"),
        (
            [{"messages": [{"role": "wizard", "content": "x"}, *TALK]}],
            {"field": "messages", "template": "{{ raise_exception('no such role') }}"},
            "refuses line 1 of .*: no such role",
        ),
        (
            [{"messages": TALK}],
            {
                "field": "messages",
                "template": "{{ messages | length }}{{ messages[-1].content }}",
            },
            "writes the beginning of a conversation otherwise",
        ),
        ([{"text": "a"}, {"text": 3}], {"fields": ",packing=true"}, "field 'text' in line 2 of .* but holds int"),
        ([], {}, "is empty"),
        ([{"text": "abc"}], {}, "is shorter than one sample: 65 tokens are needed, but it has 4"),
        ([{"text": "abc"}], {"fields": ",packing=true"}, "is shorter than one sample: 64 tokens"),
        ([{"text": "abc"}], {"seq_len": 65}, "a sample of 65 tokens is longer than the model's 64 positions"),
        ([{"text": "abc"}], {"fields": ",padding=odd"}, "padding must be fixed, but got 'odd'"),
        (
            [{"text": "abc"}],
            {"fields": ",padding=buckets"},
            "padding=buckets is refused: its steps have unequal widths",
        ),
        (
            [{"text": "abc", "label": 1}],
            {"fields": ",padding=buckets", "family": "bert", "field": "text,label"},
            "padding=buckets is refused: its steps have unequal widths",
        ),
        ([{"text": "abc"}], {"fields": ",packing=true", "family": "opt"}, "models of type opt are not known to keep"),
        ([{"text": "abc"}], {"fields": ",padding=fixed,task=masked-lm"}, "padding=fixed is for causal-lm"),
        ([{"text": "abc"}], {"field": "a,b,c"}, "causal-lm needs one field of text or messages, or two of text"),
    ],
)
def test_what_does_not_fit_is_refused(
    rows: list[dict[str, Any]], options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(HarnessError, match=sentence) as caught:
        made(tmp_path, rows, **{"template": PLAIN, **options}).prepare()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [",packing=true", ",padding=fixed"])
def test_a_layout_of_text_that_is_not_there_is_refused(fields: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="packing and padding say how language models read the text of --data"):
        create(f"hf:{written('llama', tmp_path)}{fields}", cache=tmp_path, seq_len=16)


def test_of_several_ends_the_first_is_learned(tmp_path: Path) -> None:
    workload = made(tmp_path, [{"source": "abc", "target": "de"}], field="source,target", eos=[256, 3])
    workload.prepare()
    labels = workload.samples(0, np.array([0]))["labels"][0]
    assert labels[labels != IGNORED][-1] == 256


def test_every_family_that_packs_is_one_of_the_tested() -> None:
    assert {str(one["model_type"]) for one in FAMILIES.values()} >= hf_model.PACKING
