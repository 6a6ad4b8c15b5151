# SPDX-License-Identifier: MIT
"""Train with `loss + a * action.mean()`: short, evenly spaced steps, as on a geodesic."""

from __future__ import annotations

import argparse

import torch
from spirals import ResNet, spirals
from torch import Tensor, nn

from geodesic_fast import TrackGeometry, track_geometry


def penalised_loss(network: nn.Module, points: Tensor, labels: Tensor, strength: float) -> Tensor:
    """Return the loss with the penalty."""
    logits, states = network(points)
    return nn.functional.cross_entropy(logits, labels) + strength * track_geometry(states).action.mean()


def train(
    strength: float,
    *,
    steps: int = 150,
    autocast: bool = False,
    checkpointing: bool = False,
    backend: str = "",
) -> tuple[float, TrackGeometry]:
    """Return the training accuracy and the geometry of the tracks after training."""
    torch.manual_seed(0)
    points, labels = spirals()
    network = ResNet(checkpointing=checkpointing)
    loss_of = torch.compile(penalised_loss, backend=backend) if backend else penalised_loss
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(network, points, labels, strength)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits, states = network(points)
    return (logits.argmax(-1) == labels).float().mean().item(), track_geometry(states)


def main() -> None:
    """Train without and with the penalty and print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strength", type=float, default=0.003)
    args = parser.parse_args()
    for strength in (0.0, args.strength):
        accuracy, geometry = train(strength)
        print(
            f"penalty {strength:g}: accuracy {accuracy:.1%}, action {geometry.action.mean():.1f}, "
            f"spread of the step lengths {geometry.step_cv.mean():.3f}"
        )


if __name__ == "__main__":
    main()
