# SPDX-License-Identifier: MIT
"""Bootstrap: how sure is a mean, and how sure is a statement about the means of few seeds?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

LEVEL = 0.95
_RESAMPLES = 2000
_ENUMERATED = 5  # seeds, up to which all resamples are taken: 5^5 = 3125


def bootstrap(values: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean at `LEVEL`; NaN for fewer than two values."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return float("nan"), float("nan")
    means = np.array([x[chosen].mean() for chosen in resamples(len(x), seed)])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resamples(count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield indices drawn with replacement: all ways to draw a few, or many at random."""
    if count <= _ENUMERATED:
        yield from map(np.array, itertools.product(range(count), repeat=count))
        return
    random = np.random.default_rng(seed)
    for _ in range(_RESAMPLES):
        yield random.integers(count, size=count)
