"""The optimizer every strategy shares: AdamW with warm-up and cosine decay, gradients clipped by their global norm."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) and its schedule."""

    lr: float = 1e-3
    """Highest learning rate, reached at the end of the warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the moments' averages (GPT-3's values)."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; vectors (norms, biases) are not decayed."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; 0 turns clipping off."""
    warmup_steps: int = 4
    """Steps of linear warm-up from 0."""
    decay_steps: int = 1000
    """Step at which the cosine has reached `lr_min_ratio`."""
    lr_min_ratio: float = 0.1
    """Last learning rate, as a share of `lr`."""

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0: linear warm-up, then a half cosine, then constant."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, self.decay_steps - self.warmup_steps))
        low = self.lr * self.lr_min_ratio
        return low + (self.lr - low) * 0.5 * (1 + math.cos(math.pi * done))
