# SPDX-License-Identifier: MIT
"""What each experiment runs: the published grids, and what had to be chosen because it is not stated."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from geodesic_fast.demo.networks import KINDS
from geodesic_fast.reproduce import published

MOMENTUM = 0.9
HEADS = ("linear", "pool")
GAMMA_MEANS = ("loss", "decay")
PRECISIONS = ("float32", "bfloat16", "float16")
PRESETS = ("quick", "paper")


@dataclass(frozen=True)
class Size:
    """How large the networks are and how long they learn."""

    widths: tuple[int, ...]  # one per stage: channels, or features of a perceptron
    patch: int  # pixels a side that the embedding takes together; 0: a perceptron
    convolutions: int  # in a block
    head: str
    epochs: int
    batch: int
    learning_rate: float
    seeds: int


@dataclass(frozen=True)
class Experiment:
    """One data set with the grid that was published for it."""

    title: str
    gammas: tuple[float, ...]
    augment: bool  # shifts by up to 4 pixels and mirror images
    sizes: dict[str, Size]


EXPERIMENTS = {
    "mnist": Experiment(
        "MNIST", published.GAMMAS_CIFAR100, False,
        {"quick": Size((16,), 4, 1, "linear", 40, 100, 0.05, 3),
         "paper": Size((16,), 4, 1, "linear", 160, 100, 0.05, 5)},
    ),
    "cifar10": Experiment(
        "CIFAR-10", published.GAMMAS_CIFAR10, True,
        {"quick": Size((16, 32), 4, 2, "pool", 10, 128, 0.05, 1),
         "paper": Size((64, 128, 256, 512), 1, 2, "pool", 160, 128, 0.05, 3)},
    ),
    "cifar100": Experiment(
        "CIFAR-100", published.GAMMAS_CIFAR100, True,
        {"quick": Size((16, 32), 4, 2, "pool", 10, 128, 0.05, 1),
         "paper": Size((64, 128, 256, 512), 1, 2, "pool", 160, 128, 0.05, 3)},
    ),
    "digits": Experiment(
        "the digits of scikit-learn", published.GAMMAS_CIFAR100, False,
        {"quick": Size((64,), 0, 0, "linear", 20, 64, 0.05, 3),
         "paper": Size((64,), 0, 0, "linear", 160, 64, 0.05, 5)},
    ),
}  # fmt: skip
DEPTH = 5  # steps of a track: the one that the paper draws alone has five


@dataclass(frozen=True)
class Settings:
    """What all networks of one folder have in common; another value of any is another folder."""

    experiment: str
    data: str
    digest: str  # of the images
    split_seed: int
    gamma_means: str
    widths: tuple[int, ...]
    patch: int
    convolutions: int
    head: str
    depth: int
    epochs: int
    batch: int
    learning_rate: float
    augment: bool
    precision: str
    compiled: bool
    samples: int  # test samples that are measured, 0: all
    ots_sizes: tuple[int, ...]
    device: str

    def plain(self) -> dict[str, Any]:
        """Return the values as JSON holds them."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @property
    def marked_epochs(self) -> tuple[int, ...]:
        """The published epochs, in proportion where another number of epochs is trained."""
        scaled = [max(1, round(epoch * self.epochs / published.EPOCHS[-1])) for epoch in published.EPOCHS]
        return tuple(dict.fromkeys(epoch for epoch in scaled if epoch <= self.epochs))


@dataclass(frozen=True)
class Point:
    """One network of the grid."""

    kind: str
    gamma: float
    seed: int

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.kind}-gamma{self.gamma:g}-seed{self.seed}"


def grid(gammas: tuple[float, ...], seeds: range, kinds: tuple[str, ...] = KINDS) -> list[Point]:
    """Return the points, whole sets of gammas first, so that a run that is cut short has all of a seed."""
    return [Point(kind, gamma, seed) for seed in seeds for gamma in gammas for kind in kinds]
