"""Models of transformers: `--workload hf:PATH`, where PATH is a folder, a config.json, or a name in the local cache."""

from __future__ import annotations

import functools
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
    hf_code,
    hf_model,
    hf_plans,
    hf_sources,
    hf_weights,
    hollow,
    library,
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

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return TASKS[self.task].inputs

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
        return found.facts(**known)

    def build(self) -> nn.Module:
        if self.code is not None:
            self.code.register()
        model = _made(self.config, self.task, self.lora, self.seed, unused=self.survey.unused)
        surveying.with_dropout(model, self.seed, self.survey)
        return model

    def initial(self, name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        if ".lora_" in name:
            return hf_model.adapter(name, shape, self.seed, device)
        name = name.replace(".base_layer.", ".")
        if self.converted is not None:
            return values.kept(self.converted)[name].to(device)
        if name in self.weights:
            return hf_weights.value(self.weights[name]).to(device)
        return self._drawn(name, device)

    def _drawn(self, name: str, device: torch.device) -> torch.Tensor:
        return hf_model.initial(hf_model.skeleton(self.config, self.task), name, self.seed, device)

    def samples(self, step: int, indices: np.ndarray) -> Mapping[str, torch.Tensor]:
        return self.examples.samples(step, indices, self.seed)

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
        request: its fields (task, weights, blocks, max_length, lora, lora_targets, keep_dropout), and the other
            options.

    Raises:
        InputError: the model, its data or a field cannot be used.
    """
    given = request.parsed(
        task=str, weights=str, blocks=str, max_length=int, lora=int, lora_targets=str, keep_dropout=bool
    )
    file = hf_model.located(text)
    written, code = hf_model.read(file, trusted=request.trust_remote_code)
    task = hf_model.task_of(written, given.get("task"), file)
    kind = given.get("weights", "random")
    if kind not in ("random", "pretrained"):
        raise InputError(f"weights must be random or pretrained, but got {kind!r}")
    stem = file.parent.name if file.name == "config.json" else file.stem
    if code is not None and TASKS[task].auto not in dict(code.classes):
        raise InputError(f"auto_map in {file} names no {TASKS[task].auto}, which the task {task} needs")
    described = Described(stem, written, task, file, code)
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
        request: its name, its fields (blocks, lora, lora_targets, keep_dropout), and the other options.

    Raises:
        InputError: an option or a field cannot be used, or a package is missing.
    """
    given = request.parsed(blocks=str, lora=int, lora_targets=str, keep_dropout=bool)
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
    code: hf_code.Code | None = None
    """What its folder brings and was allowed to run."""

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
        keeping = bool(given.get("keep_dropout"))
        count, pattern = _blocks(given.get("blocks"))
        config, dropout = hf_model.canonical(self.written, count, self.file, keep_dropout=keeping)
        tokens = hf_sources.length(config, self.task, length)
        found = examples(config, self.task, tokens, request)
        lora = hf_model.Lora(given.get("lora", 0), given.get("lora_targets", "all-linear"))
        try:
            survey = _surveyed(config, self.task, lora, found, pattern, keeping)
        except InputError as error:
            raise InputError(f"{self.file}: {error}") from None
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
            code=self.code,
            survey=survey,
        )


def _blocks(text: str | None) -> tuple[int | None, str | None]:
    """How many blocks are wanted, or a pattern of the names of those that are there."""
    if text is None or not text.isdecimal():
        return None, text
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise InputError(f"blocks must be a number from 1, or a pattern of names such as encoder.*, but got {text!r}")
    return int(text), None


def _name(stem: str, given: Mapping[str, Any]) -> str:
    said = {"blocks": _blocks(given.get("blocks"))[0], "weights": given.get("weights"), "lora": given.get("lora")}
    more = [f"{name}{value}" for name, value in sorted(said.items()) if value is not None]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([stem or "model", *more])).strip("-.") or "model"


def _made(
    config: str, task: str, lora: hf_model.Lora, seed: int, *, attention: str | None = None, unused: Sequence[str] = ()
) -> nn.Module:
    """The model of a workload; constructors that draw buffers draw them alike on every rank."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = hf_model.make(config, task, attention).train()
    if lora.rank:
        hf_model.with_adapters(model, lora, task)
    for name in unused:
        model.get_parameter(name).requires_grad_(False)
    return hf_model.adapted(model, TASKS[task].inputs)


def _loss(
    outputs: torch.Tensor, batch: Mapping[str, torch.Tensor], each: float | None
) -> tuple[torch.Tensor, torch.Tensor | float]:
    labels = batch["labels"]
    return cross_entropy(outputs, labels), predictions(labels) if each is None else float(labels.numel())


def _surveyed(
    config: str, task: str, lora: hf_model.Lora, examples: Examples, pattern: str | None, keep_dropout: bool
) -> surveying.Survey:
    """By an attention whose products are counted, of a batch that has shapes alone."""
    with hollow.parameters():
        model: Any = _made(config, task, lora, 0, attention="eager")
    if hasattr(model.config, "_experts_implementation"):
        model.config._experts_implementation = "batched_mm"  # counts the active experts, and needs no values

    def loss(outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | float]:
        return _loss(outputs, batch, examples.predictions)

    return surveying.look(model, TASKS[task].inputs, loss, examples.shaped(), pattern, keep_dropout)


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
            divided = hf_plans.with_adapters(_made(config, task, lora, 0), divided)
    heads, kv_heads = (int(getattr(known, n, 0) or 0) for n in ("num_attention_heads", "num_key_value_heads"))
    width = int(getattr(known, "hidden_size", 0) or 0)
    return {
        "tensor_parallel": divided,
        "counts": counts,
        "sequence_parallel": tokens is not None,
        "heads": heads,
        "kv_heads": kv_heads if kv_heads != heads else 0,
        "head_dim": int(getattr(known, "head_dim", 0) or (width // heads if heads else 0)),
        "vocab_size": int(getattr(known, "vocab_size", 0) or 0),
        "width": width,
        "hidden": int(getattr(known, "intermediate_size", 0) or getattr(known, "d_ff", 0) or 0),
    }
