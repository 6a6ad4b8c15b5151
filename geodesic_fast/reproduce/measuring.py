# SPDX-License-Identifier: MIT
"""Every figure of one network on test images, through the public functions of the package."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import geodesic_fast
from geodesic_fast.reproduce.data import Images
from geodesic_fast.reproduce.experiments import Settings
from geodesic_fast.reproduce.networks import Network
from geodesic_fast.reproduce.statistics import bootstrap

PICTURED = 100  # tracks
_BATCH = 500


def measure(network: Network, images: Images, settings: Settings, seed: int) -> dict[str, Any]:
    """Measure a network: its accuracies, and every score of each of its stages."""
    x, classes = _samples(images, settings)
    return {
        "train_accuracy": accuracy(network, images.train_images, images.train_classes),
        "test_accuracy": accuracy(network, images.test_images, images.test_classes),
        "stages": [
            _stage(states_of(network, x, stage), classes, settings.ots_sizes, seed)
            for stage in range(len(network.stages))
        ],
    }


def glance(network: Network, images: Images, settings: Settings) -> dict[str, Any]:
    """Measure what is followed during training: test accuracy, and the mean LSS of each stage."""
    x, _ = _samples(images, settings)
    scores = [geodesic_fast.lss(states_of(network, x, k)) for k in range(len(network.stages))]
    return {
        "test_accuracy": accuracy(network, images.test_images, images.test_classes),
        "lss": [_mean(score) for score in scores],
    }


def tracks_for_pictures(network: Network, images: Images, settings: Settings) -> Tensor:
    """Return tracks (n+1, m, d) of some test images through the last stage, on the CPU."""
    x, _ = pictured(images, settings)
    return torch.stack(states_of(network, x, len(network.stages) - 1)).cpu()


def pictured(images: Images, settings: Settings) -> tuple[Tensor, Tensor]:
    """Return the test images whose tracks are drawn, and their classes."""
    return _chosen(images, PICTURED, settings.split_seed)


def states_of(network: Network, images: Tensor, stage: int) -> list[Tensor]:
    """Return the n+1 states (m, d) of one stage, in evaluation mode, without gradients."""
    parts = [[state.flatten(1) for state in states[stage]] for states in _passes(network, images)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def accuracy(network: Network, images: Tensor, classes: Tensor) -> float:
    """Return the share of images whose class is told right."""
    last = torch.cat([network.classifier(states[-1][-1]).argmax(1) for states in _passes(network, images)])
    return float((last == classes).double().mean())


def _passes(network: Network, images: Tensor) -> Iterator[list[list[Tensor]]]:
    training = network.training
    network.eval()
    with torch.no_grad():
        for batch in images.split(_BATCH):
            yield network.states(batch)
    network.train(training)


def _samples(images: Images, settings: Settings) -> tuple[Tensor, Tensor]:
    """Return the test images that are measured, and their classes: a choice by the seed of the split."""
    if not settings.samples:
        return images.test_images, images.test_classes
    return _chosen(images, settings.samples, settings.split_seed)


def _chosen(images: Images, count: int, seed: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(images.test_images), generator=torch.Generator().manual_seed(seed))
    chosen = order[:count].to(images.test_images.device)
    return images.test_images[chosen], images.test_classes[chosen]


def _stage(states: list[Tensor], classes: Tensor, sizes: tuple[int, ...], seed: int) -> dict[str, Any]:
    n, (m, d) = len(states) - 1, states[0].shape
    scores = geodesic_fast.lss(states)
    defined = scores[~scores.isnan()].double().cpu()
    low, high = bootstrap(defined.numpy(), seed)
    collapse = geodesic_fast.neural_collapse(states, labels=classes)
    return {
        "n": n, "m": m, "d": d,
        "lss": {
            "mean": _mean(scores), "std": float(defined.std()) if len(defined) > 1 else math.nan,
            "low": low, "high": high, "undefined": m - len(defined),
            "shuffled": _mean(geodesic_fast.lss_shuffled(states)), "random_steps": math.sqrt(n),
            "independent_states": float(n),
        },
        "transport": transport(states, sizes, seed),
        "collapse": {name: values.tolist() for name, values in collapse._asdict().items()},
    }  # fmt: skip


def transport(states: list[Tensor], sizes: tuple[int, ...], seed: int) -> dict[str, Any] | None:
    """Return OTS for each size, W2 efficiency and the geodesic gap; None where a state is not finite.

    The gap is that of `geodesic_gap`, from the action of the tracks and the one search for the optimal map.
    """
    if not all(bool(torch.isfinite(state).all()) for state in states):
        return None
    first, last = states[0], states[-1]
    whole = geodesic_fast.ots(first, last)
    smaller = [size for size in sizes if size < len(first)]
    curve = geodesic_fast.ots_curve(first, last, smaller, seed=seed) if smaller else None
    rows = [] if curve is None else [
        {"m": m, "subsets": len(scores), "mean": mean, "low": low, "high": high}
        for m, scores, mean, low, high in zip(
            smaller, curve.scores, *(v.tolist() for v in (curve.mean, curve.low, curve.high)), strict=True
        )
    ]  # fmt: skip
    rows.append(
        {"m": len(first), "subsets": 1, "mean": float(whole.score), "low": math.nan, "high": math.nan}
    )
    map_cost, optimal_cost = float(whole.map_cost), float(whole.optimal_cost)
    bending = _ratio(_mean(geodesic_fast.action(states)), map_cost)
    detour = _ratio(map_cost, optimal_cost)
    return {
        "ots": rows, "score": float(whole.score), "efficiency": float(whole.efficiency),
        "certified": bool(whole.certified), "map_cost": map_cost, "optimal_cost": optimal_cost,
        "bending": bending, "detour": detour, "gap": bending * detour - 1,
    }  # fmt: skip


def _ratio(a: float, b: float) -> float:
    return a / b if b else (math.inf if a else math.nan)


def _mean(values: Tensor) -> float:
    """Return the mean of the values that are no NaN."""
    defined = values[~values.isnan()].double()
    return float(defined.mean()) if len(defined) else math.nan
