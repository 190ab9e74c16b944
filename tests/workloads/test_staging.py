"""Which models stand in a row of blocks, and why the others do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.errors import InputError
from harness.workloads import staging
from strategies.stages import BROUGHT, Stages

WIDTH, BLOCKS = 8, ("blocks.0", "blocks.1", "blocks.2")


class Straight(nn.Module):
    """A stem, three blocks, a head; a table that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, WIDTH)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, 11, bias=False)
        self.register_buffer("table", torch.ones(WIDTH))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) * self.table
        for block in self.blocks:
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


class Remembering(Straight):
    """What the stem makes is added after the blocks."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        first = x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x + first)  # type: ignore[no-any-return]


class Collecting(Straight):
    """What every block returns is added after the last."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x, seen = self.embed(tokens), []
        for block in self.blocks:
            x = block(x)
            seen.append(x)
        return self.head(torch.stack(seen).sum(0))  # type: ignore[no-any-return]


class Between(Straight):
    """Something is done to the stream between two blocks."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x * 2)
        return self.head(x)  # type: ignore[no-any-return]


class Backwards(Straight):
    """The blocks are called in another order than they stand."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in reversed(self.blocks):
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


class Reading(Straight):
    """The embedding's weight is read, not called, after the blocks."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x) + x @ self.embed.weight.T  # type: ignore[no-any-return]


class Again(Straight):
    """The embedding is called once more at the end."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return super().forward(tokens) + self.embed(tokens).sum()


class Beside(Straight):
    """A parameter stands beside the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(WIDTH))


class Uncalled(Straight):
    """A norm whose weight is read."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return super().forward(tokens) * self.norm.weight.sum()


class Widening(Straight):
    """The blocks return another shape than they take."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH * 2**i, WIDTH * 2 ** (i + 1)) for i in range(3))
        self.head = nn.Linear(WIDTH * 8, 11)


class Tied(Straight):
    """Both ends share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.embed.weight


def found(model: nn.Module, blocks: tuple[str, ...] = BLOCKS) -> staging.Row:
    """Of one sample of five tokens."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            kept = list(module._parameters.items())
            module._parameters.update({name: nn.Parameter(torch.empty(p.shape)) for name, p in kept if p is not None})
        return staging.find(model, [torch.zeros(1, 5, dtype=torch.long)], blocks)


def test_a_row_of_blocks_tells_its_stem_and_its_shapes() -> None:
    assert found(Straight()) == staging.Row(stem=("embed",), stream=(5, WIDTH), outputs=(5, 11))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Remembering, "what embed.weight makes comes to the outputs beside the stream"),
        (Collecting, "what blocks.0.weight makes comes to the outputs beside the stream"),
        (Between, "blocks.1 is not given what the block before it returns"),
        (Backwards, "its blocks are not called one after another"),
        (Reading, "what embed.weight makes comes to the outputs beside the stream"),
        (Again, "embed runs among the blocks or again after them"),
        (Beside, "the model itself holds parameters beside the blocks; put them into a submodule"),
        (Uncalled, "norm has parameters and is not called"),
        (Widening, "its blocks do not return what they are given, in shape"),
    ],
)
def test_what_a_pipeline_would_train_otherwise_is_no_row(kind: type[nn.Module], reason: str) -> None:
    assert found(kind()) == staging.Row(against=reason)


def test_a_model_without_several_blocks_has_no_row() -> None:
    assert found(Straight(), ("blocks.0",)).against == "it has no row of blocks"


def test_ends_may_share_a_weight_and_blocks_may_not() -> None:
    tied, shared = Tied(), Straight()
    shared.blocks[2].weight = shared.blocks[0].weight  # type: ignore[assignment]
    assert not staging.shared(tied, BLOCKS)
    assert staging.shared(shared, BLOCKS)


def brought(**other: Any) -> staging.Row:
    """Of the straight model, by functions."""
    model = Straight()
    said = {"begin": lambda m, x: m.embed(x) * m.table, "end": lambda m, x, tokens: m.head(x), "block": None, **other}
    setattr(model, BROUGHT, Stages(**said))
    with FakeTensorMode(allow_non_fake_inputs=True):
        for name, p in list(model.named_parameters()):
            path, _, own = name.rpartition(".")
            setattr(model.get_submodule(path), own, nn.Parameter(torch.empty(p.shape)))
        return staging.find(model, [torch.zeros(1, 3, dtype=torch.long)], BLOCKS)


def test_functions_tell_which_parameters_lie_on_which_stage() -> None:
    row = brought()
    assert (row.stem, row.tail, row.before) == (("embed.weight",), ("head.weight",), ("embed",))
    assert (row.stream, row.outputs, row.against) == ((3, WIDTH), (3, 11), "")


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"begin": lambda m, x: x}, "begin must return one tensor of floats"),
        ({"begin": lambda m, x: (m.embed(x), x)}, "begin must return one tensor of floats, .* but returned tuple"),
        (
            {"begin": lambda m, x: m.blocks[0](m.embed(x))},
            "begin reads blocks.0.weight, which lies on the stage of blo",
        ),
        ({"block": lambda b, x, tokens: b(x)[:, :2]}, "blocks.0 must return the shape that it is given"),
        ({"end": lambda m, x, tokens: m.head(m.blocks[2](x))}, "end reads blocks.2.weight"),
        ({"end": lambda m, x, tokens: m.head(x).mean(1)}, "end must return what the model does, .3, 11. for a sample"),
    ],
)
def test_functions_that_make_no_row_are_one_sentence(other: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        brought(**other)
