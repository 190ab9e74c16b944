"""Models of the package transformers: read from a configuration, built without content, given values one at a time."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.errors import InputError
from harness.workloads import hf_code, hollow
from strategies.facts import EXPERT_TILE

PACKING = frozenset({"llama", "qwen3", "gpt2", "mixtral"})
"""Types of causal language models that keep documents in one row from each other where positions begin again
(tests/workloads/test_documents.py compares each with rows of their own)."""
VERSIONED = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures", "auto_map")
"""Of a configuration, what does not change the model that is trained."""
LAYERS = ("num_hidden_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
"""Where configurations count their blocks, under the names that `attribute_map` leads to."""


@dataclass(frozen=True)
class Task:
    """What a model is trained to do."""

    suffix: str
    """End of the names of the classes that are made for it."""
    auto: str
    """Transformers' class that finds them."""
    inputs: tuple[str, ...]
    """What the model is called with."""
    batch: int
    """Default global batch: with fewer predictions a step, losses in lower precision spread more."""


TASKS = {
    "causal-lm": Task("ForCausalLM", "AutoModelForCausalLM", ("input_ids",), 8),
    "masked-lm": Task("ForMaskedLM", "AutoModelForMaskedLM", ("input_ids", "attention_mask"), 16),
    "sequence-classification": Task(
        "ForSequenceClassification", "AutoModelForSequenceClassification", ("input_ids", "attention_mask"), 64
    ),
    "token-classification": Task(
        "ForTokenClassification", "AutoModelForTokenClassification", ("input_ids", "attention_mask"), 16
    ),
    "seq2seq": Task(
        "ForConditionalGeneration", "AutoModelForSeq2SeqLM", ("input_ids", "attention_mask", "decoder_input_ids"), 8
    ),
    "image-classification": Task("ForImageClassification", "AutoModelForImageClassification", ("pixel_values",), 64),
}
"""Name in the field `task` -> what it is. GPT-2's LMHeadModel is the one causal class with another ending."""


def library() -> Any:
    """The package, which never asks a network here.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        import transformers
    except ImportError:
        raise InputError("hf: needs the package transformers: pip install 'distributed-harness[hf]'") from None
    return transformers


def located(text: str) -> Path:
    """The config.json that a path, or a name in the local cache, leads to.

    Raises:
        InputError: there is none.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"the folder {path} has no config.json; give the folder of a model of transformers")
        return path / "config.json"
    if path.is_file():
        return path
    library()
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(text, "config.json")
    except HFValidationError:
        cached = None
    if isinstance(cached, str):
        return Path(cached)
    raise InputError(f"{text} is no folder, no config.json, and no model in the local cache of the Hugging Face hub")


def read(file: Path, *, trusted: bool = False) -> tuple[dict[str, Any], hf_code.Code | None]:
    """A configuration as it is written, and the code that it brings and needs.

    Args:
        file: config.json.
        trusted: whether code of its folder may be run.

    Raises:
        InputError: it is none, or one of a model that transformers does not know, or whose code may not be run.
    """
    try:
        written = json.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error}); give a config.json of transformers") from None
    if not isinstance(written, dict) or not isinstance(written.get("model_type"), str):
        raise InputError(f"{file} names no model_type; give a config.json of transformers")
    known = library().models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    if written["model_type"] in known:
        return written, None
    code = hf_code.of(written, file, {task.auto for task in TASKS.values()}, trusted=trusted)
    if code is not None:
        return written, code
    version = library().__version__
    raise InputError(f"transformers {version} knows no architecture {written['model_type']!r}, which {file} names")


def task_of(written: dict[str, Any], asked: str | None, file: Path) -> str:
    """The name of the task, as asked or by the architecture that a configuration names.

    Raises:
        InputError: neither tells.
    """
    if asked is not None:
        if asked not in TASKS:
            raise InputError(f"task must be one of {', '.join(TASKS)}, but got {asked!r}")
        return asked
    names = [str(name) for name in written.get("architectures") or []]
    for name in names:
        for task, known in TASKS.items():
            if name.endswith(known.suffix) or (task == "causal-lm" and name.endswith("LMHeadModel")):
                return task
    said = f"names {', '.join(names)}" if names else "names no architecture"
    raise InputError(f"{file} {said}, which tells no task; add task= with one of {', '.join(TASKS)}")


