"""Small models of transformers that need no file, with what gpt-nano lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BYTES = 256
"""Tokens where text is taken as UTF-8."""
MARKED = BYTES + 3
"""Tokens where bytes follow those of padding, begin and end."""
_DECODER: dict[str, Any] = {
    "vocab_size": BYTES,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Mini:
    """One of them."""

    task: str
    """What it is trained to do."""
    batch: int
    """Samples of a step."""
    length: int | None
    """Tokens of a sample; None for pictures."""
    config: dict[str, Any]
    """Its configuration."""


MINIS: dict[str, Mini] = {
    # Rotary positions, grouped heads, gates, an output projection of its own.
    "llama-mini": Mini("causal-lm", 8, 128, {"model_type": "llama", **_DECODER, "intermediate_size": 688}),
    # A router, and of each token's experts two of eight.
    "moe-mini": Mini(
        "causal-lm",
        8,
        128,
        {
            "model_type": "mixtral",
            **_DECODER,
            "intermediate_size": 256,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
    ),
    "bert-mini": Mini(
        "sequence-classification",
        32,
        64,
        {
            "model_type": "bert",
            "vocab_size": MARKED,
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
        },
    ),
    "t5-mini": Mini(
        "seq2seq",
        8,
        64,
        {
            "model_type": "t5",
            "vocab_size": MARKED,
            "d_model": 256,
            "d_kv": 32,
            "d_ff": 688,
            "num_layers": 3,
            "num_heads": 8,
            "feed_forward_proj": "gated-gelu",
            "pad_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 0,
        },
    ),
    "vit-mini": Mini(
        "image-classification",
        64,
        None,
        {
            "model_type": "vit",
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "image_size": 8,
            "patch_size": 2,
            "num_channels": 1,
            "id2label": {number: str(number) for number in range(10)},
        },
    ),
}
"""By name."""
