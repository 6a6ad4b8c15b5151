# SPDX-License-Identifier: MIT
"""Train with `loss + a * lss(states).mean()`: the tracks straighten while the network learns."""

from __future__ import annotations

import argparse

import torch
from spirals import ResNet, spirals
from torch import Tensor, nn

from geodesic_fast import lss


def penalised_loss(
    network: nn.Module, points: Tensor, labels: Tensor, strength: float
) -> tuple[Tensor, Tensor]:
    """Return the loss with the penalty, and the mean line-shape score."""
    logits, states = network(points)
    straightness = lss(states).mean()
    return nn.functional.cross_entropy(logits, labels) + strength * straightness, straightness


def train(
    strength: float,
    *,
    steps: int = 150,
    autocast: bool = False,
    checkpointing: bool = False,
    backend: str = "",
) -> tuple[float, float]:
    """Return the training accuracy and the mean line-shape score after training."""
    torch.manual_seed(0)
    points, labels = spirals()
    network = ResNet(checkpointing=checkpointing)
    loss_of = torch.compile(penalised_loss, backend=backend) if backend else penalised_loss
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss, _ = loss_of(network, points, labels, strength)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits, states = network(points)
    return (logits.argmax(-1) == labels).float().mean().item(), lss(states).mean().item()


def main() -> None:
    """Train without and with the penalty and print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strength", type=float, default=0.3)
    parser.add_argument("--autocast", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--checkpointing", action="store_true", help="activation checkpointing")
    parser.add_argument(
        "--compile", default="", metavar="BACKEND", help="torch.compile, for example inductor"
    )
    args = parser.parse_args()
    for strength in (0.0, args.strength):
        accuracy, score = train(
            strength, autocast=args.autocast, checkpointing=args.checkpointing, backend=args.compile
        )
        print(f"penalty {strength:g}: accuracy {accuracy:.1%}, mean LSS {score:.3f}")


if __name__ == "__main__":
    main()
