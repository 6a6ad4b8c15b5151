# SPDX-License-Identifier: MIT
"""The published figures, which ours are set beside.

Gai and Zhang, arXiv:2102.09235v3, as shown in the group's lecture (DeepLearningTheory.course, lecture 10,
slides 31 to 34). Read off its pictures: within 0.03 for LSS, half a point for accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = (
    "Gai and Zhang, arXiv:2102.09235v3, figures read off the group's published lecture "
    "(DeepLearningTheory.course, lecture 10, slides 31 to 34): within 0.03 for LSS, half a point for accuracy"
)
EPOCHS = (1, 40, 80, 120, 160)  # when the tracks were shown
GAMMAS_CIFAR10 = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 2e-1)
GAMMAS_CIFAR100 = (0.0, 5e-4, 1e-3, 5e-3, 1e-2)


@dataclass(frozen=True)
class Value:
    """A published figure and the spread that was shown with it."""

    mean: float
    std: float = 0.0


@dataclass(frozen=True)
class Row:
    """The published figures of one kind of network at one gamma; None where that is not stated."""

    kind: str | None
    gamma: float | None
    figures: dict[str, Value]


def _cifar10() -> tuple[Row, ...]:
    accuracy = (64.6, 64.9, 67.5, 85.9, 96.6, 93.7, 89.1, 78.8)
    lss = (3.64, 3.72, 3.95, 2.72, 2.26, 2.29, 2.68, 3.18)
    return tuple(
        Row(None, gamma, {"train_accuracy": Value(a / 100), "lss": Value(s)})
        for gamma, a, s in zip(GAMMAS_CIFAR10, accuracy, lss, strict=True)
    )


def _cifar100() -> tuple[Row, ...]:
    columns = {
        "residual": (
            (74.5, 76.4, 77.1, 79.7, 78.1),
            ((1.38, 0.07), (1.28, 0.04), (1.30, 0.06), (1.55, 0.18), (1.81, 0.20)),
            ((1.00, 0.0), (1.00, 0.0), (0.995, 0.007), (0.96, 0.06), (0.86, 0.24)),
        ),
        "plain": (
            (57.4, 64.2, 69.6, 67.8, 44.1),
            ((4.59, 0.13), (4.12, 0.62), (3.96, 0.52), (3.53, 0.75), (3.86, 0.46)),
            ((0.15, 0.20), (0.006, 0.0), (0.22, 0.39), (0.06, 0.08), (0.002, 0.0)),
        ),
    }
    return tuple(
        Row(kind, gamma, {"test_accuracy": Value(a / 100), "lss": Value(*s), "ots": Value(*o)})
        for kind, column in columns.items()
        for gamma, a, s, o in zip(GAMMAS_CIFAR100, *column, strict=True)
    )


ROWS: dict[str, tuple[Row, ...]] = {
    "mnist": (Row("residual", None, {"lss": Value(1.12), "ots": Value(0.96)}),),
    "cifar10": _cifar10(),
    "cifar100": _cifar100(),
    "digits": (),
}


def row(experiment: str, kind: str, gamma: float) -> dict[str, Value]:
    """Return the figures published for this kind of network at this gamma, none if there are none."""
    for found in ROWS[experiment]:
        if found.kind == kind and found.gamma == gamma:
            return found.figures
    return {}
