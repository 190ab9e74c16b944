"""A transformer as formulas see it: its dimensions, and what follows from them.

Every dimension may be a numpy array instead of a number; then every property is one too, element by element.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from harness.errors import InputError
from strategies.facts import ModelFacts

Number: TypeAlias = Any
"""A number, or a numpy array of numbers that formulas take element by element."""

Flag: TypeAlias = Any
"""True or False, or a numpy array of them."""


CLOSE = 0.05
"""Share of its parameters by which a model may differ from the formulas' and still be described by them."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder-only transformer; a stack of equal layers between an embedding and an output projection."""

    width: Number
    """Features of the stream between layers."""
    layers: Number
    """Transformer layers."""
    heads: Number
    """Attention heads."""
    kv_heads: Number
    """Heads of keys and values; fewer than `heads` where queries share them (Ainslie et al. 2023, arXiv:2305.13245)."""
    hidden: Number
    """Features inside the feed-forward part."""
    gated: Flag = False
    """Whether the feed-forward part has a gate, a third matrix (SwiGLU, Shazeer 2020, arXiv:2002.05202)."""
    seq_len: Number
    """Tokens of one sample."""
    vocab: Number
    """Rows of the embedding."""
    tied: Flag = True
    """Whether the output projection is the embedding, transposed."""
    positions: Flag = True
    """Whether positions are learned, `seq_len` rows of `width`."""
    biases: Flag = False
    """Whether matrices and norms have biases."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "kv_heads", "hidden", "seq_len", "vocab"):
            if np.any(np.less(getattr(self, name), 1)):
                raise InputError(f"{name} must be at least 1, but got {getattr(self, name)}")

    @classmethod
    def of_facts(cls, model: ModelFacts, seq_len: int) -> Shape:
        """The shape of a workload's model. Whether it has gates, biases and learned positions is told by how many
        parameters it has.

        Raises:
            InputError: the model is no stack of attention layers with as many parameters, or is not trained whole, so
                these formulas say nothing about it.
        """
        if not (model.blocks and model.width and model.heads):
            raise InputError("closed forms are for transformers, but this model has no attention layers of one width")
        if model.quantized:
            raise InputError("closed forms are for parameters of one number format, but this model has some in 4 bits")
        if model.frozen:
            raise InputError("closed forms are for models that are trained whole, but this one is frozen in part")
        known: dict[str, Any] = {
            "width": model.width,
            "layers": len(model.blocks),
            "heads": model.heads,
            "kv_heads": model.kv_heads or model.heads,
            "hidden": model.hidden or 4 * model.width,
            "seq_len": seq_len,
            "vocab": model.vocab_size,
            "tied": model.tied,
        }
        kinds = itertools.product((True, False), (False, True), (False, True))
        shapes = [cls(**known, positions=p, biases=b, gated=g) for p, b, g in kinds]
        nearest = min(shapes, key=lambda shape: abs(shape.parameters - model.parameters))
        if abs(nearest.parameters - model.parameters) > CLOSE * model.parameters:
            raise InputError(
                f"closed forms are for decoders of equal layers, which would have {nearest.parameters:,.0f} parameters "
                f"with these dimensions, but this model has {model.parameters:,}"
            )
        return nearest

    @property
    def kv_share(self) -> Number:
        """Width of keys (or of values) as a share of the width of queries."""
        return self.kv_heads / self.heads

    @property
    def layer_weights(self) -> Number:
        """Elements of the matrices of one layer: 12 width^2 where hidden is 4 width and every head has its own keys."""
        attention = (2 + 2 * self.kv_share) * self.width**2
        return attention + (2 + 1 * self.gated) * self.width * self.hidden

    @property
    def layer_parameters(self) -> Number:
        """Parameters of one layer, norms included."""
        norms = 2 * self.width * (1 + 1 * self.biases)
        biases = (1 * self.biases) * ((3 + 2 * self.kv_share) * self.width + (1 + 1 * self.gated) * self.hidden)
        return self.layer_weights + norms + biases

    @property
    def embedding_parameters(self) -> Number:
        """Parameters of what stands before the layers."""
        return (self.vocab + (1 * self.positions) * self.seq_len) * self.width

    @property
    def head_parameters(self) -> Number:
        """Parameters of what stands behind the layers and belongs to nothing else: the last norm, and the projection
        unless it is tied."""
        return self.width * (1 + 1 * self.biases) + (1 - 1 * self.tied) * self.vocab * self.width

    @property
    def parameters(self) -> Number:
        """Parameters of the model, tied ones once."""
        return self.layers * self.layer_parameters + self.embedding_parameters + self.head_parameters

    @property
    def flops_per_token(self) -> Number:
        """Model FLOPs of one token, forward and backward: 6 for each weight that multiplies, 12 seq_len width a layer.

        Attention counts in full, also where a causal kernel skips half of it; recomputation does not count
        (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
        """
        matrices = self.layers * self.layer_weights + self.vocab * self.width
        return 6 * matrices + 12 * self.layers * self.seq_len * self.width
