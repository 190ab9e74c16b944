"""What tensor parallelism must know of models of transformers: from their own plans, or from tables of families."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from strategies.facts import Split

STYLES = {
    "colwise": Split.COLUMN,
    "rowwise": Split.ROW,
    "colwise_gather_output": Split.VOCAB,
    "embedding_rowwise": Split.VOCAB,
    "replicated_with_grad_allreduce": Split.WHOLE,
    "moe_tp_experts": Split.EXPERTS,
}
"""Style in transformers' plans -> how it is done here; what has another style stays whole."""
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "q", "k", "v", "query", "key", "value", "query_key_value"}
"""Names of the layers before attention, which are divided by heads."""
AFTER = {"o_proj", "out_proj", "dense", "o"}
"""Names of the layers after it."""


def _self_attention(path: str, names: str = "qkv", suffix: str = "_proj", out: str = "out_proj") -> dict[str, Split]:
    divided = {f"{path}.{name}{suffix}": Split.COLUMN_HEADS for name in names}
    return {path: Split.INPUT, **divided, f"{path}.{out}": Split.ROW_HEADS}


_GPT2 = "transformer.h.*"
_T5_PARTS = ("SelfAttention", "EncDecAttention", "DenseReluDense")
_BART = ("model.encoder.layers.*", "model.decoder.layers.*")
FAMILIES: dict[str, tuple[dict[str, Split], dict[str, tuple[str, ...]]]] = {
    "gpt2": (
        {
            "transformer.wte": Split.VOCAB,
            "lm_head": Split.VOCAB,
            f"{_GPT2}.attn": Split.INPUT,
            f"{_GPT2}.attn.c_attn": Split.COLUMN_QKV,
            f"{_GPT2}.attn.c_proj": Split.ROW_HEADS,
            f"{_GPT2}.mlp": Split.INPUT,
            f"{_GPT2}.mlp.c_fc": Split.COLUMN,
            f"{_GPT2}.mlp.c_proj": Split.ROW,
        },
        {f"{_GPT2}.attn": ("split_size", "num_heads")},
    ),
    "bert": (
        {
            "bert.embeddings.word_embeddings": Split.VOCAB,
            "cls.predictions.decoder": Split.VOCAB,
            **{
                f"bert.encoder.layer.*.attention.self{name}": split
                for name, split in {
                    "": Split.INPUT,
                    **{f".{each}": Split.COLUMN_HEADS for each in ("query", "key", "value")},
                }.items()
            },
            "bert.encoder.layer.*.attention.output.dense": Split.ROW_HEADS,
            "bert.encoder.layer.*.intermediate": Split.INPUT,
            "bert.encoder.layer.*.intermediate.dense": Split.COLUMN,
            "bert.encoder.layer.*.output.dense": Split.ROW,
        },
        {},
    ),
    "vit": (
        {
            **_self_attention("vit.*.attention", out="o_proj"),
            "vit.*.mlp": Split.INPUT,
            "vit.*.mlp.fc1": Split.COLUMN,
            "vit.*.mlp.fc2": Split.ROW,
        },
        {},
    ),
    "t5": (
        {
            **dict.fromkeys(("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"), Split.VOCAB),
            **{f"{stack}.block.*.{part}": Split.INPUT for stack in ("encoder", "decoder") for part in _T5_PARTS},
            **{f"*Attention.{name}": Split.COLUMN_HEADS for name in "qkv"},
            "*Attention.o": Split.ROW_HEADS,
            "*Attention.relative_attention_bias": Split.COLUMN_HEADS,
            "*DenseReluDense.wi*": Split.COLUMN,
            "*DenseReluDense.wo": Split.ROW,
        },
        {"*Attention": ("n_heads", "inner_dim")},
    ),
    "bart": (
        {
            # The vocabulary stays whole: a buffer as long as it is added to the logits.
            **{k: v for path in _BART for k, v in _self_attention(f"{path}.self_attn").items()},
            **_self_attention("model.decoder.layers.*.encoder_attn"),
            **{f"{path}.fc1": Split.COLUMN for path in _BART},
            **{f"{path}.fc2": Split.ROW for path in _BART},
        },
        {"*_attn": ("num_heads", "embed_dim")},
    ),
    "opt": (
        {
            "model.decoder.embed_tokens": Split.VOCAB,
            "lm_head": Split.VOCAB,
            **_self_attention("model.decoder.layers.*.self_attn"),
            "model.decoder.layers.*.fc1": Split.COLUMN,
            "model.decoder.layers.*.fc2": Split.ROW,
        },
        {"*.self_attn": ("num_heads", "embed_dim")},
    ),
}
"""Families without a plan of transformers' own: model_type -> (patterns, attributes that count heads)."""


