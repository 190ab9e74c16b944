"""Frozen matrices in 4 bits: the NormalFloat of QLoRA with doubly quantised scales (Dettmers et al. 2023,
arXiv:2305.14314).

A matrix is taken as a row of blocks of `BLOCK` values. Of a block b with its largest magnitude s_b,

    code_i = the number of the value of `LEVELS` nearest to w_i / s_b                      4 bits a value
    s_b ~ mean + c_b d_g / 127, c_b = round(127 (s_b - mean) / d_g)                        8 bits a block
    d_g = the largest |s_b - mean| in a group g of `GROUP` blocks, and mean that of all s  32 bits a group

and w_i ~ LEVELS[code_i] (mean + c_b d_g / 127): 4.127 bits a value. The 8 bits are integers, as in torchao, where the
paper has floats: of values on both sides of their mean integers keep more. All of it is one tensor of bytes, `mean`, d,
c and then two codes in each byte, so that it is divided, sent and kept as any other frozen parameter.

The packages that have this were tried: torchao's NF4Tensor takes matrices of multiples of 16,384 values alone, and its
pieces only evenly; bitsandbytes takes 2.7 s to import, and is as fast on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

BLOCK = 64
"""Values that share a scale."""
GROUP = 256
"""Blocks whose scales share a scale."""
LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Quantiles of the normal distribution, scaled to a largest magnitude of 1, one of them zero (appendix E there)."""
STORED = torch.int8
"""Number format of the bytes: models that cast what they multiply to the format of a weight leave it alone for this."""


def stored_bytes(values: int) -> int:
    """Bytes that hold a matrix of so many values."""
    blocks = -(-values // BLOCK)
    return 4 * (1 + -(-blocks // GROUP)) + blocks + blocks * BLOCK // 2


def quantised(value: torch.Tensor) -> torch.Tensor:
    """`[stored_bytes]` of a matrix, on its device; a function of its values alone.

    Args:
        value: in fp32, of any shape.
    """
    flat = value.detach().float().flatten()
    w_BK = F.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    scale_B = w_BK.abs().amax(1)
    unit_BK = w_BK / scale_B.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)
    levels = torch.tensor(LEVELS, device=value.device)
    code_BK = torch.bucketize(unit_BK, (levels[1:] + levels[:-1]) / 2, out_int32=True).to(torch.uint8)
    mean = scale_B.double().mean().float()  # in fp32 it would depend on how many threads add up
    off_GN = F.pad(scale_B - mean, (0, -scale_B.numel() % GROUP)).view(-1, GROUP)
    most_G = off_GN.abs().amax(1)
    step_G = most_G.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1) / 127
    rounded_B = (off_GN / step_G).round().to(torch.int8).flatten()[: scale_B.numel()]
    packed = code_BK[:, 0::2] * 16 + code_BK[:, 1::2]
    parts = (torch.cat([mean.view(1), most_G]), rounded_B, packed.flatten())
    return torch.cat([part.view(torch.uint8) for part in parts]).view(STORED)


def dequantised(stored: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """The matrix.

    Args:
        stored: what `quantised` made of it.
        shape: of the matrix.
        dtype: of the result; scales are rounded to it before they are multiplied.
    """
    values = torch.Size(shape).numel()
    blocks = -(-values // BLOCK)
    floats = 4 * (1 + -(-blocks // GROUP))
    constants = stored[:floats].view(torch.float32)
    step_B = (constants[1:] / 127).repeat_interleave(GROUP)[:blocks]
    scale_B = constants[0] + stored[floats : floats + blocks] * step_B
    levels = torch.tensor(LEVELS, dtype=dtype, device=stored.device)
    # Both values of a byte at once.
    pairs = torch.stack([levels.repeat_interleave(16), levels.repeat(16)], 1)
    value_BK = F.embedding(stored[floats + blocks :].view(torch.uint8).int(), pairs).view(blocks, BLOCK)
    return value_BK.mul_(scale_B.to(dtype).unsqueeze(1)).view(-1)[:values].view(*shape)


class _Product(torch.autograd.Function):
    """x W^T with W made anew in both passes, so that neither keeps it; W has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, stored: torch.Tensor, shape: tuple[int, int], turned: bool) -> torch.Tensor:
        ctx.save_for_backward(stored)
        ctx.shape, ctx.turned = shape, turned
        weight = dequantised(stored, shape, x.dtype)
        return F.linear(x, weight.T if turned else weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (stored,) = ctx.saved_tensors
        weight = dequantised(stored, ctx.shape, grad.dtype)
        return grad @ (weight.T if ctx.turned else weight), None, None, None


class Quantised(nn.Module):
    """A frozen linear layer whose matrix is kept in 4 bits.

    Args:
        layer: a Linear, or a Conv1D of transformers, whose matrix is transposed; it may have no content.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        weight: Any = layer.weight
        self.shape, self.turned = tuple(weight.shape), is_turned(layer)
        self.out_features, self.in_features = self.shape[::-1] if self.turned else self.shape
        empty = torch.empty(stored_bytes(weight.numel()), dtype=STORED, device=weight.device)
        self.weight = nn.Parameter(empty, requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.device.type
        if not x.is_floating_point():
            raise TypeError(
                "the model casts what it multiplies to the number format of a weight, which has 4 bits here"
            )
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        out: torch.Tensor = _Product.apply(x, self.weight, self.shape, self.turned)
        return out if self.bias is None else out + self.bias.to(out.dtype)  # type: ignore[operator]


def is_turned(layer: nn.Module) -> bool:
    """Whether a layer's matrix is `[inputs, outputs]`."""
    return type(layer).__name__ == "Conv1D"


def quantisable(model: nn.Module, blocks: Sequence[str]) -> dict[str, nn.Module]:
    """Name -> layer, of the layers in the blocks whose matrix is frozen and no other module's."""
    holders: dict[nn.Parameter, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders[parameter] = holders.get(parameter, 0) + 1
    return {
        name: module
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or is_turned(module))
        and any(name.startswith(f"{block}.") for block in blocks)
        and not any(p.requires_grad for p in module.parameters())
        and holders[module.weight] == 1
    }


def quantise(model: nn.Module, blocks: Sequence[str]) -> None:
    """Put a `Quantised` in the place of each `quantisable` layer."""
    for name, layer in quantisable(model, blocks).items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, Quantised(layer))
