"""Models of transformers: `--workload hf:PATH`, where PATH is a folder, a config.json, or a name in the local cache."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from harness.errors import InputError
from harness.workloads import (
    counting,
    hf_model,
    hf_plans,
    hf_sources,
    hf_weights,
    hollow,
    library,
    nf4,
    ragged,
    surveying,
    values,
)
from harness.workloads.hf_data import Examples
from harness.workloads.hf_model import TASKS
from harness.workloads.minis import MINIS
from harness.workloads.request import Request
from harness.workloads.workload import Workload
from strategies.cross_entropy import cross_entropy, predictions
from strategies.facts import ModelFacts

BY_TOKENS = ("causal-lm", "masked-lm", "seq2seq")
"""Tasks whose loss is a sum over tokens, each of which has outputs and a label of its own."""
SHARE = 0.25
"""Of what is frozen, what must be kept in 4 bits for a workload to be what it says."""


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
    load: str = ""
    """"4bit" if the frozen matrices of its blocks are kept in 4 bits."""
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

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*TASKS[self.task].inputs, *self.examples.inputs)

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
            **({"load": self.load} if self.load else {}),
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
        quantized = _quantised(self.config, self.task, self.lora, found.blocks) if self.load else {}
        return found.facts(
            **known,
            head=found.head if self.task in BY_TOKENS else "",
            quantized=sum(quantized.values()),
            quantized_bytes=sum(map(nf4.stored_bytes, quantized.values())),
        )

    def build(self) -> nn.Module:
        model = _made(self.config, self.task, self.lora, self.seed, inputs=self.inputs, unused=self.survey.unused)
        if self.load:
            nf4.quantise(model, self.survey.blocks)
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
        config, _ = hf_model.canonical(json.loads(self.config), blocks, Path(self.name))
        return replace(self, name=name, config=config, survey=_surveyed(config, self.task, self.lora, self.examples))

    @property
    def dropped(self) -> tuple[str, ...]:
        return (*self.dropout, *self.survey.dropout)

    def flops_per_step(self) -> float:
        """Those of matrix products, convolutions and attention, forward and backward, as torch's FlopCounterMode counts
        them in one pass over one sample; of experts, those that a token has."""
        return self.survey.flops * self.global_batch_size


def create(text: str, request: Request) -> Hf:
    """The workload of a model of transformers, after everything about it that needs no training was tried.

    Args:
        text: path of a folder or of a config.json, or a name in the local cache.
        request: its fields (task, weights, blocks, max_length, lora, lora_targets, load, packing, padding), and the
            other options.

    Raises:
        InputError: the model, its data or a field cannot be used.
    """
    given = request.parsed(
        **dict.fromkeys(("task", "weights", "lora_targets", "load", "padding"), str),
        **dict.fromkeys(("blocks", "max_length", "lora"), int),
        packing=bool,
    )
    file = hf_model.located(text)
    written = hf_model.read(file)
    task = hf_model.task_of(written, given.get("task"), file)
    kind = given.get("weights", "random")
    if kind not in ("random", "pretrained"):
        raise InputError(f"weights must be random or pretrained, but got {kind!r}")
    stem = file.parent.name if file.name == "config.json" else file.stem
    described = Described(stem, written, task, file)
    length = request.seq_len or given.get("max_length")
    workload = described.workload(request, given, length, functools.partial(hf_sources.of_model, folder=file.parent))
    if kind == "pretrained":
        found = hf_weights.read(file.parent, _shapes(workload)[1])
        workload = replace(workload, weights=found.places, weights_id=found.digest)
        if not found.same_form:
            path = ragged.address(
                request.cache, "values", found.digest, workload.config, workload.task, str(request.seed)
            )
            return replace(workload, weights={}, checkpoint=file.parent, converted=path.with_suffix(".pt"))
    _check_initial(workload)
    return workload


def named(request: Request) -> Hf:
    """One of the small models in `MINIS`, on data that need no file.

    Args:
        request: its name, its fields (blocks, lora, lora_targets, load), and the other options.

    Raises:
        InputError: an option or a field cannot be used, or a package is missing.
    """
    given = request.parsed(blocks=int, lora=int, lora_targets=str, load=str)
    mini = MINIS[request.name]
    classes = library.packages(library.PACKAGES) if mini.task == "sequence-classification" else ()
    names = {"id2label": dict(enumerate(classes))} if classes else {}
    asked = replace(request, global_batch_size=request.global_batch_size or mini.batch)
    described = Described(request.name, {**mini.config, **names}, mini.task, Path(request.name))
    return described.workload(asked, given, request.seq_len or mini.length, hf_sources.of_bytes)


@dataclass(frozen=True)
class Described:
    """A configuration that is known to be one of transformers."""

    stem: str
    """What the workload is called, without what was asked for."""
    written: dict[str, Any]
    """The configuration as it is written."""
    task: str
    """A key of `TASKS`."""
    file: Path
    """Where it is written, for sentences."""

    def workload(
        self,
        request: Request,
        given: Mapping[str, Any],
        length: int | None,
        examples: Callable[[str, str, int, Request], Examples],
    ) -> Hf:
        """Its workload with random weights.

        Args:
            request: the options.
            given: its fields as values.
            length: tokens of a sample, as asked.
            examples: (configuration, task, tokens of a sample, request) -> where samples come from.
        """
        config, dropout = hf_model.canonical(self.written, given.get("blocks"), self.file)
        tokens = hf_sources.length(config, self.task, length)
        found = examples(config, self.task, tokens, request)
        lora, load = hf_model.Lora(given.get("lora", 0), given.get("lora_targets", "all-linear")), _load(given)
        try:
            survey = _surveyed(config, self.task, lora, found)
        except InputError as error:
            raise InputError(f"{self.file}: {error}") from None
        if load:
            _check_quantised(_name(self.stem, given), _quantised(config, self.task, lora, survey.blocks), survey)
        return Hf(
            name=_name(self.stem, given),
            seed=request.seed,
            global_batch_size=request.global_batch_size or TASKS[self.task].batch,
            config=config,
            task=self.task,
            examples=found,
            length=tokens,
            weights={},
            dropout=dropout,
            lora=lora,
            load=load,
            survey=survey,
        )


def _name(stem: str, given: Mapping[str, Any]) -> str:
    named = ("blocks", "weights", "lora", "load", "packing", "padding")
    more = [f"{name}{str(value).lower()}" for name, value in sorted(given.items()) if name in named]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([stem or "model", *more])).strip("-.") or "model"


def _load(given: Mapping[str, Any]) -> str:
    load = str(given.get("load", ""))
    if load not in ("", "4bit"):
        raise InputError(f"load must be 4bit, but got {load!r}")
    if load and "lora" not in given:
        raise InputError("load=4bit freezes the matrices of the blocks, so that adapters are trained: add lora=16")
    return load


@lru_cache(maxsize=8)
def _quantised(config: str, task: str, lora: hf_model.Lora, blocks: tuple[str, ...]) -> dict[str, int]:
    """Layer -> values of its matrix, of those that 4 bits hold."""
    with hollow.parameters():
        layers = nf4.quantisable(_made(config, task, lora, 0, inputs=TASKS[task].inputs), blocks)
    return {name: layer.weight.numel() for name, layer in layers.items()}  # type: ignore[operator]


def _check_quantised(name: str, quantised: Mapping[str, int], survey: surveying.Survey) -> None:
    if not quantised:
        raise InputError(f"load=4bit is for the linear layers of repeated blocks, of which {name} has none")
    share = sum(quantised.values()) / survey.frozen
    if share < SHARE:
        raise InputError(
            f"load=4bit keeps linear layers of the blocks in 4 bits, but they are only {share:.0%} of what is frozen "
            f"in {name}; leave it out"
        )


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
    surveying.without_dropout(model)
    return hf_model.adapted(model, inputs)


def _loss(
    outputs: torch.Tensor, batch: Mapping[str, torch.Tensor], each: float | None
) -> tuple[torch.Tensor, torch.Tensor | float]:
    labels = batch["labels"]
    return cross_entropy(outputs, labels), predictions(labels) if each is None else float(labels.numel())


def _surveyed(config: str, task: str, lora: hf_model.Lora, examples: Examples) -> surveying.Survey:
    """By an attention whose products are counted, of a batch that has shapes alone."""
    inputs = (*TASKS[task].inputs, *examples.inputs)
    with hollow.parameters():
        model: Any = _made(config, task, lora, 0, inputs=inputs, attention="eager")
    if hasattr(model.config, "_experts_implementation"):
        model.config._experts_implementation = "batched_mm"  # counts the active experts, and needs no values

    def loss(outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | float]:
        return _loss(outputs, batch, examples.predictions)

    shaped, known = examples.shaped(), hf_model.configuration(config)
    survey = surveying.look(model, inputs, loss, shaped, None)
    heads, width = int(getattr(known, "num_attention_heads", 0) or 0), int(getattr(known, "hidden_size", 0) or 0)
    if not (heads and width):
        return survey

    def shallow() -> nn.Module:
        short, _ = hf_model.canonical(json.loads(config), counting.SHALLOW, Path("config.json"))
        with hollow.parameters():
            return _made(short, task, lora, 0, inputs=inputs)

    inside = heads * hf_model.head_dim(known)
    return replace(survey, counted=counting.count(survey, shallow, inputs, shaped, width, inside))


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