def divisions(model: nn.Module, config: Any) -> tuple[dict[str, Split], dict[str, tuple[str, ...]]]:
    """(module name -> how it is divided, pattern -> attributes that count its heads); nothing where neither
    transformers nor a table tells.

    Args:
        model: as transformers makes it.
        config: its configuration.
    """
    table, counts = FAMILIES.get(config.model_type, ({}, {}))
    found: dict[str, Split] = {}
    for path, module in model.named_modules():
        split = _of_table(table, path) if table else _of_plan(model, path, module)
        if split is not None:
            found[path] = split
    if not table:  # transformers moves the input of each layer; here it is moved once for all layers of a module
        divided = [p for p, split in found.items() if split in (Split.COLUMN, Split.COLUMN_HEADS)]
        found = {**{path.rpartition(".")[0]: Split.INPUT for path in divided}, **found}
    if not {Split.COLUMN, Split.COLUMN_HEADS, Split.COLUMN_QKV} & set(found.values()):
        return {}, {}
    return found, counts


def _of_table(table: Mapping[str, Split], path: str) -> Split | None:
    return next((split for pattern, split in table.items() if fnmatchcase(path, pattern)), None)


def _of_plan(model: Any, path: str, module: nn.Module) -> Split | None:
    style = (model.tp_plan or {}).get(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path))
    if style == "colwise_gather_output" and module is not model.get_output_embeddings():
        return None
    split, name = STYLES.get(style or ""), path.rpartition(".")[2]
    if split is Split.COLUMN and name in PROJECTIONS:
        return Split.COLUMN_HEADS
    return Split.ROW_HEADS if split is Split.ROW and name in AFTER else split


def with_adapters(model: nn.Module, divided: Mapping[str, Split]) -> dict[str, Split]:
    """How a model is divided whose layers have low-rank adapters, from how it is without; nothing where an adapter is
    of stacked experts.

    Beside divided outputs, A is whole and B divided as the layer is; beside divided inputs, A is, and B sees the sum.
    """
    found: dict[str, Split] = {}
    for path, split in divided.items():
        module = model.get_submodule(path)
        if not hasattr(module, "lora_A"):
            found[path] = split
        elif split is Split.EXPERTS:
            return {}
        elif split in (Split.ROW, Split.ROW_HEADS):
            found |= {f"{path}.base_layer": split, f"{path}.lora_A.default": split}
            found[f"{path}.lora_B.default"] = Split.SEQUENCE
        else:
            found |= {f"{path}.base_layer": split, f"{path}.lora_A.default": Split.WHOLE}
            found[f"{path}.lora_B.default"] = split
    return found


def by_tokens(model: Any, divided: Mapping[str, Split], blocks: tuple[str, ...]) -> dict[str, Split] | None:
    """The modules that see a share of the tokens under sequence parallelism, or None where layers may need them all.

    Only a family with a plan of transformers' own has layers that take the length of a sequence from what they are
    given; and whatever has a matrix in the blocks must be divided, or it would work on a share of the tokens unseen.
    """
    if not getattr(model, "tp_plan", None) or Split.EXPERTS in divided.values() or Split.VOCAB not in divided.values():
        return None
    inside = [(n, m) for n, m in model.named_modules() if any(n.startswith(f"{block}.") for block in blocks)]
    if any(p.ndim > 1 for name, m in inside if name not in divided for p in m.parameters(recurse=False)):
        return None
    norms = [n for n, m in model.named_modules() if "norm" in type(m).__name__.lower() and n not in divided]
    return dict.fromkeys(norms, Split.SEQUENCE)
