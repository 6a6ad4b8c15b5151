# SPDX-License-Identifier: MIT
"""Watch the tracks in a plain PyTorch loop and send them to TensorBoard."""

from __future__ import annotations

import argparse

import torch
from spirals import ResNet, spirals
from torch.utils.tensorboard import SummaryWriter

from geodesic_fast.recording import watch


def train(folder: str, steps: int = 60, every: int = 10) -> None:
    """Train on the spirals; every few steps, log the mean of every number of the tracks."""
    torch.manual_seed(0)
    points, labels = spirals()
    network = ResNet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    watching = watch(network, "blocks.*")
    with SummaryWriter(folder) as writer:
        for step in range(steps):
            if step % every == 0:
                with watching:
                    logits, _ = network(points)
                for name, values in watching.geometry._asdict().items():
                    writer.add_scalar(f"geodesic/{name}", values.double().mean(), step)
            else:
                logits, _ = network(points)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main() -> None:
    """Train and say where the log is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="runs/spirals")
    folder = parser.parse_args().folder
    train(folder)
    print(f"tensorboard --logdir {folder}")


if __name__ == "__main__":
    main()
