# SPDX-License-Identifier: MIT
"""How the optimal transport score depends on the number of points: subsets against m."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from geodesic_fast._arrays import Array, NamedTuple, NDArray, ResultOf, takes_arrays
from geodesic_fast._results import compared_by_value
from geodesic_fast._validation import check_points, in_memory
from geodesic_fast.engine.torch_internals import outside_graphs
from geodesic_fast.metrics.ots import OTSResult, ots, ots_reference

CONFIDENCE = 0.95
_FIRST, _FACTOR = 64, 4  # the sizes that are taken where none are given
_BAR_AFTER = 5.0  # seconds


@compared_by_value
class OTSCurve(NamedTuple, ResultOf[Array]):
    """What `ots_curve` returns: one entry for each size, float64 but for the sizes."""

    sizes: Array  # (k) int64
    mean: Array  # (k)
    std: Array  # (k) sample standard deviation over subsets; NaN for a single one
    low: Array  # (k) confidence interval of the mean
    high: Array  # (k)
    scores: tuple[Array, ...]  # k times (subsets): OTS of each
    d: int


@overload
def ots_curve(
    x: Tensor,
    y: Tensor,
    sizes: Sequence[int] | None = ...,
    *,
    subsets: int = ...,
    seed: int = ...,
    memory_budget: int | None = ...,
    verbose: bool = ...,
) -> OTSCurve: ...
@overload
def ots_curve(
    x: NDArray,
    y: NDArray,
    sizes: Sequence[int] | None = ...,
    *,
    subsets: int = ...,
    seed: int = ...,
    memory_budget: int | None = ...,
    verbose: bool = ...,
) -> OTSCurve[NDArray]: ...
@outside_graphs
@takes_arrays
def ots_curve(
    x: Tensor,
    y: Tensor,
    sizes: Sequence[int] | None = None,
    *,
    subsets: int = 8,
    seed: int = 0,
    memory_budget: int | None = None,
    verbose: bool = False,
) -> OTSCurve:
    """Score random subsets of the pairs x_i -> y_i, to see how the OTS falls as the number of points grows.

    For each size k, with disjoint random subsets I of k pairs,

        mean_k = average over I of ots(x_I, y_I).score.

    A score of few points overstates that of many: the more points there are, the closer is the nearest other
    image, so that more of the map is found not to be optimal. Scores compare only at equal m and d, and a
    curve that still falls at the largest size says that the data set's score lies below.

    Args:
        x: source points (*batch, d), as for `ots`.
        y: their images, same shape, dtype and device as x.
        sizes: numbers of points, at most all; default: 64, 256, 1024, ... and all.
        subsets: how many disjoint subsets of each size, at most as many as fit: one of all points.
        seed: of the random choice; NumPy's generator, so the same on every device.
        memory_budget: bytes that each search may take, as in `ots`.
        verbose: show a progress bar over the searches; a long measurement does so on a terminal anyway.

    Returns:
        OTSCurve of tensors on the CPU. `low` and `high` are the 95 % confidence interval of the mean by
        Student's t, cut to [0, 1]; NaN where only one subset fits, as `std` is. Subsets of one data set: the
        interval tells of the choice of points, not of another data set.

    Raises:
        TypeError, ValueError: as `ots`; a size below 1 or above the number of points.
        MemoryError: the budget cannot hold the largest problem.

    Not differentiable: the score counts. Higher is better.

    Source: Gai and Zhang, arXiv:2102.09235, for the score.

    Example:
        >>> import torch, geodesic_fast
        >>> x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
        >>> geodesic_fast.ots_curve(x, 2 * x + 1, [16, 64]).mean  # a translation and scaling is optimal
        tensor([1., 1.], dtype=torch.float64)
    """

    def solve(x: Tensor, y: Tensor) -> OTSResult:
        return ots(x, y, memory_budget=memory_budget)

    return _measure(x, y, sizes, subsets, seed, solve, verbose)


def ots_curve_reference(
    x: Tensor,
    y: Tensor,
    sizes: Sequence[int] | None = None,
    *,
    subsets: int = 8,
    seed: int = 0,
    memory_budget: int | None = None,
    verbose: bool = False,
) -> OTSCurve:
    """Define `ots_curve` on SciPy's dense solver, which takes no budget."""
    return _measure(x, y, sizes, subsets, seed, ots_reference, verbose)


def _measure(
    x: Tensor,
    y: Tensor,
    sizes: Sequence[int] | None,
    subsets: int,
    seed: int,
    solve: Callable[..., OTSResult],
    verbose: bool,
) -> OTSCurve:
    check_points(x, y)
    x, y = (
        in_memory(name, points.detach()).reshape(-1, points.shape[-1])
        for name, points in (("x", x), ("y", y))
    )  # (m, d)
    chosen = _sizes(sizes, len(x))
    if subsets < 1:
        raise ValueError(f"subsets must be at least 1, got {subsets}.")
    counts = [min(subsets, len(x) // size) for size in chosen]
    random = np.random.default_rng(seed)
    scores = []
    delay, disable = (0, False) if verbose else (_BAR_AFTER, None)
    with tqdm(
        total=sum(counts), desc="OTS of subsets", unit="subset", leave=False, delay=delay, disable=disable
    ) as bar:
        for size, count in zip(chosen, counts, strict=True):
            order = torch.from_numpy(random.permutation(len(x))).to(x.device)
            found = []
            for subset in order.split(size)[:count]:
                found.append(solve(x[subset], y[subset]).score)
                bar.update()
            scores.append(torch.tensor(found, dtype=torch.float64))
    return _summary(chosen, scores, x.shape[-1])


def _sizes(sizes: Sequence[int] | None, m: int) -> list[int]:
    if sizes is None:
        powers = [_FIRST * _FACTOR**k for k in range(40)]
        return [*(size for size in powers if size < m), m]
    chosen = [int(size) for size in sizes]
    if not chosen or not all(1 <= size <= m for size in chosen):
        raise ValueError(f"sizes must be numbers of points between 1 and {m}, got {chosen}.")
    return chosen


def _summary(sizes: list[int], scores: list[Tensor], d: int) -> OTSCurve:
    from scipy.stats import t as student  # where it is used: loading it takes seconds

    mean = torch.stack([score.mean() for score in scores])
    std = torch.stack([score.std() if len(score) > 1 else score.new_tensor(math.nan) for score in scores])
    half = [
        student.ppf((1 + CONFIDENCE) / 2, len(score) - 1) / math.sqrt(len(score))
        if len(score) > 1
        else math.nan
        for score in scores
    ]
    reach = std * std.new_tensor(half)
    return OTSCurve(
        torch.tensor(sizes),
        mean,
        std,
        (mean - reach).clamp(min=0),
        (mean + reach).clamp(max=1),
        tuple(scores),
        d,
    )