def canonical(
    written: dict[str, Any], blocks: int | None, file: Path, *, keep_dropout: bool = False
) -> tuple[str, tuple[str, ...]]:
    """The configuration that is trained, as JSON, and the names of the dropouts in it that were set to 0.

    Args:
        written: as in the file.
        blocks: in place of its number of blocks.
        file: for sentences.
        keep_dropout: whether they stay; what skips whole layers cannot.

    Raises:
        InputError: transformers refuses it, or it skips layers.
    """
    given = {name: value for name, value in written.items() if name not in VERSIONED}
    try:
        config = library().AutoConfig.for_model(**given)
    except Exception as error:  # its classes check their fields, each in its way
        raise InputError(f"transformers refuses {file}: {' '.join(str(error).split())[:300]}") from None
    skipping = [name for name in vars(config) if "layerdrop" in name or "drop_path" in name]
    if keep_dropout and (some := [name for name in skipping if getattr(config, name)]):
        raise InputError(f"{file} skips whole layers at random ({some[0]}), which no plan could do alike; set it to 0")
    dropped = () if keep_dropout else tuple(sorted(_without_dropout(config)))
    if blocks is not None:
        _shorten(config, blocks)
    kept = {name: value for name, value in config.to_dict().items() if name not in VERSIONED}
    return json.dumps(kept, sort_keys=True), dropped


def _without_dropout(config: Any, prefix: str = "") -> Iterator[str]:
    for name, value in list(vars(config).items()):
        if hasattr(value, "model_type"):
            yield from _without_dropout(value, f"{prefix}{name}.")
        elif "drop" in name and isinstance(value, float | int) and not isinstance(value, bool) and value:
            setattr(config, name, 0.0)
            yield f"{prefix}{name}"


def _shorten(config: Any, blocks: int) -> None:
    for name in LAYERS:
        if hasattr(config, name):
            setattr(config, name, blocks)
    for name, value in list(vars(config).items()):
        if name in ("layer_types", "mlp_layer_types") and isinstance(value, list):
            setattr(config, name, value[:blocks])


@lru_cache(maxsize=4)
def configuration(text: str) -> Any:
    """The configuration that `canonical` returned; not to be changed."""
    return library().AutoConfig.for_model(**json.loads(text))


