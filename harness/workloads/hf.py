"""Models of transformers: `--workload hf:PATH`, where PATH is a folder, a config.json, or a name in the local cache."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from harness.errors import InputError
from harness.workloads import hf_model, hf_plans, hf_weights, hollow, pictures, ragged, surveying
from harness.workloads.data import load
from harness.workloads.hf_data import FIELDS, Drawn, Examples, Shown, Texts, Windows, Words, codec_of
from harness.workloads.hf_model import TASKS
from harness.workloads.request import Request
from harness.workloads.rows import existing
from harness.workloads.workload import Workload
from strategies.cross_entropy import cross_entropy, predictions
from strategies.facts import ModelFacts

LENGTH = 128
"""Default tokens of a sample."""


@dataclass(frozen=True, kw_only=True)
class Hf(Workload):
    """The training of a model of transformers for one task."""

    family: ClassVar[str] = "hf"
    metric_name: ClassVar[str | None] = "accuracy"
    initial_values: ClassVar[str] = "transformers' own rule for each parameter, or a checkpoint's"

    config: str
    """The configuration as JSON, dropout set to 0."""
    task: str
    """A key of `TASKS`."""
    examples: Examples
    """Where its samples come from."""
    length: int
    """Tokens of a sample; 1 for pictures."""
    weights: Mapping[str, hf_weights.Place]
    """Parameter -> where its pretrained value is; empty if all are random."""
    lora: hf_model.Lora = hf_model.WITHOUT
    """Its adapters."""
    weights_id: str = ""
    """A hash of the checkpoint."""
    dropout: tuple[str, ...] = ()
    """Fields of the configuration that were set to 0."""
    survey: surveying.Survey | None = None
    """What one pass of the model told; None only until it has been made."""

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return TASKS[self.task].inputs

    @property
    def found(self) -> surveying.Survey:
        """What one pass of the model told."""
        assert self.survey is not None
        return self.survey

    @property
    def seq_len(self) -> int:
        return self.length

    @property
    def predictions(self) -> float | None:
        return self.examples.predictions

    def identity(self) -> dict[str, Any]:
        return {
            **self.common_identity(),
            "config": self.config,
            "task": self.task,
            "length": self.length,
            "data": self.examples.data_id,
            "weights": self.weights_id,
            **({"lora": asdict(self.lora)} if self.lora.rank else {}),
        }

    def prepare(self) -> None:
        self.examples.prepare()

    def facts(self) -> ModelFacts:
        return _facts(self)

    def build(self) -> nn.Module:
        return self.made(None)

    def made(self, attention: str | None) -> nn.Module:
        """The model, with an attention of this name in place of its default.

        Constructors that draw buffers draw them alike on every rank.
        """
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            model = hf_model.make(self.config, self.task, attention).train()
        surveying.without_dropout(model)
        if self.lora.rank:
            hf_model.with_adapters(model, self.lora, self.task)
        if self.survey is not None:
            for name in self.survey.unused:
                model.get_parameter(name).requires_grad_(False)
        return hf_model.adapted(model, self.inputs)

    def initial(self, name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        if ".lora_" in name:
            return hf_model.adapter(name, shape, self.seed, device)
        name = name.replace(".base_layer.", ".")
        if name in self.weights:
            return hf_weights.value(self.weights[name]).to(device)
        return hf_model.initial(hf_model.skeleton(self.config, self.task), name, self.seed, device)

    def samples(self, step: int, indices: np.ndarray) -> Mapping[str, torch.Tensor]:
        return self.examples.samples(step, indices, self.seed)

    def loss(
        self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | float]:
        labels = batch["labels"]
        number = float(labels.numel()) if self.predictions is not None else predictions(labels)
        return cross_entropy(outputs, labels), number

    def metric(
        self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | float] | None:
        """Of classifications; that of a language model would need its whole vocabulary, which a rank may not have."""
        if not self.task.endswith("classification"):
            return None
        right = (outputs.detach().argmax(-1) == batch["labels"]).sum().float()
        return right, predictions(batch["labels"])

    @property
    def note(self) -> str:
        return surveying.dropout_note((*self.dropout, *self.found.dropout))

    def flops_per_step(self) -> float:
        """Those of matrix products, convolutions and attention, forward and backward, as torch's FlopCounterMode counts
        them in one pass over one sample; of experts, those that a token has."""
        return self.found.flops * self.global_batch_size


def create(text: str, fields: Mapping[str, str], request: Request) -> Hf:
    """The workload of a model of transformers, after everything about it that needs no training was tried.

    Args:
        text: path of a folder or of a config.json, or a name in the local cache.
        fields: task, weights, blocks, max_length, lora, lora_targets.
        request: the other options.

    Raises:
        InputError: the model, its data or a field cannot be used.
    """
    given = replace(request, name="hf", fields=fields).parsed(
        task=str, weights=str, blocks=int, max_length=int, lora=int, lora_targets=str
    )
    file = hf_model.located(text)
    written = hf_model.read(file)
    task = hf_model.task_of(written, given.get("task"), file)
    config, dropout = hf_model.canonical(written, given.get("blocks"), file)
    length = _length(config, task, request.seq_len or given.get("max_length"))
    kind = given.get("weights", "random")
    if kind not in ("random", "pretrained"):
        raise InputError(f"weights must be random or pretrained, but got {kind!r}")
    workload = Hf(
        name=_name(file, given),
        seed=request.seed,
        global_batch_size=request.global_batch_size or TASKS[task].batch,
        config=config,
        task=task,
        examples=_examples(config, task, length, file, request),
        length=length,
        weights={},
        dropout=dropout,
        lora=hf_model.Lora(given.get("lora", 0), given.get("lora_targets", "all-linear")),
    )
    workload = replace(workload, survey=_surveyed(workload, file))
    if kind == "pretrained":
        _, shapes = _shapes(workload)
        weights, weights_id = hf_weights.places(file.parent, shapes)
        workload = replace(workload, weights=weights, weights_id=weights_id)
    _check_initial(workload)
    return workload


def _name(file: Path, given: Mapping[str, Any]) -> str:
    stem = file.parent.name if file.name == "config.json" else file.stem
    more = [f"{name}{value}" for name, value in sorted(given.items()) if name in ("blocks", "weights", "lora")]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([stem or "model", *more])).strip("-.") or "model"


def _length(config: str, task: str, asked: int | None) -> int:
    if task == "image-classification":
        return 1
    most = getattr(hf_model.configuration(config), "max_position_embeddings", None)
    if asked is not None and isinstance(most, int) and 0 < most < asked:
        raise InputError(f"a sample of {asked} tokens is longer than the model's {most} positions; ask for fewer")
    return asked or min(LENGTH, most if isinstance(most, int) and most > 0 else LENGTH)


def _words(config: str, length: int, codec: Any) -> Words:
    known = hf_model.configuration(config)
    pad = known.pad_token_id if isinstance(known.pad_token_id, int) and known.pad_token_id >= 0 else 0
    start = getattr(known, "decoder_start_token_id", None)
    mask = next(
        (codec.token_to_id(m) for m in ("[MASK]", "<mask>") if codec and codec.token_to_id(m) is not None), None
    )
    return Words(
        vocab_size=known.vocab_size,
        pad=pad,
        start=pad if start is None else start,
        mask=known.vocab_size - 1 if mask is None else mask,
        length=length,
        classes=known.num_labels,
    )


def _examples(config: str, task: str, length: int, file: Path, request: Request) -> Examples:
    known = hf_model.configuration(config)
    if task == "image-classification":
        request.refuse("tokenizer", "seq_len")
        size = known.image_size if isinstance(known.image_size, int) else max(known.image_size)
        found = pictures.load(request.data, cache=request.cache, size=size)
        if found.classes > known.num_labels:
            raise InputError(
                f"{found.description} has {found.classes} classes, but the model's configuration has "
                f"{known.num_labels}; give it an id2label of as many"
            )
        return Shown(pictures=found, size=size, channels=known.num_channels)
    beside = file.parent / "tokenizer.json"
    path = request.tokenizer or (beside if beside.is_file() else None)
    if request.data is None:
        request.refuse("tokenizer")
        return Drawn(task=task, words=_words(config, length, None))
    if path is None and request.data.suffix.lower() != ".npy":
        raise InputError(f"{file.parent} has no tokenizer.json for the text of --data; give one by --tokenizer")
    codec = None if path is None else codec_of(existing(path, "tokenizer file"), known.vocab_size)
    words = _words(config, length, codec)
    if task in FIELDS:
        assert path is not None
        return _texts(task, words, path, known, request)
    data = load(request.data, cache=request.cache, seq_len=length, tokenizer=path, field=request.field)
    if data.vocab_size > known.vocab_size:
        raise InputError(
            f"{request.data} has tokens up to {data.vocab_size - 1}, but the model's configuration says "
            f"vocab_size={known.vocab_size}"
        )
    return Windows(task=task, data=data, words=words)


def _texts(task: str, words: Words, tokenizer: Path, known: Any, request: Request) -> Texts:
    from harness.workloads import rows

    assert request.data is not None
    fields = FIELDS[task] if request.field == "text" else tuple(name.strip() for name in request.field.split(","))
    if len(fields) != 2:
        raise InputError(
            f"{task} needs two fields, such as --field {','.join(FIELDS[task])}, but got {request.field!r}"
        )
    source = existing(request.data, "data").resolve()
    next(rows.read(source, fields))  # the first row must have them before anything is begun
    parts = (ragged.fingerprint(source), ragged.fingerprint(tokenizer), task, *fields)
    store = ragged.Ragged(folder=ragged.address(request.cache, *parts), columns=Texts.COLUMNS, label=str(request.data))
    return Texts(
        task=task,
        store=store,
        source=source,
        fields=fields,
        tokenizer=tokenizer.resolve(),
        data_id=f"{store.folder.name}-{words.length}",
        words=words,
        classes={str(name): int(number) for number, name in (known.id2label or {}).items()},
    )


def _surveyed(workload: Hf, file: Path) -> surveying.Survey:
    """By an attention whose products are counted, of a batch that has shapes alone."""
    batch = {name: torch.zeros_like(t) for name, t in _shaped(workload).items()}
    with hollow.parameters():
        model: Any = workload.made("eager")
    if hasattr(model.config, "_experts_implementation"):
        model.config._experts_implementation = "batched_mm"  # counts the active experts, and needs no values
    try:
        return surveying.look(model, workload.inputs, workload.loss, batch, None)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _shaped(workload: Hf) -> Mapping[str, torch.Tensor]:
    """A batch of one sample as the workload's; data that are not prepared yet cannot be asked."""
    if isinstance(workload.examples, Texts):
        return Drawn(task=workload.task, words=workload.examples.words).samples(0, [0], 0)
    if isinstance(workload.examples, Shown):
        known = workload.examples
        pixels = torch.zeros(1, known.channels, known.size, known.size)
        return {"pixel_values": pixels, "labels": torch.zeros(1, dtype=torch.long)}
    return workload.samples(0, np.arange(1))


