# SPDX-License-Identifier: MIT
"""Residual and plain networks of equal width and depth that give their data tracks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geodesic_fast.demo.digits import CLASSES, PIXELS

KINDS = ("residual", "plain")


class Block(nn.Module):
    """One layer of equal width: what its branch g gives, with x added back if residual."""

    def __init__(self, branch: nn.Module, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:  # (m, ...) -> (m, ...)
        """Return x + g(x) if residual, else g(x)."""
        change = self.branch(x)
        return x + change if self.residual else change


def dense(width: int) -> nn.Sequential:
    """Return the branch of a perceptron: g(x) = W relu(batchnorm(x)) + b, (m, d) -> (m, d)."""
    return nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width))


class Network(nn.Module):
    """Embedding to the common width, `depth` blocks of that width, a linear classifier."""

    def __init__(self, kind: str, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(PIXELS, width)
        self.blocks = nn.ModuleList(Block(dense(width), kind == "residual") for _ in range(depth))
        self.classifier = nn.Linear(width, CLASSES)

    def tracks(self, images: Tensor) -> list[Tensor]:
        """Return the n+1 states x^(0) .. x^(n), (m, d) each; x^(0) is what the embedding gives."""
        states = [self.embedding(images)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    def forward(self, images: Tensor) -> Tensor:  # (m, 64) -> (m, 10)
        """Return the class scores."""
        return self.classifier(self.tracks(images)[-1])


def build(kind: str, width: int, depth: int, seed: int, device: torch.device) -> Network:
    """Return a fresh network; both kinds start from the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU, so every device starts alike
        torch.manual_seed(seed)
        network = Network(kind, width, depth)
    return network.to(device)
