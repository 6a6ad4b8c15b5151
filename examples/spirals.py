# SPDX-License-Identifier: MIT
"""Two spirals, and a residual network that gives its states: what the training examples share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def spirals(count: int = 512) -> tuple[Tensor, Tensor]:
    """Return points (count, 2) on two spirals and which of the two each is on."""
    generator = torch.Generator().manual_seed(0)
    which = torch.arange(count) % 2
    turn = 3 * torch.pi * torch.rand(count, generator=generator).sqrt()
    radius, angle = turn / 10, turn + torch.pi * which
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
    return points + 0.01 * torch.randn(count, 2, generator=generator), which


class Block(nn.Module):
    """One residual layer."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.inner, self.outer = (
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x + g(x)."""
        return x + self.outer(torch.tanh(self.inner(self.norm(x))))


class ResNet(nn.Module):
    """A residual network of one width that returns its logits and its states x^(0), ..., x^(n)."""

    def __init__(self, width: int = 32, depth: int = 8, checkpointing: bool = False):
        super().__init__()
        self.embed, self.head = nn.Linear(2, width), nn.Linear(width, 2)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.checkpointing = checkpointing

    def forward(self, points: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits (batch, 2) and the list of states (batch, width)."""
        states = [self.embed(points)]
        for block in self.blocks:
            if self.checkpointing:
                states.append(checkpoint(block, states[-1], use_reentrant=False))
            else:
                states.append(block(states[-1]))
        return self.head(states[-1]), states
