"""A workload of a model of transformers from what was asked for: `hf:PATH` and its fields, or a small model's name."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.errors import InputError
from harness.workloads import hf_code, hf_model, hf_sources, hf_weights, library, ragged, surveying
from harness.workloads.hf import Hf, quantised, surveyed
from harness.workloads.hf_data import Examples
from harness.workloads.hf_model import TASKS
from harness.workloads.minis import MINIS
from harness.workloads.request import Request

SHARE = 0.25
"""Of what is frozen, what must be kept in 4 bits for a workload to be what it says."""


def create(text: str, request: Request) -> Hf:
    """The workload of a model of transformers, after everything about it that needs no training was tried.

    Args:
        text: path of a folder or of a config.json, or a name in the local cache.
        request: its fields (task, weights, blocks, max_length, lora, lora_targets, load, packing, padding,
            keep_dropout), and the other options.

    Raises:
        InputError: the model, its data or a field cannot be used.
    """
    given = request.parsed(
        **dict.fromkeys(("task", "weights", "blocks", "lora_targets", "load", "padding"), str),
        **dict.fromkeys(("max_length", "lora"), int),
        **dict.fromkeys(("packing", "keep_dropout"), bool),
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
        request: its name, its fields (blocks, lora, lora_targets, load, keep_dropout), and the other options.

    Raises:
        InputError: an option or a field cannot be used, or a package is missing.
    """
    given = request.parsed(blocks=str, lora=int, lora_targets=str, load=str, keep_dropout=bool)
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
        lora, load = hf_model.Lora(given.get("lora", 0), given.get("lora_targets", "all-linear")), _load(given)
        try:
            survey = surveyed(config, self.task, lora, found, pattern, keeping)
        except InputError as error:
            raise InputError(f"{self.file}: {error}") from None
        if load:
            _check_quantised(_name(self.stem, given), quantised(config, self.task, lora, survey.blocks), survey)
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
            code=self.code,
            survey=survey,
            pattern=pattern,
        )


def _blocks(text: str | None) -> tuple[int | None, str | None]:
    """How many blocks are wanted, or a pattern of the names of those that are there."""
    if text is None or not text.isdecimal():
        return None, text
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise InputError(f"blocks must be a number from 1, or a pattern of names such as encoder.*, but got {text!r}")
    return int(text), None


def _name(stem: str, given: Mapping[str, Any]) -> str:
    said = {name: given.get(name) for name in ("weights", "lora", "load", "packing", "padding")}
    said["blocks"] = _blocks(given.get("blocks"))[0]
    more = [f"{name}{str(value).lower()}" for name, value in sorted(said.items()) if value is not None]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([stem or "model", *more])).strip("-.") or "model"


def _load(given: Mapping[str, Any]) -> str:
    load = str(given.get("load", ""))
    if load not in ("", "4bit"):
        raise InputError(f"load must be 4bit, but got {load!r}")
    if load and "lora" not in given:
        raise InputError("load=4bit freezes the matrices of the blocks, so that adapters are trained: add lora=16")
    return load


def _check_quantised(name: str, quantised: Mapping[str, int], survey: surveying.Survey) -> None:
    if not quantised:
        raise InputError(f"load=4bit is for the linear layers of repeated blocks, of which {name} has none")
    share = sum(quantised.values()) / survey.frozen
    if share < SHARE:
        raise InputError(
            f"load=4bit keeps linear layers of the blocks in 4 bits, but they are only {share:.0%} of what is frozen "
            f"in {name}; leave it out"
        )


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
