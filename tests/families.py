"""Configurations of architectures of transformers, as small as a test needs and dividing by nothing.

OPT and T5 have a smooth activation in place of their ReLU: where the order of additions decides on which side of its
kink one of so few hidden values lies, the gradient's norm jumps by up to a thousandth, under any plan.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LAYERS, VOCABULARY = 5, 257
_LM: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_LM, "num_key_value_heads": 2, "intermediate_size": 101, "tie_word_embeddings": False}
_ENCODER = {**_LM, "intermediate_size": 99, "id2label": {str(i): f"class {i}" for i in range(3)}}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **_GROUPED},
    "qwen3": {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        **_GROUPED,
        "head_dim": 8,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": VOCABULARY,
        "n_embd": 48,
        "n_layer": LAYERS,
        "n_head": 6,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt-neox": {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        **_LM,
        "intermediate_size": 101,
        "hidden_dropout": 0.1,
        "tie_word_embeddings": False,
    },
    "opt": {
        "model_type": "opt",
        "architectures": ["OPTForCausalLM"],
        **_LM,
        "ffn_dim": 101,
        "word_embed_proj_dim": 48,
        "activation_function": "gelu",
    },
    "mixtral": {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        **_GROUPED,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "bert": {"model_type": "bert", "architectures": ["BertForSequenceClassification"], **_ENCODER},
    "t5": {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": VOCABULARY,
        "d_model": 48,
        "d_kv": 8,
        "d_ff": 101,
        "num_layers": LAYERS,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
    "bart": {
        "model_type": "bart",
        "architectures": ["BartForConditionalGeneration"],
        "vocab_size": VOCABULARY,
        "d_model": 48,
        "encoder_layers": LAYERS,
        "decoder_layers": LAYERS,
        "encoder_attention_heads": 6,
        "decoder_attention_heads": 6,
        "encoder_ffn_dim": 101,
        "decoder_ffn_dim": 101,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    },
    "vit": {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        **{name: value for name, value in _ENCODER.items() if "token" not in name and name != "vocab_size"},
        "id2label": {str(i): str(i) for i in range(10)},
        "image_size": 8,
        "patch_size": 2,
    },
}
"""Name -> config.json."""


def written(family: str, folder: Path, **changes: Any) -> Path:
    """A folder with the config.json of a family."""
    model = folder / family
    model.mkdir(parents=True, exist_ok=True)
    (model / "config.json").write_text(json.dumps({**FAMILIES[family], **changes}))
    return model
