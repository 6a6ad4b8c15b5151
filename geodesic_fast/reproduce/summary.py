# SPDX-License-Identifier: MIT
"""The figures of many networks, by kind and gamma: over seeds, and over stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geodesic_fast.reproduce.statistics import bootstrap

Network = Mapping[str, Any]  # what the room keeps of a finished one


def _of_transport(key: str) -> Callable[[Mapping[str, Any]], list[Any]]:
    return lambda moment: [(stage["transport"] or {}).get(key) for stage in moment["stages"]]


FIGURES: dict[str, Callable[[Mapping[str, Any]], list[Any]]] = {
    "train_accuracy": lambda moment: [moment["train_accuracy"]],
    "test_accuracy": lambda moment: [moment["test_accuracy"]],
    "lss": lambda moment: [stage["lss"]["mean"] for stage in moment["stages"]],
    "lss_shuffled": lambda moment: [stage["lss"]["shuffled"] for stage in moment["stages"]],
    "ots": _of_transport("score"),
    **{key: _of_transport(key) for key in ("efficiency", "gap", "bending", "detour")},
}


@dataclass(frozen=True)
class Summary:
    """A figure of one kind and gamma: mean, spreads, and the bootstrap interval of the mean over seeds."""

    mean: float
    std_over_seeds: float  # of the means over stages
    std_over_stages: float  # of the means over seeds
    low: float
    high: float
    values: tuple[tuple[float, ...], ...]  # (seeds, stages)


def number(value: Any) -> float:
    """Return a figure as it was before JSON: null is NaN, "inf" infinity."""
    return math.nan if value is None else float(value)


def kinds_of(networks: Sequence[Network]) -> list[str]:
    """Return the kinds in their order."""
    return list(dict.fromkeys(network["kind"] for network in networks))


def gammas_of(networks: Sequence[Network]) -> list[float]:
    """Return the gammas, ascending."""
    return sorted({network["gamma"] for network in networks})


def of(networks: Sequence[Network], kind: str, gamma: float) -> list[Network]:
    """Return the networks of one kind and gamma, by seed."""
    chosen = [n for n in networks if n["kind"] == kind and n["gamma"] == gamma]
    return sorted(chosen, key=lambda network: network["seed"])


def values(networks: Sequence[Network], figure: str, moment: str = "after") -> np.ndarray:
    """Return a figure of some networks, (seeds, stages), of those that were measured at that moment."""
    measured = [FIGURES[figure](network[moment]) for network in networks if network[moment]]
    return np.array([[number(value) for value in row] for row in measured])


def summarise(networks: Sequence[Network], figure: str, moment: str = "after") -> Summary:
    """Sum up a figure of the networks of one kind and gamma."""
    each = values(networks, figure, moment)
    over_stages, over_seeds = each.mean(axis=1), each.mean(axis=0)
    low, high = bootstrap(over_stages)
    return Summary(
        float(over_stages.mean()), _std(over_stages), _std(over_seeds), low, high,
        tuple(tuple(map(float, row)) for row in each),
    )  # fmt: skip


def mean(networks: Sequence[Network], kind: str, gamma: float, figure: str) -> float:
    """Return a figure's mean over the seeds and stages of one kind and gamma."""
    return float(values(of(networks, kind, gamma), figure).mean(axis=1).mean())


def _std(x: np.ndarray) -> float:
    return float(x.std(ddof=1)) if len(x) > 1 else math.nan
