"""A decoder-only transformer on text: pre-norm, fused attention, GELU feed-forward, learned positions, no biases.

Tensor names end in their shape: B samples, L tokens of a sample, D width, H heads, K width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from harness.errors import InputError
from harness.workloads import initial
from harness.workloads.workload import Workload
from strategies.cross_entropy import cross_entropy
from strategies.facts import ModelFacts, Split

if TYPE_CHECKING:
    import numpy as np

    from harness.workloads.data import TokenData

SIZES: dict[str, dict[str, Any]] = {
    "nano": {"blocks": 4, "width": 256, "heads": 4, "seq": 128, "global_batch_size": 8},
    "mini": {"blocks": 8, "width": 512, "heads": 8, "seq": 256, "global_batch_size": 16},
    "124m": {"blocks": 12, "width": 768, "heads": 12, "seq": 1024, "global_batch_size": 32},
    "350m": {"blocks": 24, "width": 1024, "heads": 16, "seq": 1024, "global_batch_size": 32},
    "1.3b": {"blocks": 24, "width": 2048, "heads": 16, "seq": 2048, "global_batch_size": 32},
}
"""Named sizes; nano is meant for a CPU, 124m and up follow the shapes of GPT-2 and GPT-3."""


class Attention(nn.Module):
    """Causal self-attention. The number of heads is read off the weight, so it also works on a share of them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(x_BLD)
        batch, length, features = qkv.shape
        heads = features // (3 * self.head_dim)
        q_BHLK, k_BHLK, v_BHLK = qkv.view(batch, length, 3, heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y_BHLK = F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, is_causal=True)
        out_BLD: torch.Tensor = self.proj(y_BHLK.transpose(1, 2).reshape(batch, length, heads * self.head_dim))
        return out_BLD


class FeedForward(nn.Module):
    """Two matrices with a GELU between, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        out_BLD: torch.Tensor = self.down(F.gelu(self.up(x_BLD)))
        return out_BLD


class Block(nn.Module):
    """One layer: attention and feed-forward, each after a norm and added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, bias=False)
        self.attention = Attention(width, heads)
        self.norm_feed_forward = nn.LayerNorm(width, bias=False)
        self.feed_forward = FeedForward(width)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        x_BLD = x_BLD + self.attention(self.norm_attention(x_BLD))
        x_BLD = x_BLD + self.feed_forward(self.norm_feed_forward(x_BLD))
        return x_BLD


