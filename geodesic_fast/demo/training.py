# SPDX-License-Identifier: MIT
"""SGD with momentum and L2 regularisation, measuring LSS after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geodesic_fast import TrackGeometry, track_geometry
from geodesic_fast.demo import measuring, networks
from geodesic_fast.demo.digits import Digits
from geodesic_fast.demo.networks import Network

BATCH = 64
MOMENTUM = 0.9


@dataclass(frozen=True)
class Settings:
    """What one run of the demo was asked to do."""

    width: int
    depth: int
    epochs: int
    seed: int
    l2: tuple[float, ...]
    learning_rate: float
    samples: int
    device: str


@dataclass(frozen=True)
class Epoch:
    """The state after one epoch; epoch 0 is before training and has no loss."""

    epoch: int
    loss: float | None
    test_accuracy: float
    lss: measuring.LineShape


@dataclass(frozen=True)
class Outcome:
    """One trained network: measured before and after, and its way there."""

    kind: str
    l2: float
    before: measuring.Measurement
    after: measuring.Measurement
    history: tuple[Epoch, ...]
    geometries: tuple[TrackGeometry, ...]  # one per epoch of the history, on the CPU, for the pictures
    tracks_before: Tensor  # (n+1, m, d) on the CPU, for the pictures
    tracks_after: Tensor
    seconds: float


def run_one(
    kind: str, l2: float, settings: Settings, digits: Digits, after_epoch: Callable[[Epoch], None]
) -> Outcome:
    """Build, measure, train and measure again one network; call `after_epoch` after each epoch."""
    started = time.perf_counter()
    network = networks.build(kind, settings.width, settings.depth, settings.seed, digits.test_images.device)
    chosen = choose_samples(len(digits.test_images), settings).to(digits.test_images.device)
    before = measuring.measure(network, digits, chosen)
    tracks_before = torch.stack(measuring.states_of(network, digits.test_images)).cpu()
    history = [Epoch(0, None, before.test_accuracy, before.lss)]
    geometries = [_on_cpu(track_geometry(tracks_before))]
    for epoch, geometry in train(network, l2, settings, digits):
        history.append(epoch)
        geometries.append(_on_cpu(geometry))
        after_epoch(epoch)
    return Outcome(
        kind=kind,
        l2=l2,
        before=before,
        after=measuring.measure(network, digits, chosen),
        history=tuple(history),
        geometries=tuple(geometries),
        tracks_before=tracks_before,
        tracks_after=torch.stack(measuring.states_of(network, digits.test_images)).cpu(),
        seconds=time.perf_counter() - started,
    )


def choose_samples(count: int, settings: Settings) -> Tensor:
    """Return the indices of the test samples OTS is computed on, by the seed."""
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed))
    return shuffled[: settings.samples] if settings.samples else shuffled


def _on_cpu(geometry: TrackGeometry) -> TrackGeometry:
    return TrackGeometry._make(field.cpu() for field in geometry)


def train(
    network: Network, l2: float, settings: Settings, digits: Digits
) -> Iterator[tuple[Epoch, TrackGeometry]]:
    """Yield an `Epoch` and the geometry of the test samples after each pass over the training images."""
    optimizer = torch.optim.SGD(
        network.parameters(), lr=settings.learning_rate, momentum=MOMENTUM, weight_decay=l2
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(settings.epochs, 1))
    order = torch.Generator().manual_seed(settings.seed)  # the same batches for every network
    for number in range(1, settings.epochs + 1):
        loss = _one_pass(network, optimizer, digits, order)
        schedule.step()
        geometry = track_geometry(measuring.states_of(network, digits.test_images))
        test_accuracy = measuring.accuracy(network, digits.test_images, digits.test_classes)
        yield Epoch(number, loss, test_accuracy, measuring.line_shape(geometry.lss)), geometry


def _one_pass(
    network: Network, optimizer: torch.optim.Optimizer, digits: Digits, order: torch.Generator
) -> float:
    network.train()
    count = len(digits.train_images)
    shuffled = torch.randperm(count, generator=order).to(digits.train_images.device)
    losses = []
    for start in range(0, count - BATCH + 1, BATCH):  # the incomplete last batch waits for another epoch
        batch = shuffled[start : start + BATCH]
        scores = network(digits.train_images[batch])  # (64, 10)
        loss = nn.functional.cross_entropy(scores, digits.train_classes[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())
