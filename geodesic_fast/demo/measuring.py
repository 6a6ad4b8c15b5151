# SPDX-License-Identifier: MIT
"""Both scores of one network on the test samples, through the public functions of the package."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import geodesic_fast
from geodesic_fast.demo.digits import Digits
from geodesic_fast.demo.networks import Network


@dataclass(frozen=True)
class LineShape:
    """LSS over samples; `undefined` counts tracks without a score (NaN), left out of mean and std."""

    mean: float
    std: float
    samples: int
    undefined: int


@dataclass(frozen=True)
class Transport:
    """OTS of the map from the first to the last state; None where a state is not finite."""

    score: float
    efficiency: float
    map_cost: float
    optimal_cost: float
    certified: bool
    samples: int


@dataclass(frozen=True)
class Margin:
    """Distance to the nearest track of another class, over samples, in units of `margins`."""

    median: float
    least: float


@dataclass(frozen=True)
class Measurement:
    """Everything the demo reports about one network at one moment."""

    train_accuracy: float
    test_accuracy: float
    lss: LineShape
    ots: Transport | None
    margin: Margin


def states_of(network: Network, images: Tensor) -> list[Tensor]:
    """Return the tracks (n+1 states) in evaluation mode, without gradients."""
    training = network.training
    network.eval()
    with torch.no_grad():
        states = network.tracks(images)
    network.train(training)
    return states


def accuracy(network: Network, images: Tensor, classes: Tensor) -> float:
    """Return the share of images whose class is told right."""
    with torch.no_grad():
        guesses = network.classifier(states_of(network, images)[-1]).argmax(dim=1)
    return float((guesses == classes).double().mean())


def line_shape(scores: Tensor) -> LineShape:
    """Return mean and standard deviation over samples of their LSS (m,)."""
    scores = scores.double()
    defined = scores[~scores.isnan()]
    return LineShape(
        mean=float(defined.mean()),
        std=float(defined.std()) if len(defined) > 1 else math.nan,
        samples=len(defined),
        undefined=len(scores) - len(defined),
    )


def transport(states: list[Tensor], chosen: Tensor) -> Transport | None:
    """Return the OTS of the chosen samples, or None if the network's states overflowed."""
    first, last = states[0][chosen], states[-1][chosen]  # (k, d)
    if not bool(torch.isfinite(first).all() and torch.isfinite(last).all()):
        return None
    result = geodesic_fast.ots(first, last)
    return Transport(
        score=float(result.score),
        efficiency=float(result.efficiency),
        map_cost=float(result.map_cost),
        optimal_cost=float(result.optimal_cost),
        certified=bool(result.certified),
        samples=len(first),
    )


def margins(tracks: Tensor, classes: Tensor) -> Tensor:
    """Return how far each track (n+1, m, d) keeps from those of other classes (m), in multiples of the root
    mean squared distance of two first states.
    """
    first = tracks[0]
    spread = (2 * first.var(dim=0, correction=0).sum()).sqrt()
    return geodesic_fast.nearest_track(tracks, labels=classes).distance / spread


def margin(tracks: Tensor, classes: Tensor) -> Margin:
    """Return the median and the least margin of all samples; NaN if any is."""
    found = margins(tracks, classes)
    broken = bool(found.isnan().any())
    return Margin(
        median=math.nan if broken else float(found.median()), least=math.nan if broken else float(found.min())
    )


def measure(network: Network, digits: Digits, chosen: Tensor) -> Measurement:
    """Measure `network`: LSS over all test samples, OTS over the `chosen` ones."""
    states = states_of(network, digits.test_images)
    return Measurement(
        train_accuracy=accuracy(network, digits.train_images, digits.train_classes),
        test_accuracy=accuracy(network, digits.test_images, digits.test_classes),
        lss=line_shape(geodesic_fast.lss(states)),
        ots=transport(states, chosen),
        margin=margin(torch.stack(states), digits.test_classes),
    )
