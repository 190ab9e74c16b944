"""Models of transformers as workloads: what is derived, drawn, read and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import HarnessError, InputError
from harness.workloads import create
from harness.workloads.hf import Hf
from harness.workloads.minis import MINIS
from strategies.cross_entropy import IGNORED
from strategies.facts import Split
from tests.families import FAMILIES, VOCABULARY, written

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")


def made(folder: Path, family: str, fields: str = "", **options: Any) -> Hf:
    """The workload of a family, prepared."""
    written(family, folder)
    workload = create(f"hf:{folder / family}{fields}", cache=folder / "cache", **options)
    assert isinstance(workload, Hf)
    workload.prepare()
    return workload


def tokenizer(folder: Path, vocabulary: int = 200) -> Path:
    """A tokenizer of bytes and a few merges, that puts a token before and after each text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    codec = Tokenizer(models.BPE(unk_token="[UNK]"))
    codec.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    codec.train_from_iterator(["a line of text, another line", "and so on and on"], trainer)
    codec.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    path = folder / "tokenizer.json"
    codec.save(str(path))
    return path


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    """A .jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# -- values


@pytest.mark.parametrize("family", FAMILIES)
def test_initial_values_are_drawn_as_transformers_draws_them(family: str, tmp_path: Path) -> None:
    workload = made(tmp_path, family)
    auto: Any = getattr(transformers, {"causal-lm": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM"}.get(
        workload.task, "AutoModelForImageClassification" if family == "vit" else "AutoModelForSequenceClassification"
    ))  # fmt: skip
    theirs = auto.from_config(transformers.AutoConfig.for_model(**json.loads(workload.config)))
    for name, expected in theirs.named_parameters():
        value = workload.initial(name, tuple(expected.shape), CPU)
        assert value.shape == expected.shape
        if expected.ndim == 2:  # an embedding's row of padding is zero
            assert torch.equal((value == 0).all(1), (expected == 0).all(1)), name
        if expected.numel() > 1000 and expected.std() > 0:
            assert float(value.std()) == pytest.approx(float(expected.std()), rel=0.15), name
        elif expected.std() == 0 or expected.numel() == 1:
            torch.testing.assert_close(value, expected.detach(), rtol=0, atol=0)


def test_a_value_depends_on_seed_and_name_alone(tmp_path: Path) -> None:
    name, shape = "model.layers.3.mlp.up_proj.weight", (101, 48)
    first, again, other = (made(tmp_path, "llama", seed=seed).initial(name, shape, CPU) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(5)  # of the process
    before = torch.rand(3)
    torch.manual_seed(5)
    made(tmp_path, "llama").initial(name, shape, CPU)
    assert torch.equal(torch.rand(3), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_pretrained_values_are_those_that_transformers_loads(family: str, tmp_path: Path) -> None:
    workload = made(tmp_path, family)
    model = workload.build()
    auto: Any = type(model).__mro__[1]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = auto(transformers.AutoConfig.for_model(**json.loads(workload.config)))
    theirs.save_pretrained(tmp_path / family)
    loaded = auto.from_pretrained(tmp_path / family)
    trained = create(f"hf:{tmp_path / family},weights=pretrained", cache=tmp_path)
    trained.prepare()
    assert isinstance(trained, Hf)
    assert (trained.converted is not None) == (family in ("mixtral", "gpt-neox", "vit"))  # by names of their own
    assert trained.workload_id != workload.workload_id
    for name, expected in loaded.named_parameters():
        assert torch.equal(trained.initial(name, tuple(expected.shape), CPU), expected.detach()), name


def test_a_head_that_a_checkpoint_lacks_is_drawn(tmp_path: Path) -> None:
    workload = made(tmp_path, "bert")
    config = transformers.AutoConfig.for_model(**json.loads(workload.config))
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    loaded = create(f"hf:{tmp_path / 'bert'},weights=pretrained,task=sequence-classification", cache=tmp_path)
    assert isinstance(loaded, Hf)
    assert {"classifier.weight", "bert.encoder.layer.0.output.dense.weight"} & loaded.weights.keys() == {
        "bert.encoder.layer.0.output.dense.weight"
    }
    assert torch.equal(
        loaded.initial("classifier.weight", (3, 48), CPU), workload.initial("classifier.weight", (3, 48), CPU)
    )


def test_a_checkpoint_of_another_head_leaves_its_own_out(tmp_path: Path) -> None:
    workload = made(tmp_path, "bert")
    config = transformers.AutoConfig.for_model(**json.loads(workload.config))
    theirs = transformers.BertForMaskedLM(config)
    theirs.save_pretrained(tmp_path / "bert")
    loaded = create(f"hf:{tmp_path / 'bert'},weights=pretrained,task=sequence-classification", cache=tmp_path)
    loaded.prepare()
    name = "bert.encoder.layer.4.output.dense.weight"
    assert torch.equal(loaded.initial(name, (48, 99), CPU), theirs.get_parameter(name).detach())
    head = ("classifier.weight", (3, 48), CPU)
    assert torch.equal(loaded.initial(*head), workload.initial(*head))


# -- what is derived


def test_identity_covers_the_model_and_not_the_version_that_wrote_it(tmp_path: Path) -> None:
    first = made(tmp_path, "llama")
    written("llama", tmp_path, transformers_version="4.0", _name_or_path="elsewhere", dtype="bfloat16")
    same = create(f"hf:{tmp_path / 'llama'}", cache=tmp_path)
    written("llama", tmp_path, rope_theta=5000.0)
    other = create(f"hf:{tmp_path / 'llama'}", cache=tmp_path)
    assert first.workload_id == same.workload_id != other.workload_id


def test_what_follows_the_blocks_is_the_classifier_alone(tmp_path: Path) -> None:
    facts = made(tmp_path, "vit").facts()
    assert {"vit.embeddings", "vit.embeddings.patch_embeddings.projection"} <= set(facts.stem)  # one in the other
    assert facts.head_flops == 2 * 48 * 10


def test_dropout_is_set_to_zero_and_said(tmp_path: Path) -> None:
    workload = made(tmp_path, "gpt-neox")
    assert workload.dropped == ("classifier_dropout", "hidden_dropout")
    assert {m.p for m in workload.build().modules() if isinstance(m, torch.nn.Dropout)} <= {0.0}
    assert made(tmp_path, "llama").dropped == ()


def test_dropout_can_be_kept_wherever_the_model_drops(tmp_path: Path) -> None:
    kept = made(tmp_path, "bert", ",keep_dropout=true")
    assert kept.dropped == ()
    assert kept.workload_id != made(tmp_path, "bert").workload_id
    layer = "bert.encoder.layer.0."
    assert {name: shapes for name, shapes in kept.survey.kept.items() if name.startswith(layer)} == {
        f"{layer}attention.self": ((1, 6, kept.seq_len, kept.seq_len),),
        f"{layer}attention.output.dropout": ((1, kept.seq_len, 48),),
        f"{layer}output.dropout": ((1, kept.seq_len, 48),),
    }
    written("bart", tmp_path, encoder_layerdrop=0.1)
    with pytest.raises(InputError, match=r"skips whole layers at random \(encoder_layerdrop\)"):
        create(f"hf:{tmp_path / 'bart'},keep_dropout=true", cache=tmp_path)


def test_blocks_can_be_named_by_a_pattern(tmp_path: Path) -> None:
    workload = made(tmp_path, "bert", ",blocks=bert.encoder.layer.[12]")
    assert workload.facts().blocks == ("bert.encoder.layer.1", "bert.encoder.layer.2")
    assert workload.workload_id == made(tmp_path, "bert").workload_id
    for pattern, sentence in (("layer.*", "matches no module of the model"), ("0", "a number from 1, or a pattern")):
        with pytest.raises(InputError, match=sentence):
            made(tmp_path, "bert", f",blocks={pattern}")


def test_fewer_blocks_and_a_task_can_be_asked_for(tmp_path: Path) -> None:
    workload = made(tmp_path, "qwen3", ",blocks=2,task=sequence-classification")
    assert (workload.name, len(workload.facts().blocks)) == ("qwen3-blocks2", 2)
    assert workload.facts().outputs == (2,)
    assert (workload.predictions, workload.global_batch_size) == (1.0, 64)


def test_facts_are_those_of_the_configuration(tmp_path: Path) -> None:
    facts = made(tmp_path, "llama", seq_len=32).facts()
    assert (facts.heads, facts.kv_heads, facts.head_dim, facts.width, facts.hidden) == (6, 2, 8, 48, 101)
    assert (facts.stem, facts.stream, facts.outputs) == (("model.embed_tokens",), (32, 48), (32, VOCABULARY))
    assert facts.tensor_parallel["model.layers.0.self_attn.k_proj"] is Split.COLUMN_HEADS
    assert facts.tensor_parallel["lm_head"] is Split.VOCAB
    assert (facts.head, facts.attention[:2]) == ("lm_head", ("sdpa", "eager"))
    heads = {family: made(tmp_path, family).facts().head for family in ("gpt2", "bart", "bert")}
    assert heads == {"gpt2": "lm_head", "bart": "", "bert": ""}  # a buffer is added, and classes are no tokens
    assert facts.sequence_parallel
    # 6 FLOPs a token for each weight of the products, and 12 L D a block for attention over all pairs of tokens.
    matrices = 5 * (48 * 48 * 2 + 2 * 48 * 16 + 3 * 48 * 101) + 48 * VOCABULARY
    assert made(tmp_path, "llama", seq_len=32).survey.flops == 32 * (6 * matrices + 5 * 12 * 32 * 48)


def test_experts_that_a_token_does_not_have_are_not_counted(tmp_path: Path) -> None:
    one, experts = (made(tmp_path, family, seq_len=16).survey.flops for family in ("llama", "mixtral"))
    router, second = 48 * 4, 3 * 48 * 101
    assert experts - one == 16 * 6 * 5 * (router + second)  # two of four, of the size of llama's feed-forward


# -- data


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_depend_on_step_and_index_alone(family: str, tmp_path: Path) -> None:
    workload = made(tmp_path, family, seq_len=None if family == "vit" else 16)
    whole, alone = workload.samples(3, np.arange(6)), workload.samples(3, np.array([4]))
    assert {*workload.inputs, "labels"} == whole.keys()
    assert all(torch.equal(whole[name][4:5], alone[name]) for name in whole)
    assert not torch.equal(whole[workload.inputs[0]], workload.samples(4, np.arange(6))[workload.inputs[0]])


def test_labelled_texts_are_padded_and_their_classes_may_have_names(tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", {"text": "a line", "label": "class 2"}, {"text": "and so on and on", "label": 1})
    options = {"data": data, "tokenizer": tokenizer(tmp_path), "seq_len": 12}
    workload = made(tmp_path, "bert", **options)
    batch = workload.samples(0, np.arange(16))
    assert set(batch["labels"].tolist()) == {1, 2}
    lengths = batch["attention_mask"].sum(1)
    assert len(set(lengths.tolist())) == 2
    assert torch.equal(batch["input_ids"] * (1 - batch["attention_mask"]), torch.zeros_like(batch["input_ids"]))
    assert all(row[0] == 1 and row[n - 1] == 2 for row, n in zip(batch["input_ids"], lengths, strict=True))


def test_a_file_of_csv_has_no_numbers_and_its_classes_are_read_as_such(tmp_path: Path) -> None:
    data = tmp_path / "d.csv"
    data.write_text("text,label\na line,2\nand so on,class 1\n")
    workload = made(tmp_path, "bert", data=data, tokenizer=tokenizer(tmp_path), seq_len=12)
    assert set(workload.samples(0, np.arange(16))["labels"].tolist()) == {1, 2}


def test_models_that_number_their_classes_otherwise_share_no_prepared_data(tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", {"text": "a line", "label": "class 2"})
    options = {"data": data, "tokenizer": tokenizer(tmp_path), "seq_len": 12}
    first = made(tmp_path, "bert", **options).samples(0, np.arange(1))["labels"]
    written("bert", tmp_path, id2label={"0": "class 2", "1": "class 1"})
    other = create(f"hf:{tmp_path / 'bert'}", cache=tmp_path / "cache", **options)
    other.prepare()
    assert (first.tolist(), other.samples(0, np.arange(1))["labels"].tolist()) == ([2], [0])


def test_a_folder_may_be_called_as_a_small_model_is(tmp_path: Path) -> None:
    written("bert", tmp_path).rename(tmp_path / "bert-mini")
    workload = create(f"hf:{tmp_path / 'bert-mini'}", cache=tmp_path)
    assert isinstance(workload, Hf)
    assert workload.examples.description == "tokens drawn at random"


def test_a_decoder_is_given_what_it_has_predicted(tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", {"source": "a line", "target": "and so on"}, {"source": "on", "target": "a"})
    batch = made(tmp_path, "bart", data=data, tokenizer=tokenizer(tmp_path), seq_len=10).samples(0, np.arange(8))
    labels, given = batch["labels"], batch["decoder_input_ids"]
    assert (given[:, 0] == 2).all()
    assert torch.equal(given[:, 1:], labels[:, :-1].where(labels[:, :-1] != IGNORED, torch.tensor(0)))
    assert (labels == IGNORED).any()


def test_the_class_of_a_word_is_predicted_at_its_first_token(tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", {"tokens": ["another", "xyz"], "labels": [2, 0]})
    workload = made(
        tmp_path, "bert", ",task=token-classification", data=data, tokenizer=tokenizer(tmp_path), seq_len=16
    )
    labels = workload.samples(0, np.array([0]))["labels"][0].tolist()
    assert [label for label in labels if label != IGNORED] == [2, 0]


def test_seven_of_fifty_tokens_are_predicted_and_most_of_them_masked(tmp_path: Path) -> None:
    workload = made(tmp_path, "bert", ",task=masked-lm", seq_len=64)
    batch = workload.samples(0, np.arange(200))
    asked = batch["labels"] != IGNORED
    assert float(asked.float().mean()) == pytest.approx(0.15, abs=0.01)
    assert float((batch["input_ids"][asked] == VOCABULARY - 1).float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float((batch["input_ids"] == batch["labels"])[asked].float().mean()) == pytest.approx(0.1, abs=0.03)
    assert workload.predictions is None


def test_text_is_read_in_windows_by_the_models_tokenizer(tmp_path: Path) -> None:
    written("llama", tmp_path)
    tokenizer(tmp_path / "llama")
    text = tmp_path / "t.txt"
    text.write_text("a line of text, another line and so on and on " * 40)
    batch = made(tmp_path, "llama", data=text, seq_len=16).samples(0, np.arange(4))
    assert torch.equal(batch["input_ids"][:, 1:], batch["labels"][:, :-1])


# -- small models that need no file


@pytest.mark.parametrize("name", MINIS)
def test_a_named_model_needs_no_file(name: str, tmp_path: Path) -> None:
    if name == "vit-mini":
        pytest.importorskip("sklearn")
    workload = create(name, cache=tmp_path / "cache", global_batch_size=8)
    assert isinstance(workload, Hf)
    workload.prepare()
    assert (workload.name, workload.workload_id.rpartition("-")[0]) == (name, name)
    whole, alone = workload.samples(2, np.arange(8)), workload.samples(2, np.array([5]))
    assert all(torch.equal(whole[part][5:6], alone[part]) for part in whole)
    assert 1e5 < workload.facts().parameters < 1e7
    if name == "bert-mini":
        assert 0 <= int(whole["labels"].min()) <= int(whole["labels"].max()) < 8
        assert (whole["input_ids"][:, 0] == 1).all()
    if name == "t5-mini":
        assert (whole["labels"] != IGNORED).any()
        there = whole["attention_mask"].sum() + (whole["labels"] != IGNORED).sum()
        assert workload.real_tokens(2) == there < workload.tokens_per_step
        assert workload.tokens_per_step == whole["input_ids"].numel() + whole["labels"].numel()
    assert create(f"{name}:blocks=2", cache=tmp_path, global_batch_size=8).name == f"{name}-blocks2"


def test_a_named_model_reads_text_as_bytes(tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", {"text": "été", "label": 3})
    workload = create("bert-mini", cache=tmp_path, data=data, global_batch_size=2, seq_len=16)
    workload.prepare()
    batch = workload.samples(0, np.array([0]))
    assert batch["input_ids"][0].tolist() == [1, *(byte + 3 for byte in "été".encode()), 2, *[0] * 9]
    assert batch["labels"].tolist() == [3]
    with pytest.raises(HarnessError, match="takes no tokenizer"):
        create("llama-mini", cache=tmp_path, tokenizer=data)


# -- what is refused


def refusal(workload: str, folder: Path, **options: Any) -> str:
    """The sentence; nothing is written."""
    with pytest.raises(HarnessError) as caught:
        create(workload, cache=folder / "untouched", **options).prepare()
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("nowhere", None, "is no folder, no config.json, and no model in the local cache"),
        ("empty", "", "has no config.json"),
        ("broken", "{", "is not JSON"),
        ("plain", "[1]", "names no model_type"),
        ("unknown", '{"model_type": "marvin"}', "knows no architecture 'marvin'"),
        ("code", '{"model_type": "marvin", "auto_map": {"AutoConfig": "m.C"}}', "wants code from its own folder"),
        ("aimless", '{"model_type": "llama"}', "names no architecture, which tells no task; add task="),
        ("odd", json.dumps({**FAMILIES["llama"], "num_attention_heads": "six"}), "transformers refuses"),
    ],
)
def test_a_model_that_cannot_be_made_is_refused(name: str, content: str | None, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).mkdir()
        if content:
            (tmp_path / name / "config.json").write_text(content)
    found = refusal(f"hf:{tmp_path / name}", tmp_path)
    assert sentence in found
    assert "\n" not in found
    assert not (tmp_path / "untouched").exists()


@pytest.mark.parametrize(
    ("family", "fields", "options", "sentence"),
    [
        ("llama", ",task=poetry", {}, "task must be one of causal-lm"),
        ("llama", ",weights=good", {}, "weights must be random or pretrained"),
        ("llama", ",weights=pretrained", {}, "has no weights in safetensors files"),
        ("llama", ",colour=red", {}, "unknown field of workload hf 'colour'"),
        ("llama", ",lora=4,lora_targets=nothing", {}, "lora_targets=nothing"),
        ("llama", ",lora=4,load=8bit", {}, "load must be 4bit, but got '8bit'"),
        ("llama", ",load=4bit", {}, "so that adapters are trained: add lora=16"),
        ("mixtral", ",lora=4,load=4bit", {}, "but they are only "),
        (
            "llama",
            ",blocks=1,lora=4,load=4bit",
            {},
            "of repeated blocks, of which llama-blocks1-load4bit-lora4 has none",
        ),
        ("gpt2", "", {"seq_len": 65}, "a sample of 65 tokens is longer than the model's 64 positions"),
        ("llama", "", {"data": "d.txt"}, "has no tokenizer.json for the text of --data"),
        ("llama", "", {"data": "nowhere.txt", "tokenizer": "t"}, "the tokenizer file"),
        ("vit", "", {"seq_len": 5}, "pictures have no tokens, but a length of 5 was asked for"),
        ("vit", ",max_length=5", {}, "pictures have no tokens, but a length of 5 was asked for"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    family: str, fields: str, options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    paths = {name: tmp_path / value if isinstance(value, str) else value for name, value in options.items()}
    assert sentence in refusal(f"hf:{written(family, tmp_path)}{fields}", tmp_path, **paths)


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    workload = made(tmp_path, "llama")
    model = transformers.LlamaForCausalLM(transformers.AutoConfig.for_model(**json.loads(workload.config)))
    model.save_pretrained(tmp_path / "llama")
    written("llama", tmp_path, intermediate_size=99)
    assert "does not fit the configuration" in refusal(f"hf:{tmp_path / 'llama'},weights=pretrained", tmp_path)
    (tmp_path / "llama" / "model.safetensors.index.json").write_text("[]")
    assert "does not say in which files" in refusal(f"hf:{tmp_path / 'llama'},weights=pretrained", tmp_path)
    (tmp_path / "llama" / "model.safetensors.index.json").unlink()
    (tmp_path / "llama" / "model.safetensors").write_bytes(b"nonsense")
    assert "is not a readable safetensors file" in refusal(f"hf:{tmp_path / 'llama'},weights=pretrained", tmp_path)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"text": "a"}, "has no field 'label'"),
        ({"text": "a", "label": 3}, "the classes of the model's configuration are 0 to 2"),
        ({"text": "a", "label": "class 9"}, "is 'class 9', but the classes"),
        ({"text": "a", "label": 1.5}, "must hold a class, a whole number or a name, but holds float"),
        ({"text": 5, "label": 1}, "must hold text, but holds int"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_their_line(row: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", {"text": "a line", "label": 0}, row)
    found = refusal(f"hf:{written('bert', tmp_path)}", tmp_path, data=data, tokenizer=tokenizer(tmp_path))
    assert sentence in found
    assert "line 2 of " in found


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", {"text": "a line", "label": 0})
    model = written("bert", tmp_path, vocab_size=20)
    found = refusal(f"hf:{model}", tmp_path, data=data, tokenizer=tokenizer(tmp_path))
    assert "is the tokenizer of another vocabulary" in found


@pytest.mark.parametrize(("family", "blocks"), [("llama", 2), ("mixtral", 2), ("t5", 4)])
def test_a_twin_is_the_same_model_with_fewer_blocks(family: str, blocks: int, tmp_path: Path) -> None:
    whole = made(tmp_path, family)
    twin = whole.shallow(2)
    assert (len(twin.facts().blocks), len(whole.facts().blocks)) == (blocks, 5 * blocks // 2)
    assert twin.workload_id != whole.workload_id
    shapes = {name: tuple(p.shape) for name, p in whole.build().named_parameters()}
    for name, parameter in twin.build().named_parameters():
        assert shapes[name] == tuple(parameter.shape)
        assert torch.equal(*(w.initial(name, shapes[name], CPU) for w in (whole, twin)))
