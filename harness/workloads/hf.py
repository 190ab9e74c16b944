"""Models of transformers: `--workload hf:PATH`, where PATH is a folder, a config.json, or a name in the local cache."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from harness.workloads import (
    counting,
    hf_code,
    hf_model,
    hf_plans,
    hf_weights,
    hollow,
    nf4,
    surveying,
    values,
)
from harness.workloads.hf_data import Examples
from harness.workloads.hf_model import TASKS
from harness.workloads.workload import Workload
from strategies.cross_entropy import cross_entropy, predictions
from strategies.facts import ModelFacts

BY_TOKENS = ("causal-lm", "masked-lm", "seq2seq")
"""Tasks whose loss is a sum over tokens, each of which has outputs and a label of its own."""


@dataclass(frozen=True, kw_only=True)
class Hf(Workload):
    """The training of a model of transformers for one task."""

    family: ClassVar[str] = "hf"
    metric_name: ClassVar[str | None] = "accuracy"
    initial_values: ClassVar[str] = "transformers' own rule for each parameter, or a checkpoint's"

    config: str
    """The configuration as JSON, dropout set to 0 unless it is kept."""
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
    load: str = ""
    """"4bit" if the frozen matrices of its blocks are kept in 4 bits."""
    code: hf_code.Code | None = None
    """What its folder brings and was allowed to run."""
    weights_id: str = ""
    """A hash of the checkpoint."""
    checkpoint: Path | None = None
    """Its folder, where it keeps values in another form than the model."""
    converted: Path | None = None
    """The file of all values, which `prepare` then writes."""
    dropout: tuple[str, ...] = ()
    """Fields of the configuration that were set to 0."""
    survey: surveying.Survey
    """What one pass of the model told."""
    pattern: str | None = None
    """Of the names of its blocks, if it was given."""

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*TASKS[self.task].inputs, *self.examples.inputs)

    @property
    def seq_len(self) -> int:
        return self.length

    @property
    def tokens_per_step(self) -> int:
        """Of an encoder-decoder, those of both."""
        return super().tokens_per_step * (2 if self.task == "seq2seq" else 1)

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
            **({"tokens": "encoder and decoder"} if self.task == "seq2seq" else {}),  # so were not all rates recorded
            **({"lora": asdict(self.lora)} if self.lora.rank else {}),
            **({"load": self.load} if self.load else {}),
            **({"dropout": "kept"} if self.survey.kept else {}),
            **({"code": self.code.digest} if self.code else {}),
        }

    def prepare(self) -> None:
        self.examples.prepare()
        if self.checkpoint is not None and self.converted is not None and not self.converted.exists():
            auto = getattr(hf_model.library(), TASKS[self.task].auto)
            found, lacking = hf_weights.converted(auto, self.checkpoint, hf_model.configuration(self.config))
            drawn = {name: self._drawn(name, torch.device("cpu")) for name in found.keys() & lacking}
            values.keep(self.converted, {**found, **drawn})

    def facts(self) -> ModelFacts:
        found = self.survey
        known = _dimensions(self.config, self.task, self.lora, found.blocks, bool(found.row.stem))
        quantized = quantised(self.config, self.task, self.lora, found.blocks) if self.load else {}
        return found.facts(
            **known,
            head=found.head if self.task in BY_TOKENS else "",
            quantized=sum(quantized.values()),
            quantized_bytes=sum(map(nf4.stored_bytes, quantized.values())),
        )

    def build(self) -> nn.Module:
        if self.code is not None:
            self.code.register()
        model = _made(self.config, self.task, self.lora, self.seed, inputs=self.inputs, unused=self.survey.unused)
        if self.load:
            nf4.quantise(model, self.survey.blocks)
        surveying.with_dropout(model, self.seed, self.survey)
        return model

    def initial(self, name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        if ".lora_" in name:
            return hf_model.adapter(name, shape, self.seed, device)
        value = self._of_base(name.replace(".base_layer.", "."), device)
        return nf4.quantised(value) if value.ndim > len(shape) else value

    def _of_base(self, name: str, device: torch.device) -> torch.Tensor:
        if self.converted is not None:
            return values.kept(self.converted)[name].to(device)
        if name in self.weights:
            return hf_weights.value(self.weights[name]).to(device)
        return self._drawn(name, device)

    def _drawn(self, name: str, device: torch.device) -> torch.Tensor:
        return hf_model.initial(hf_model.skeleton(self.config, self.task), name, self.seed, device)

    def samples(self, step: int, indices: np.ndarray) -> Mapping[str, torch.Tensor]:
        return self.examples.samples(step, indices, self.seed)

    def real_tokens(self, step: int) -> int | None:
        return self.examples.real_tokens(step, np.arange(self.global_batch_size), self.seed)

    @property
    def notes(self) -> tuple[str, ...]:
        return self.examples.notes

    def loss(
        self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | float]:
        return _loss(outputs, batch, self.predictions)

    def metric(
        self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | float] | None:
        """Of classifications; that of a language model would need its whole vocabulary, which a rank may not have."""
        if not self.task.endswith("classification"):
            return None
        right = (outputs.detach().argmax(-1) == batch["labels"]).sum().float()
        return right, predictions(batch["labels"])

    def shallow(self, blocks: int) -> Hf:
        name = f"{self.name}-blocks{blocks}"
        kept = bool(self.survey.kept)
        config, _ = hf_model.canonical(json.loads(self.config), blocks, Path(self.name), keep_dropout=kept)
        survey = surveyed(config, self.task, self.lora, self.examples, self.pattern, kept)
        return replace(self, name=name, config=config, survey=survey)

    @property
    def dropped(self) -> tuple[str, ...]:
        return (*self.dropout, *self.survey.dropout)

    def flops_per_step(self) -> float:
        """Those of matrix products, convolutions and attention, forward and backward, as torch's FlopCounterMode counts
        them in one pass over one sample; of experts, those that a token has."""
        return self.survey.flops * self.global_batch_size


@lru_cache(maxsize=8)
def quantised(config: str, task: str, lora: hf_model.Lora, blocks: tuple[str, ...]) -> dict[str, int]:
    """Layer -> values of its matrix, of those that 4 bits hold."""
    with hollow.parameters():
        layers = nf4.quantisable(_made(config, task, lora, 0, inputs=TASKS[task].inputs), blocks)
    return {name: layer.weight.numel() for name, layer in layers.items()}  # type: ignore[operator]


def _made(
    config: str,
    task: str,
    lora: hf_model.Lora,
    seed: int,
    *,
    inputs: Sequence[str],
    attention: str | None = None,
    unused: Sequence[str] = (),
) -> nn.Module:
    """The model of a workload; constructors that draw buffers draw them alike on every rank."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = hf_model.make(config, task, attention).train()
    if lora.rank:
        hf_model.with_adapters(model, lora, task)
    for name in unused:
        model.get_parameter(name).requires_grad_(False)
    return hf_model.adapted(model, inputs)


