"""A model that draws random numbers is refused: no two plans would compute the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from harness.rank.observe import RandomNumbers

X = torch.ones(2, 4, 8, 16)


@pytest.mark.parametrize(
    ("call", "random"),
    [
        (lambda: F.dropout(X, 0.1, training=True), True),
        (lambda: F.dropout(X, 0.1, training=False), False),
        (lambda: torch.rand_like(X), True),
        (lambda: F.scaled_dot_product_attention(X, X, X, is_causal=True), False),
        (lambda: F.scaled_dot_product_attention(X, X, X, dropout_p=0.2), True),
        (lambda: X + 1, False),
    ],
)
def test_what_draws_is_found(call: object, random: bool) -> None:
    with RandomNumbers() as seen:
        call()  # type: ignore[operator]
    assert (seen.by is not None) is random
