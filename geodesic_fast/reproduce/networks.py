# SPDX-License-Identifier: MIT
"""Convolutional and dense networks, residual and plain, in stages of equal width."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geodesic_fast.demo.networks import Block, dense
from geodesic_fast.reproduce.data import Images
from geodesic_fast.reproduce.experiments import Point, Settings


class Network(nn.Module):
    """Embedding, stages of `depth` blocks of equal width with a step down between two, a classifier."""

    def __init__(self, embedding: nn.Module, stages: list[nn.ModuleList], steps_down: Sequence[nn.Module],
                 classifier: nn.Module) -> None:  # fmt: skip
        super().__init__()
        self.embedding = embedding
        self.stages = nn.ModuleList(stages)
        self.steps_down = nn.ModuleList(steps_down)
        self.classifier = classifier

    def states(self, images: Tensor) -> list[list[Tensor]]:
        """Return for each stage its n+1 states, (m, channels, rows, columns) or (m, d) each."""
        found: list[list[Tensor]] = []
        x = self.embedding(images)
        for stage, down in zip(self.stages, [*self.steps_down, nn.Identity()], strict=True):
            states = [x]
            for block in stage:  # type: ignore[attr-defined]
                states.append(block(states[-1]))
            found.append(states)
            x = down(states[-1])
        return found

    def forward(self, images: Tensor) -> Tensor:  # (m, channels, rows, columns) -> (m, classes)
        """Return the class scores."""
        x = self.embedding(images)
        for stage, down in zip(self.stages, [*self.steps_down, nn.Identity()], strict=True):
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
            x = down(x)
        return self.classifier(x)


def build(point: Point, settings: Settings, images: Images) -> Network:
    """Return a fresh network; both kinds and all gammas start from the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU, so every device starts alike
        torch.manual_seed(point.seed)
        make = _convolutional if settings.patch else _perceptron
        network = make(point.kind == "residual", settings, images)
    return network.to(images.train_images.device)


def _convolutional(residual: bool, settings: Settings, images: Images) -> Network:
    widths, patch = settings.widths, settings.patch
    channels = images.train_images.shape[1]
    edge = nn.Conv2d(channels, widths[0], 3, padding=1) if patch == 1 else nn.Conv2d(
        channels, widths[0], patch, stride=patch
    )  # fmt: skip
    stages = [
        nn.ModuleList(
            Block(convolution(width, settings.convolutions), residual) for _ in range(settings.depth)
        )
        for width in widths
    ]
    down = [
        nn.Sequential(nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, 3, stride=2, padding=1))
        for a, b in itertools.pairwise(widths)
    ]
    if settings.head == "pool":
        before = [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        read = widths[-1]
    else:
        before = [nn.Flatten()]
        read = widths[-1] * _places(images.train_images.shape[-1], settings)
    return Network(edge, stages, down, nn.Sequential(*before, nn.Linear(read, images.classes)))


def _places(side: int, settings: Settings) -> int:
    """Return how many places the last stage's states have, of images with this side."""
    side //= settings.patch
    for _ in settings.widths[1:]:
        side = -(-side // 2)
    return side * side


def convolution(width: int, count: int) -> nn.Sequential:
    """Return the branch of a convolutional block: `count` times W relu(batchnorm(x)), 3 x 3."""
    layers = [
        layer
        for _ in range(count)
        for layer in (nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False))
    ]
    return nn.Sequential(*layers)


def _perceptron(residual: bool, settings: Settings, images: Images) -> Network:
    width = settings.widths[0]
    pixels = images.train_images[0].numel()
    stage = nn.ModuleList(Block(dense(width), residual) for _ in range(settings.depth))
    embedding = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width))
    return Network(embedding, [stage], [], nn.Linear(width, images.classes))
