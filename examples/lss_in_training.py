# SPDX-License-Identifier: MIT
"""Measure the line-shape score inside a training loop, and penalise bending."""

from __future__ import annotations

import torch
from spirals import ResNet, spirals

import geodesic_fast


def train(steps: int = 60) -> float:
    """Return the mean line-shape score after training."""
    torch.manual_seed(0)
    points, labels = spirals()
    network = ResNet()
    embed, blocks, head = network.embed, network.blocks, network.head
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(steps):
        states = [embed(points)]  # x^(0), shape (*batch, d)
        for block in blocks:
            states.append(block(states[-1]))  # x^(1), ..., x^(n)
        scores = geodesic_fast.lss(states)  # (*batch); the list is neither stacked nor copied
        loss = torch.nn.functional.cross_entropy(head(states[-1]), labels) + 0.1 * scores.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return scores.mean().item()


if __name__ == "__main__":
    print(f"mean LSS {train():.3f}")