def _shapes(workload: Hf) -> tuple[nn.Module, dict[str, tuple[int, ...]]]:
    model = hf_model.skeleton(workload.config, workload.task)
    return model, {name: tuple(p.shape) for name, p in model.named_parameters()}


def _check_initial(workload: Hf) -> None:
    """That there is a rule for each kind of parameter, by a look at one of each."""
    model, shapes = _shapes(workload)
    seen: set[tuple[type, str]] = set()
    for name in shapes:
        path, _, attribute = name.rpartition(".")
        kind = (type(model.get_submodule(path)), attribute)
        if kind in seen or name in workload.weights or np.prod(shapes[name]) > 2**24:
            continue
        seen.add(kind)
        if workload.initial(name, shapes[name], torch.device("cpu")).isnan().any():
            raise InputError(f"transformers has no rule for the initial value of {name}; give weights=pretrained")


@lru_cache(maxsize=8)
def _facts_of(config: str, task: str, blocks: tuple[str, ...], row: bool) -> dict[str, Any]:
    """What the model's own class tells."""
    model, known = hf_model.skeleton(config, task), hf_model.configuration(config)
    divided, counts = hf_plans.divisions(model, known)
    tokens = hf_plans.by_tokens(model, divided, blocks) if row and task == "causal-lm" else None
    heads, kv_heads = (int(getattr(known, n, 0) or 0) for n in ("num_attention_heads", "num_key_value_heads"))
    width = int(getattr(known, "hidden_size", 0) or 0)
    return {
        "tensor_parallel": {**divided, **(tokens or {})},
        "counts": counts,
        "sequence_parallel": tokens is not None,
        "heads": heads,
        "kv_heads": kv_heads if kv_heads != heads else 0,
        "head_dim": int(getattr(known, "head_dim", 0) or (width // heads if heads else 0)),
        "vocab_size": int(getattr(known, "vocab_size", 0) or 0),
        "width": width,
        "hidden": int(getattr(known, "intermediate_size", 0) or getattr(known, "d_ff", 0) or 0),
    }


def _facts(workload: Hf) -> ModelFacts:
    found = workload.found
    known = _facts_of(workload.config, workload.task, found.blocks, bool(found.row.stem))
    if workload.lora.rank:
        with hollow.parameters():
            divided = hf_plans.with_adapters(workload.build(), known["tensor_parallel"])
        known = {**known, "tensor_parallel": divided}
    return ModelFacts(
        parameters=found.parameters,
        frozen=found.frozen,
        blocks=found.blocks,
        block_flops=found.block_flops or 1.0,
        head_flops=found.head_flops,
        stem=found.row.stem,
        stream=found.row.stream,
        outputs=found.row.outputs,
        whole_because=found.row.against,
        tied=found.tied,
        shared_blocks=found.shared_blocks,
        **known,
    )
