"""Masks of dropout are functions of counters: the same in parts as in the whole, and as random as they must be."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from strategies.activation_checkpoint import wrap
from strategies.dropout import Dropping, Place, Shape, at, keep, kept
from strategies.tensor_parallel import shares

WHOLE: Shape = (1, 6, 20, 10)


def dropped(
    place: Place, *, p: float = 0.3, shape: Shape = WHOLE, whole: Shape = WHOLE, key: str = "0/a", call: int = 0
) -> torch.Tensor:
    """Where a tensor of ones is dropped."""
    ones = torch.ones(place.samples * shape[0], *shape[1:])
    return kept(ones, p, ones.ndim, place, key, call, whole) == 0


def step(number: int = 0, *, first: int = 0, samples: int = 8, rank: int = 0, world: int = 1) -> Place:
    """Some samples of a step."""
    return Place(number, first, samples, rank, world)


@pytest.mark.parametrize("p", [0.0001, 0.1, 0.5, 0.9, 1.0])
def test_as_many_are_dropped_as_asked_and_the_mean_stays(p: float) -> None:
    ones = torch.ones(64, 40, 100)
    out = kept(ones, p, 3, step(samples=64), "0/a", 0, (1, 40, 100))
    spread = 5 * (p * (1 - p) / ones.numel()) ** 0.5
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=spread)
    assert set(out.unique().tolist()) <= {0.0, torch.tensor(1 / (1 - p)).item() if p < 1 else 0.0}


def test_every_counter_makes_another_mask_which_tells_nothing_of_the_others() -> None:
    one = dropped(step(), p=0.5)
    others = [
        dropped(step(1), p=0.5),
        dropped(step(first=8), p=0.5),
        dropped(step(), p=0.5, key="0/b"),
        dropped(step(), p=0.5, key="1/a"),
        dropped(step(), p=0.5, call=1),
        one.roll(1, 0),  # of the next sample
        one.roll(1, 3),  # of the next element
        one.roll(1, 2),
    ]
    for other in others:
        assert (one == other).float().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / one.numel() ** 0.5)


def test_parts_have_their_part_of_the_mask() -> None:
    whole = dropped(step(3))
    for first in (0, 3, 6):
        assert torch.equal(dropped(step(3, first=first, samples=2)), whole[first : first + 2])
    for dim, world in ((1, 2), (1, 4), (2, 2), (3, 3)):  # also where no share is like the others
        counts = shares(WHOLE[dim], world)
        for rank, (begin, end) in enumerate(pairwise([sum(counts[:r]) for r in range(world + 1)])):
            shape = tuple(end - begin if d == dim else n for d, n in enumerate(WHOLE))
            found = dropped(step(3, rank=rank, world=world), shape=shape)
            assert torch.equal(found, whole.narrow(dim, begin, end - begin)), (dim, world, rank)


def test_what_is_no_share_of_the_mask_is_refused() -> None:
    with pytest.raises(RuntimeError, match="it knows no mask"):
        dropped(step(), shape=(1, 6, 10, 10))
    with pytest.raises(RuntimeError, match="it knows no mask"):
        dropped(step(rank=1, world=2), shape=(1, 3, 10, 10))


@pytest.mark.parametrize("way", ["causal", "mask", "bias", "grouped", "scale"])
def test_attention_is_torchs_but_for_the_mask(way: str) -> None:
    q, k, v = torch.randn(3, 2, 4, 5, 8)
    given = {
        "causal": {"is_causal": True},
        "mask": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
        "bias": {"attn_mask": torch.randn(2, 1, 5, 5)},
        "grouped": {"enable_gqa": True},
        "scale": {"scale": 0.3},
    }[way]
    k, v = (k[:, :2], v[:, :2]) if way == "grouped" else (k, v)
    seen = []
    with Dropping(lambda weights, p, dims: (seen.append(p), weights)[1]):
        ours = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1, **given)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, **given))
    assert seen == [0.1]


class Block(nn.Module):
    """Drops twice by a module, and features by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.linear = nn.Dropout(0.5), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout1d(self.drop(self.linear(self.drop(x))), 0.5, self.training)


@pytest.mark.parametrize("selective", [False, True])
def test_recomputation_drops_the_same_after_other_samples_went_by(selective: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block())
    shapes = {f"{i}.drop": ((1, 4, 16), (1, 4, 16)) for i in range(2)} | {f"{i}": ((1, 4),) for i in range(2)}
    keep(model, 0, shapes)
    x = torch.randn(8, 4, 16)

    def gradient() -> torch.Tensor:
        model.zero_grad()
        losses = []
        for first in (0, 4):
            with at(step(5, first=first, samples=4)):
                losses.append(model(x[first : first + 4]).square().sum())
        for loss in losses:
            loss.backward()
        return model[0].linear.weight.grad.clone()

    plain = gradient()
    for block in model:
        wrap(block, selective=selective, dropping=True)
    torch.testing.assert_close(gradient(), plain)
    with at(step(5)):
        model(x)
        with pytest.raises(RuntimeError, match=r"0/0.drop drops more often than when the model was looked at, 2 times"):
            model(x)
