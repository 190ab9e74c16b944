"""A transformer as formulas see it: its dimensions, and what follows from them or was counted of its model.

Every dimension may be a numpy array instead of a number; then every property is one too, element by element.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from harness.errors import InputError
from strategies.facts import Counted, ModelFacts, Split

Number: TypeAlias = Any
"""A number, or a numpy array of numbers that formulas take element by element."""

Flag: TypeAlias = Any
"""True or False, or a numpy array of them."""


CLOSE = 0.05
"""Share of its parameters by which a model may differ from the formulas' and still be described by them."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A stack of equal layers between an embedding and an output projection.

    A model whose layers differ, or differ from those of a GPT, is described by their mean and by what was counted of
    them (`strategies.facts.Counted`): an encoder and a decoder, experts, adapters beside frozen matrices.
    """

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
    attention: Number = 0
    """Features of all heads together; 0: as many as `width`."""
    experts: Number = 1
    """Feed-forward parts of a layer."""
    active: Number = 1
    """Those of them that a token goes through."""
    counted_layer: Number = 0
    """Parameters of a layer as they were counted; 0: as the formula has them."""
    counted_ends: Number = 0
    """Likewise of what is around the layers."""
    trained: Number = 1.0
    """Share of a layer's parameters that are trained."""
    trained_ends: Number = 1.0
    """Share of the parameters around the layers that are."""
    work: Number = 1.0
    """Counted FLOPs of a layer over the formula's."""
    backward: Number = 2.0
    """FLOPs of the backward pass over those of the forward pass: a frozen matrix has no gradient of its own."""
    token_flops: Number = 0
    """Counted FLOPs of a token, forward and backward; 0: as the formula has them."""
    keeps_stream: Number = 1.0
    """Counted bytes as wide as the stream that a layer keeps in fp32, over the formula's."""
    keeps_inside: Number = 1.0
    """Likewise of all else that a layer keeps."""
    keeps_stream_16: Number = 1.0
    """As `keeps_stream`, in 16 bits."""
    keeps_inside_16: Number = 1.0
    """As `keeps_inside`, in 16 bits."""
    whole_ends: Flag = False
    """Whether tensor parallelism leaves what is around the layers as it is."""
    logits: Number = 0
    """Numbers that the model returns for each token; 0: `vocab`."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "kv_heads", "hidden", "seq_len", "vocab"):
            if np.any(np.less(getattr(self, name), 1)):
                raise InputError(f"{name} must be at least 1, but got {getattr(self, name)}")

    @classmethod
    def of_facts(cls, model: ModelFacts, seq_len: int) -> Shape:
        """The shape of a workload's model. Whether it has gates, biases and learned positions is told by how many
        parameters it has.

        Raises:
            InputError: the model is no stack of attention layers, or nothing was counted of it and it has other
                parameters than the formulas' or is not trained whole, so these say nothing about it.
        """
        if not (model.blocks and model.width and model.heads):
            raise InputError("closed forms are for transformers, but this model has no attention layers of one width")
        if model.quantized:
            raise InputError("closed forms are for parameters of one number format, but this model has some in 4 bits")
        if model.counted is None and model.frozen:
            raise InputError("closed forms are for models that are trained whole, but this one is frozen in part")
        if model.counted is None and model.experts:
            raise InputError(
                "closed forms are for experts that work at once, but those of this model run one after the other, and "
                "what they keep depends on which tokens each gets; it is measured, not predicted"
            )
        known: dict[str, Any] = {
            "width": model.width,
            "layers": len(model.blocks),
            "heads": model.heads,
            "kv_heads": model.kv_heads or model.heads,
            "hidden": model.hidden or 4 * model.width,
            "seq_len": seq_len if model.vocab_size or not model.stream else model.stream[0],  # patches of a picture
            "vocab": max(model.vocab_size, 1),
            "tied": model.tied,
        }
        if model.counted is not None:
            return cls._counted(model, model.counted, known)
        kinds = itertools.product((True, False), (False, True), (False, True))
        shapes = [cls(**known, positions=p, biases=b, gated=g) for p, b, g in kinds]
        nearest = min(shapes, key=lambda shape: abs(shape.parameters - model.parameters))
        if abs(nearest.parameters - model.parameters) > CLOSE * model.parameters:
            raise InputError(
                f"closed forms are for decoders of equal layers, which would have {nearest.parameters:,.0f} parameters "
                f"with these dimensions, but this model has {model.parameters:,}"
            )
        return nearest

    @classmethod
    def _counted(cls, model: ModelFacts, counted: Counted, known: Mapping[str, Any]) -> Shape:
        """The shape with those dimensions that has what was counted."""
        many = {"experts": model.experts or 1, "active": model.active_experts or 1}
        plain = {**known, **many, "attention": model.heads * model.head_dim, "positions": False}
        shapes = [cls(**plain, biases=b, gated=g) for b, g in itertools.product((False, True), (False, True))]
        nearest = min(shapes, key=lambda shape: abs(shape.layer_parameters - counted.block_parameters))
        tokens, layers = nearest.seq_len, nearest.layers
        ends = model.parameters - layers * counted.block_parameters
        trained_ends = model.parameters - model.frozen - layers * counted.block_trained
        scores, features = 4 * tokens * nearest.inside, nearest.projected + nearest.fed
        stream, inside = ([size / tokens for size in kept] for kept in (counted.kept_stream, counted.kept_inside))
        return replace(
            nearest,
            counted_layer=counted.block_parameters,
            counted_ends=ends,
            trained=counted.block_trained / counted.block_parameters,
            trained_ends=min(max(trained_ends / ends, 0.0), 1.0),
            work=float(counted.block_flops / (tokens * (2 * nearest.layer_weights + scores))),
            backward=counted.flops / counted.forward_flops - 1,
            token_flops=counted.flops / tokens,
            keeps_stream=stream[0] / (4 * nearest.width * 4),
            keeps_stream_16=stream[1] / (4 * nearest.width * 2),
            keeps_inside=float(inside[0] / (4 * features + 4 * nearest.heads)),
            keeps_inside_16=float(inside[1] / (2 * features + 4 * nearest.heads)),
            logits=counted.outputs / tokens,
            whole_ends=Split.VOCAB not in model.tensor_parallel.values(),
        )

    @property
    def inside(self) -> Number:
        """Features of all heads together."""
        return np.where(np.greater(self.attention, 0), self.attention, self.width)

    @property
    def columns(self) -> Number:
        """Numbers that the model returns for each token."""
        return np.where(np.greater(self.logits, 0), self.logits, self.vocab)

    @property
    def projected(self) -> Number:
        """Features of a token that a layer keeps of attention: queries, keys, values, and their weighted sum."""
        return (2 + 2 * self.kv_share) * self.inside

    @property
    def fed(self) -> Number:
        """Features of a token that a layer keeps of its feed-forward part."""
        return self.hidden * self.active * np.where(self.gated, 4, 2)

    @property
    def kv_share(self) -> Number:
        """Width of keys (or of values) as a share of the width of queries."""
        return self.kv_heads / self.heads

    @property
    def layer_weights(self) -> Number:
        """Elements of the matrices of one layer that a token is multiplied by: 12 width^2 where hidden is 4 width and
        every head has its own keys."""
        return self.projected * self.width + self.active * self._expert

    @property
    def layer_parameters(self) -> Number:
        """Parameters of one layer, norms included."""
        norms = 2 * self.width * (1 + 1 * self.biases)
        biases = (1 * self.biases) * ((3 + 2 * self.kv_share) * self.width + (1 + 1 * self.gated) * self.hidden)
        formula = self.layer_weights + (self.experts - self.active) * self._expert + norms + biases
        return np.where(np.greater(self.counted_layer, 0), self.counted_layer, formula)

    def divides_ends(self, tp: Number) -> Number:
        """Ranks of a tensor-parallel group of so many over which what is around the layers is divided."""
        return np.where(self.whole_ends, 1, tp)

    def padded(self, ranks: Number) -> Number:
        """What FSDP2 holds of a layer on the fullest of so many ranks and sends between them, over an even share: it
        divides a parameter by rows, and stacked experts have few."""
        stacked = np.where(np.greater(self.experts, 1), self.experts * self._expert / self.layer_parameters, 0)
        return 1 + np.minimum(stacked, 1) * (ranks * np.ceil(self.experts / ranks) / self.experts - 1)

    @property
    def _expert(self) -> Number:
        """Elements of the matrices of a feed-forward part."""
        return (2 + 1 * self.gated) * self.width * self.hidden

    @property
    def embedding_parameters(self) -> Number:
        """Parameters of what stands before the layers."""
        formula = (self.vocab + (1 * self.positions) * self.seq_len) * self.width
        counted = np.maximum(self.counted_ends - self.head_parameters, 0)
        return np.where(np.greater(self.counted_ends, 0), counted, formula)

    @property
    def head_parameters(self) -> Number:
        """Parameters of what stands behind the layers and belongs to nothing else: the last norm, and the projection
        unless it is tied."""
        return self.width * (1 + 1 * self.biases) + (1 - 1 * self.tied) * self.columns * self.width

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
        formula = 6 * matrices + 12 * self.layers * self.seq_len * self.width
        return np.where(np.greater(self.token_flops, 0), self.token_flops, formula)