def head_dim(known: Any) -> int:
    """Features of an attention head; 0 if there are no heads."""
    heads, width = (int(getattr(known, name, 0) or 0) for name in ("num_attention_heads", "hidden_size"))
    own = getattr(known, "head_dim", 0) or getattr(known, "d_kv", 0)
    return int(own or (width // heads if heads else 0))


def experts(known: Any) -> dict[str, int]:
    """What strategies may know of a model's experts."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    number = next((value for name in names if isinstance(value := getattr(known, name, None), int)), 0)
    if not number:
        return {}
    hidden = int(getattr(known, "moe_intermediate_size", 0) or getattr(known, "intermediate_size", 0) or 0)
    active = int(getattr(known, "num_experts_per_tok", 0) or 0)
    return {"experts": number, "active_experts": active, "hidden": hidden}


def make(text: str, task: str, attention: str | None) -> nn.Module:
    """The model as transformers makes it, in fp32.

    Args:
        text: its `canonical` configuration.
        task: a key of `TASKS`.
        attention: transformers' name of an implementation; None for its default.
    """
    auto = getattr(library(), TASKS[task].auto)
    options = {} if attention is None else {"attn_implementation": attention}
    model: nn.Module = auto.from_config(library().AutoConfig.for_model(**json.loads(text)), dtype="float32", **options)
    for module in model.modules():
        stacked = [p for name, p in module.named_parameters(recurse=False) if name in ("gate_up_proj", "down_proj")]
        if any(p.shape[-1] % EXPERT_TILE for p in stacked):
            model.config._experts_implementation = "eager"  # type: ignore[union-attr]
    return model


def attentions(model: Any) -> tuple[str, ...]:
    """Implementations of attention that a model can be told to take, the one that it takes by itself first; () if it
    cannot be told.

    Args:
        model: as transformers makes it.
    """
    kind: Any = type(model)
    if not kind._can_set_attn_implementation():
        return ()
    has = {
        "eager": True,
        "sdpa": kind._supports_sdpa,
        "flex_attention": kind._supports_flex_attn,
        "flash_attention_2": kind._supports_flash_attn,
    }
    usual = model.config._attn_implementation
    return (usual, *(name for name, there in has.items() if there and name != usual))


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters beside frozen layers (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int
    """Of the adapters; 0: none, and everything is trained."""
    targets: str = "all-linear"
    """Layers that get one: "all-linear", or ends of their names joined by |."""


WITHOUT = Lora(0)


def with_adapters(model: nn.Module, lora: Lora, task: str) -> nn.Module:
    """The model with adapters in place, alpha twice the rank; they are trained, and heads that a checkpoint lacks.

    Raises:
        InputError: the package is missing, or no layer has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InputError("lora= needs the package peft: pip install 'distributed-harness[hf]'") from None
    targets = _linear(model) if lora.targets == "all-linear" else lora.targets.split("|")
    made: Any = LoraConfig(r=lora.rank, lora_alpha=2 * lora.rank, target_modules=targets, lora_dropout=0.0)
    try:
        inject_adapter_in_model(made, model)
    except ValueError as error:
        raise InputError(f"lora_targets={lora.targets}: {' '.join(str(error).split())[:200]}") from None
    if task.endswith("classification"):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or not name.startswith(f"{model.base_model_prefix}."))
    return model


def _linear(model: Any) -> list[str]:
    """Names of the matrices inside the model, without its heads."""
    prefix = f"{model.base_model_prefix}."
    kinds = ("Linear", "Conv1D")
    inner = [
        n for n, m in model.named_modules() if type(m).__name__ in kinds and m is not model.get_output_embeddings()
    ]
    within = [name for name in inner if name.startswith(prefix)]
    return within or inner


def adapter(name: str, shape: tuple[int, ...], seed: int, device: torch.device) -> torch.Tensor:
    """The initial value of an adapter's parameter: B is zero, so that the first losses are those of the model without
    it; A is drawn as peft draws it.

    Args:
        name: of the parameter.
        shape: `[outputs, inputs]`.
        seed: of the weights.
        device: where it is made.
    """
    if "lora_B" in name:
        return torch.zeros(shape, device=device)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:7]))
    value = torch.empty(shape, device=device)
    return nn.init.kaiming_uniform_(value, a=5**0.5, generator=generator)


def adapted(model: nn.Module, inputs: Sequence[str]) -> nn.Module:
    """The same model, called with tensors in order, and returning its logits."""
    kind: Any = type(model)
    fixed = {"use_cache": False} if "use_cache" in inspect.signature(kind.forward).parameters else {}

    def forward(self: nn.Module, *given: torch.Tensor) -> torch.Tensor:
        named = dict(zip(inputs, given, strict=True))
        return kind.forward(self, **named, **fixed).logits  # type: ignore[no-any-return]

    model.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return model


@lru_cache(maxsize=2)
def skeleton(text: str, task: str) -> nn.Module:
    """The model without content, once a process, for its rules of initial values."""
    with hollow.parameters():
        return make(text, task, None)


def initial(model: nn.Module, name: str, seed: int, device: torch.device) -> torch.Tensor:
    """One parameter's random initial value by the model's own rule, with no other parameter in memory.

    The parameter is made real, its module and then each module around it initialise what they hold, which for all
    others does nothing, and it is taken away again. What nobody gave a value is not a number.

    Args:
        model: a `skeleton`.
        name: of the parameter.
        seed: of the weights.
        device: where it is made.
    """
    from transformers.initialization import guard_torch_init_functions

    path, _, attribute = name.rpartition(".")
    around: list[Any] = [model]
    for part in path.split(".") if path else []:
        around.append(around[-1].get_submodule(part))
    rules: list[Any] = []
    for module in around:  # a model inside a model has rules of its own
        rules.append(module if hasattr(module, "_init_weights") else rules[-1])
    owner, digest = around[-1], hashlib.sha256(f"{seed}/{name}".encode()).digest()
    empty = owner._parameters[attribute]
    real = nn.Parameter(torch.full(empty.shape, float("nan"), device=device), requires_grad=False)
    owner._parameters[attribute] = real
    try:
        devices = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(devices), torch.no_grad(), guard_torch_init_functions():
            torch.manual_seed(int.from_bytes(digest[:7]))
            for module, its in zip(reversed(around), reversed(rules), strict=True):
                its._init_weights(module)
    finally:
        owner._parameters[attribute] = empty
    return real.detach()
