# SPDX-License-Identifier: MIT
"""SGD on one network of the grid, saved after every epoch: the same steps however often it was stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from geodesic_fast.engine.torch_internals import multiply_each
from geodesic_fast.reproduce import measuring, networks
from geodesic_fast.reproduce.data import Images
from geodesic_fast.reproduce.experiments import MOMENTUM, Point, Settings
from geodesic_fast.reproduce.networks import Network
from geodesic_fast.reproduce.room import Room

SHIFT = 4  # pixels, at most, of an image that is augmented
_EPOCHS_APART = 1_000_003  # between the seeds of two networks' batches


def complete(
    point: Point,
    settings: Settings,
    images: Images,
    room: Room,
    first: Point,
    after_epoch: Callable[[int], None],
) -> dict[str, Any]:
    """Train one network from where it was left, measure it, save it, and return its figures.

    The untrained network and the tracks for the pictures are those of the `first` point of the grid's
    seeds and gammas; `after_epoch` is told how many epochs lie behind, also those of an earlier run.
    """
    network = networks.build(point, settings, images)
    trainer = _Trainer(network, point, settings, images)
    part = room.part(point, images.train_images.device)
    history, tracks, seconds = _resumed(part, trainer) if part else ([], [], 0.0)
    before = part["before"] if part else None
    if before is None and point.gamma == first.gamma:
        before = measuring.measure(network, images, settings, point.seed)
    after_epoch(trainer.epoch)
    began = time.perf_counter() - seconds
    while trainer.epoch < settings.epochs:
        loss = trainer.one_epoch()
        if trainer.epoch in settings.marked_epochs:
            history.append(
                {"epoch": trainer.epoch, "loss": loss, **measuring.glance(network, images, settings)}
            )
            if point.seed == first.seed:
                tracks.append(measuring.tracks_for_pictures(network, images, settings))
        room.save_part(point, {
            **trainer.state(), "history": history, "tracks": tracks, "before": before,
            "seconds": time.perf_counter() - began,
        })  # fmt: skip
        after_epoch(trainer.epoch)
    found = {
        "kind": point.kind, "gamma": point.gamma, "seed": point.seed, "history": history, "before": before,
        "after": measuring.measure(network, images, settings, point.seed),
        "seconds": time.perf_counter() - began,
    }  # fmt: skip
    room.save(point, found, {"network": network.state_dict(), "tracks": tracks})
    return found


def _resumed(part: dict[str, Any], trainer: _Trainer) -> tuple[list[Any], list[Tensor], float]:
    trainer.load(part)
    return part["history"], [tracks.cpu() for tracks in part["tracks"]], part["seconds"]


class _Trainer:
    """A network and its optimiser."""

    def __init__(self, network: Network, point: Point, settings: Settings, images: Images) -> None:
        self.network, self.settings, self.images = network, settings, images
        self.seed, self.gamma, self.epoch = point.seed, point.gamma, 0
        self.weights: list[Tensor] = [p for p in network.parameters() if p.ndim > 1]  # the W of gamma |W|^2
        others = [p for p in network.parameters() if p.ndim <= 1]
        in_loss = 2 * point.gamma if settings.gamma_means == "loss" else 0.0  # the gradient of gamma |W|^2
        groups: list[dict[str, Any]] = [
            {"params": self.weights, "weight_decay": in_loss},
            {"params": others},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=settings.learning_rate, momentum=MOMENTUM)
        device = images.train_images.device.type
        self.half = None if settings.precision == "float32" else getattr(torch, settings.precision)
        self.scaler = torch.amp.GradScaler(device, enabled=settings.precision == "float16")
        self.scores = torch.compile(network) if settings.compiled else network

    def one_epoch(self) -> float:
        """Pass over the training images once; return the mean loss."""
        self.network.train()
        share = self.epoch / self.settings.epochs
        rate = self.settings.learning_rate * (1 + math.cos(math.pi * share)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = [self._step(x, y, rate) for x, y in self._batches()]
        self.epoch += 1
        return float(torch.stack(losses).mean()) if losses else math.nan

    def _step(self, x: Tensor, y: Tensor, rate: float) -> Tensor:
        with torch.autocast(x.device.type, self.half, enabled=self.half is not None):
            loss = nn.functional.cross_entropy(self.scores(x), y)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.settings.gamma_means == "decay" and self.gamma:
            with torch.no_grad():
                multiply_each(self.weights, 1 - rate * self.gamma)
        return loss.detach()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of this epoch, the same for every network of a seed and after every restart."""
        images, batch = self.images, self.settings.batch
        order = torch.Generator().manual_seed(self.seed * _EPOCHS_APART + self.epoch)
        count = len(images.train_images)
        shuffled = torch.randperm(count, generator=order)
        for start in range(0, max(count - batch, 0) + 1, batch):  # what is left waits for another epoch
            chosen = shuffled[start : start + batch].to(images.train_images.device)
            x = images.train_images[chosen]
            yield augmented(x, order) if self.settings.augment else x, images.train_classes[chosen]

    def state(self) -> dict[str, Any]:
        """Return what `load` needs to go on."""
        return {
            "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(), "epoch": self.epoch,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch = state["epoch"]


def augmented(x: Tensor, random: torch.Generator) -> Tensor:
    """Shift each image (m, channels, rows, columns) by up to `SHIFT` pixels, and mirror every second one."""
    m, _, rows, columns = x.shape
    down, right = torch.randint(2 * SHIFT + 1, (2, m, 1), generator=random).to(x.device)
    mirrored = (torch.rand(m, 1, generator=random) < 0.5).to(x.device)
    at_row = down + torch.arange(rows, device=x.device)  # (m, rows)
    at_column = torch.arange(columns, device=x.device).expand(m, columns)
    at_column = right + torch.where(mirrored, columns - 1 - at_column, at_column)
    padded = nn.functional.pad(x, (SHIFT,) * 4)
    each = torch.arange(m, device=x.device)[:, None, None]
    return padded.movedim(1, -1)[each, at_row[:, :, None], at_column[:, None, :]].movedim(-1, 1)