def _loss(
    outputs: torch.Tensor, batch: Mapping[str, torch.Tensor], each: float | None
) -> tuple[torch.Tensor, torch.Tensor | float]:
    labels = batch["labels"]
    return cross_entropy(outputs, labels), predictions(labels) if each is None else float(labels.numel())


def surveyed(
    config: str, task: str, lora: hf_model.Lora, examples: Examples, pattern: str | None, keep_dropout: bool
) -> surveying.Survey:
    """By an attention whose products are counted, of a batch that has shapes alone."""
    inputs = (*TASKS[task].inputs, *examples.inputs)
    with hollow.parameters():
        model: Any = _made(config, task, lora, 0, inputs=inputs, attention="eager")
    if hasattr(model.config, "_experts_implementation"):
        model.config._experts_implementation = "batched_mm"  # counts the active experts, and needs no values

    def loss(outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | float]:
        return _loss(outputs, batch, examples.predictions)

    shaped, known = examples.shaped(), hf_model.configuration(config)
    survey = surveying.look(model, inputs, loss, shaped, pattern, keep_dropout)
    heads, width = int(getattr(known, "num_attention_heads", 0) or 0), int(getattr(known, "hidden_size", 0) or 0)
    if not (heads and width):
        return survey

    def shallow() -> nn.Module:
        short, _ = hf_model.canonical(
            json.loads(config), counting.SHALLOW, Path("config.json"), keep_dropout=keep_dropout
        )
        with hollow.parameters():
            return _made(short, task, lora, 0, inputs=inputs)

    inside = heads * hf_model.head_dim(known)
    return replace(survey, counted=counting.count(survey, shallow, inputs, shaped, width, inside))


@lru_cache(maxsize=8)
def _dimensions(config: str, task: str, lora: hf_model.Lora, blocks: tuple[str, ...], row: bool) -> Mapping[str, Any]:
    """What the model's own class tells strategies."""
    model, known = hf_model.skeleton(config, task), hf_model.configuration(config)
    divided, counts = hf_plans.divisions(model, known)
    tokens = hf_plans.by_tokens(model, divided, blocks) if row and task == "causal-lm" else None
    divided = {**divided, **(tokens or {})}
    if lora.rank:
        with hollow.parameters():
            divided = hf_plans.with_adapters(_made(config, task, lora, 0, inputs=TASKS[task].inputs), divided)
    heads, kv_heads = (int(getattr(known, n, 0) or 0) for n in ("num_attention_heads", "num_key_value_heads"))
    width = int(getattr(known, "hidden_size", 0) or 0)
    return {
        "attention": hf_model.attentions(model),
        "tensor_parallel": divided,
        "counts": counts,
        "sequence_parallel": tokens is not None,
        "heads": heads,
        "kv_heads": kv_heads if kv_heads != heads else 0,
        "head_dim": hf_model.head_dim(known),
        "vocab_size": int(getattr(known, "vocab_size", 0) or 0),
        "width": width,
        "hidden": int(getattr(known, "intermediate_size", 0) or getattr(known, "d_ff", 0) or 0),
        **hf_model.experts(known),
    }
