"""What strategies may know of a model and a machine before anything is built."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

EXPERT_TILE = 16
"""Features of stacked experts that stay together: torch's grouped products need rows whose bytes are a multiple of 16,
in every format."""


class Split(enum.Enum):
    """How tensor parallelism divides a module's weight over the ranks of a tensor-parallel group."""

    COLUMN = "column"
    """Output features: each rank computes its own share of the outputs."""
    COLUMN_HEADS = "column_heads"
    """Output features in units of whole key-value heads, each with the query heads that share it."""
    COLUMN_QKV = "column_qkv"
    """A fused query-key-value projection `[3 * heads * head_dim, width]`, divided by whole heads."""
    ROW = "row"
    """Input features: each rank's output is a partial sum."""
    ROW_HEADS = "row_heads"
    """Input features in units of whole heads (the projection after attention)."""
    VOCAB = "vocab"
    """An embedding's rows, or the output projection's vocabulary."""
    EXPERTS = "experts"
    """Experts stacked in `gate_up_proj [experts, 2 * hidden, width]` and `down_proj [experts, width, hidden]`: of each
    one a share of its hidden features."""
    INPUT = "input"
    """Not divided itself; the stream that goes into it, and on into its divided modules, is moved here, once for all
    of them."""
    WHOLE = "whole"
    """Not divided, but what it sees or makes is a share of the features, such as a norm of each head."""
    SEQUENCE = "sequence"
    """Not divided; with sequence parallelism it sees only its rank's share of the sequence."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What one sample takes of a model, counted in a pass of it; of blocks, the mean over all of them."""

    block_parameters: float
    """Parameters of a block."""
    block_trained: float
    """Those of them that are trained."""
    block_flops: float
    """FLOPs of a block's forward pass."""
    forward_flops: float
    """FLOPs of the forward pass."""
    flops: float
    """FLOPs of the forward and the backward pass."""
    outputs: int
    """Numbers that the model returns."""
    kept_stream: tuple[float, float]
    """Bytes that a block keeps for its backward pass and that are as wide as the stream between blocks, of a model in
    fp32 and of one in bf16."""
    kept_inside: tuple[float, float]
    """Likewise of all else that it keeps."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What strategies may know of a model without building it."""

    parameters: int
    """Number of parameters, tied ones counted once."""
    frozen: int = 0
    """How many of them are not trained."""
    quantized: int = 0
    """How many of these are kept in 4 bits, whatever the precision."""
    quantized_bytes: int = 0
    """What those take, scales included, in B."""
    blocks: tuple[str, ...]
    """Fully qualified names of the repeated blocks, in order; () if the model has none."""
    block_flops: float = 1.0
    """Forward FLOPs of one block for one sample, to balance pipeline stages."""
    head_flops: float = 0.0
    """Forward FLOPs of the part after the blocks, for one sample."""
    tensor_parallel: Mapping[str, Split] = field(default_factory=dict)
    """Module name pattern (fnmatch) -> how its weight is divided; empty if tensor parallelism does not apply."""
    heads: int = 0
    """Attention heads."""
    kv_heads: int = 0
    """Heads of keys and values; 0 if there are as many as `heads`."""
    counts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Module name pattern -> attributes in which a module counts heads or features of heads, of which a rank that has a
    share of them must count its share."""
    sequence_parallel: bool = False
    """Whether what is not divided in the blocks can work on a share of the tokens."""
    head_dim: int = 0
    """Width of one attention head."""
    vocab_size: int = 0
    """Rows of the embedding."""
    width: int = 0
    """Features of the stream between blocks; 0 if the blocks do not share one shape."""
    hidden: int = 0
    """Features inside the feed-forward part of a block."""
    stem: tuple[str, ...] = ()
    """Names of the modules that run before the blocks, if the model may be cut into pipeline stages: each block takes
    the stream as its first argument and returns it to the next, and what else has parameters runs after the last."""
    tail: tuple[str, ...] = ()
    """Names of the parameters that the last stage holds beside its blocks, where the model brings `strategies.stages.
    Stages`; the names in `stem` are then likewise those of the first stage's parameters."""
    stream: tuple[int, ...] = ()
    """Shape of one sample's stream between blocks, if they stand in a row; its first dimension is the one that sequence
    parallelism divides."""
    outputs: tuple[int, ...] = ()
    """Shape of what the model returns for one sample, if its blocks stand in a row."""
    head: str = ""
    """Name of the linear layer whose outputs the model returns as they are, if the loss is a sum over tokens."""
    attention: tuple[str, ...] = ()
    """Implementations of attention, that which the model takes by itself first, if it has transformers' method
    `set_attn_implementation`."""
    experts: int = 0
    """Feed-forward parts of a block that tokens are divided over; 0 if there is one for all."""
    active_experts: int = 0
    """Those that a token goes through."""
    counted: Counted | None = None
    """What one sample takes, if it was counted."""
    whole_because: str = ""
    """Why it cannot be cut into stages, the second half of a sentence."""
    tied: bool = False
    """Whether parameters have several names."""
    keeps_dropout: bool = False
    """Whether it drops values, by masks that `strategies.dropout` makes."""
    shared_blocks: bool = False
    """Whether a block shares a parameter with another block, or with what is around the blocks."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a `check` may know: the workload's shape and the machine, nothing that needs torch to run."""

    device_type: str
    """Torch's name of it: "cpu", "cuda" (AMD's devices too), "xpu"."""
    world_size: int
    """Number of ranks."""
    global_batch_size: int
    """Samples of one optimizer step over all ranks."""
    seq_len: int
    """Tokens of one sample; 1 if samples are not sequences."""
    workload: str
    """Name of the workload, for sentences."""
    model: ModelFacts
    extras: frozenset[str] = frozenset()
    """Optional packages that can be imported here ("torchao", ...)."""
    compiler: bool = False
    """Whether kernels can be compiled on this machine: a compiler and Python's headers are there."""
    capability: tuple[int, int] | None = None
    """NVIDIA's compute capability of the least capable device, such as (9, 0); None for all other devices."""
    architecture: str | None = None
    """AMD's name of its devices' architecture, such as "gfx942"; None for all other devices."""