class Stem(nn.Module):
    """Token and position embeddings."""

    def __init__(self, vocab: int, seq: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.positions = nn.Embedding(seq, width)

    def forward(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        x_BLD: torch.Tensor = self.tokens(tokens_BL) + self.positions.weight[: tokens_BL.shape[1]]
        return x_BLD


class Head(nn.Module):
    """Final norm and projection to the vocabulary."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.logits = nn.Linear(width, vocab, bias=False)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        logits_BLV: torch.Tensor = self.logits(self.norm(x_BLD))
        return logits_BLV


class GptModel(nn.Module):
    """stem, blocks, head."""

    def __init__(self, config: Gpt) -> None:
        super().__init__()
        stem = Stem(config.vocab_size, config.seq, config.width)
        self.blocks = nn.ModuleDict({str(i): Block(config.width, config.heads) for i in range(config.blocks)})
        head = Head(config.vocab_size, config.width)
        if config.tied:
            head.logits.weight = stem.tokens.weight
        self.stem, self.head = stem, head

    def forward(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """Tokens to logits `[B, L, V]`."""
        x_BLD = self.stem(tokens_BL)
        for block in self.blocks.values():
            x_BLD = block(x_BLD)
        logits_BLV: torch.Tensor = self.head(x_BLD)
        return logits_BLV


@dataclass(frozen=True, kw_only=True)
class Gpt(Workload):
    """Next-token prediction with a decoder-only transformer."""

    family: ClassVar[str] = "gpt"
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    initial_values: ClassVar[str] = initial.METHOD

    data: TokenData
    """The tokens to train on; they also set the vocabulary."""
    blocks: int
    """Transformer blocks."""
    width: int
    """Features of the stream; a multiple of `heads`."""
    heads: int
    """Attention heads."""
    seq: int
    """Tokens of one sample."""
    tied: bool = False
    """Whether the output projection is the transposed token embedding."""

    def __post_init__(self) -> None:
        for name in ("blocks", "width", "heads", "seq", "global_batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, but got {getattr(self, name)}")
        if self.width % self.heads:
            raise InputError(f"width must be a multiple of heads, but got (width={self.width}, heads={self.heads})")

    def prepare(self) -> None:
        self.data.store()

    @property
    def seq_len(self) -> int:
        return self.seq

    @property
    def vocab_size(self) -> int:
        """Number of distinct tokens."""
        return self.data.vocab_size

    def identity(self) -> dict[str, Any]:
        model = {name: getattr(self, name) for name in ("blocks", "width", "heads", "seq", "tied", "vocab_size")}
        return {**self.common_identity(), **model, "data": self.data.data_id}

    def facts(self) -> ModelFacts:
        return ModelFacts(
            parameters=self.parameters,
            blocks=tuple(f"blocks.{i}" for i in range(self.blocks)),
            block_flops=self.seq * (24.0 * self.width**2 + 4.0 * self.seq * self.width),
            head_flops=self.seq * 2.0 * self.width * self.vocab_size,
            tensor_parallel={
                "stem.tokens": Split.VOCAB,
                "blocks.*.norm_attention": Split.SEQUENCE,
                "blocks.*.attention.qkv": Split.COLUMN_QKV,
                "blocks.*.attention.proj": Split.ROW_HEADS,
                "blocks.*.norm_feed_forward": Split.SEQUENCE,
                "blocks.*.feed_forward.up": Split.COLUMN,
                "blocks.*.feed_forward.down": Split.ROW,
                "head.norm": Split.SEQUENCE,
                "head.logits": Split.VOCAB,
            },
            heads=self.heads,
            head_dim=self.width // self.heads,
            vocab_size=self.vocab_size,
            width=self.width,
            hidden=4 * self.width,
            sequence_parallel=True,
            stem=("stem",),
            stream=(self.seq, self.width),
            outputs=(self.seq, self.vocab_size),
            head="head.logits",
            tied=self.tied,
        )

    @property
    def parameters(self) -> int:
        """12 D^2 + 2 D a block, embeddings, final norm, and the output projection unless it is tied."""
        block = 12 * self.width**2 + 2 * self.width
        vocabulary = self.vocab_size * self.width * (1 if self.tied else 2)
        return self.blocks * block + vocabulary + self.seq * self.width + self.width

    def build(self) -> nn.Module:
        return GptModel(self)

    def initial(self, name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        if len(shape) == 1:
            return torch.ones(shape, device=device)
        # GPT-2's initialisation: 0.02, and smaller by the square root of the residual additions before the stream.
        std = 0.02 / (2 * self.blocks) ** 0.5 if name.endswith(("proj.weight", "down.weight")) else 0.02
        return initial.normal(self.seed, name, shape, std, device)

    def samples(self, step: int, indices: np.ndarray) -> dict[str, torch.Tensor]:
        windows = torch.from_numpy(self.data.windows(step, indices, self.seq, self.seed))
        return {"tokens": windows[:, :-1].contiguous(), "next": windows[:, 1:].contiguous()}

    @property
    def predictions(self) -> float:
        return float(self.seq)

    def loss(self, outputs: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
        return cross_entropy(outputs, batch["next"]), float(batch["next"].numel())

    def flops_per_step(self) -> float:
        """6 N FLOPs a token for the matrices and 12 L D a block for attention (PaLM, arXiv:2204.02311, appendix B).

        N counts the matrices that multiply: the blocks' 12 D^2 each and the output projection.
        """
        matrices = self.blocks * 12 * self.width**2 + self.vocab_size * self.width
        attention = self.blocks * 12 * self.seq * self.width
        return float(self.tokens_per_step) * (6 * matrices + attention)
