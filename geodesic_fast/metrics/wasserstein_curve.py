# SPDX-License-Identifier: MIT
"""The curve of measures: do the layers, as sets of points without their pairing, follow a geodesic?"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import torch
from torch import Tensor
from tqdm import tqdm

from geodesic_fast._arrays import Array, NamedTuple, NDArray, ResultOf, as_tensors, takes_arrays
from geodesic_fast._results import compared_by_value
from geodesic_fast._tracks import Tracks, check_layer
from geodesic_fast._validation import (
    check_device,
    check_finite_rows,
    check_float_tensor,
    check_positive,
    in_memory,
)
from geodesic_fast.engine.torch_internals import outside_graphs
from geodesic_fast.metrics.ots import OTSResult, ots, ots_reference

_BAR_AFTER = 5.0  # seconds
_LEAST_BUDGET = 1e-9  # seconds: what a search is given when the time is used up


@compared_by_value
class WassersteinCurve(NamedTuple, ResultOf[Array]):
    """What `wasserstein_curve` returns: float64 tensors, and whether every distance is proved."""

    ratio: Array  # ()
    evenness: Array  # ()
    length: Array  # ()
    distance: Array  # ()
    steps: Array  # (n) W2 between neighbouring layers
    ots: Array  # (n) OTS of each layer alone
    certified: bool
    m: int
    d: int


@overload
def wasserstein_curve(
    tracks: Tensor | Iterable[Tensor],
    *,
    dim: int = ...,
    memory_budget: int | None = ...,
    time_budget: float | None = ...,
    verbose: bool = ...,
) -> WassersteinCurve: ...
@overload
def wasserstein_curve(
    tracks: NDArray | Iterable[NDArray],
    *,
    dim: int = ...,
    memory_budget: int | None = ...,
    time_budget: float | None = ...,
    verbose: bool = ...,
) -> WassersteinCurve[NDArray]: ...
@overload  # of both, or of what nobody typed
def wasserstein_curve(tracks: Iterable[Tensor | NDArray], **options: Any) -> Any: ...
@outside_graphs
@takes_arrays
def wasserstein_curve(
    tracks: Tensor | Iterable[Tensor],
    *,
    dim: int = 0,
    memory_budget: int | None = None,
    time_budget: float | None = None,
    verbose: bool = False,
) -> WassersteinCurve:
    r"""Measure the curve of distributions that the layers run through, in exact Wasserstein distances.

    mu_l is the set of the m points {x_i^(l)}, without their pairing. The curve mu_0, ..., mu_n is a geodesic
    of the Wasserstein space, up to its speed, exactly if its length is the distance of its ends:

        steps_l   W2(mu_(l-1), mu_l), l = 1..n
        length    steps_1 + ... + steps_n
        distance  W2(mu_0, mu_n)
        ratio     length / distance                             in [1, inf]; 1: a geodesic up to its speed
        evenness  population std of steps_l over their mean     0: constant speed
        ots_l     ots(x^(l-1), x^(l)).score, of layer l alone   in [0, 1]; 1: the layer is an optimal map

    A network can follow a geodesic in this sense although its own tracks are crooked or crossed, which
    `geodesic_gap` tells. Each distance is an exact assignment with its proof, n + 1 of them in all.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d); or an iterator over such layers, of which only
            the first and the two latest are held. All tracks of the batch are one population.
        dim: the layer axis of a tensor; must be 0 for a list or an iterator.
        memory_budget: bytes that each search may take, as in `ots`.
        time_budget: seconds for all searches together.
        verbose: show a progress bar over the searches; a long measurement does so on a terminal anyway.

    Returns:
        WassersteinCurve of float64 tensors on the device of the tracks, and m and d, on which every OTS
        depends. Where a time budget ran out, `certified` is False, `steps` and `distance` are the best found,
        which are upper bounds, and ratio, evenness and the scores that are not proved are NaN. Rounding never
        gives a ratio below 1. A curve that ends where it began has the ratio inf; one that never moved has
        neither direction nor speed: its ratio and evenness are NaN.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`; no tracks, or layers that hold NaN or inf.
        MemoryError: the budget cannot hold the assignment problem.

    Differentiable once, with the optimal maps held fixed, which is exact wherever they are the only ones; the
    scores count and are not. Lower ratio and evenness are more geodesic.

    Source: Gai and Zhang, arXiv:2102.09235, for the curve; Ambrosio, Gigli and Savare, Gradient Flows (2008),
    for its length.

    Example:
        >>> import torch, geodesic_fast
        >>> x = torch.tensor([[0.0], [1.0], [5.0]])
        >>> detour = torch.stack((x, x - 1, x + 3))  # one back and then four forth, for a distance of three
        >>> found = geodesic_fast.wasserstein_curve(detour)
        >>> round(found.ratio.item(), 4), found.steps.tolist()
        (1.6667, [1.0, 4.0])
    """
    check_positive("memory_budget", memory_budget)
    check_positive("time_budget", time_budget)
    deadline = math.inf if time_budget is None else time.monotonic() + time_budget

    def solve(x: Tensor, y: Tensor) -> OTSResult:
        left = None if math.isinf(deadline) else max(deadline - time.monotonic(), _LEAST_BUDGET)
        return ots(x, y, memory_budget=memory_budget, time_budget=left)

    return _measure(tracks, dim, solve, verbose)


def wasserstein_curve_reference(
    tracks: Tensor | Iterable[Tensor],
    *,
    dim: int = 0,
    memory_budget: int | None = None,
    time_budget: float | None = None,
    verbose: bool = False,
) -> WassersteinCurve:
    """Define `wasserstein_curve` on SciPy's dense solver, which takes no budgets."""
    return _measure(tracks, dim, ots_reference, verbose)


def _measure(
    tracks: Tensor | Iterable[Tensor], dim: int, solve: Callable[..., OTSResult], verbose: bool
) -> WassersteinCurve:
    total, given = _layers(tracks, dim)
    layers = map(_finite, itertools.count(), given)
    curve = CurveInParts(solve)
    curve.push(next(layers))
    with _bar(None if total is None else total + 1, verbose) as bar:
        for layer in layers:
            curve.push(layer)
            bar.update()
        found = curve.finish()
        bar.update()
    return found


class CurveInParts:
    """The curve of layers that arrive one by one; the first and the last are held."""

    def __init__(self, solve: Callable[..., OTSResult] = ots):
        self._solve = solve
        self._first: Tensor | None = None
        self._before: Tensor | None = None
        self._steps: list[Tensor] = []
        self._scores: list[float] = []
        self._certified = True

    def push(self, layer: Tensor) -> None:
        """Take the next layer, (*batch, d)."""
        if self._before is None:
            self._first = layer
        else:
            distance, score = self._between(self._before, layer)
            self._steps.append(distance)
            self._scores.append(score)
        self._before = layer

    def _between(self, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
        found = self._solve(x, y)
        self._certified &= found.certified
        return _distance(x, y, found), found.score

    def finish(self) -> WassersteinCurve:
        """Return the curve of the layers so far, at least two."""
        assert self._first is not None
        assert self._before is not None
        distance = self._steps[0] if len(self._steps) == 1 else self._between(self._first, self._before)[0]
        step = torch.stack(self._steps)  # (n)
        length = step.sum()
        proved = torch.where(torch.tensor(self._certified, device=step.device), 1.0, torch.nan)
        return WassersteinCurve(
            ratio=(length / distance).clamp(min=1) * proved,
            evenness=_evenness(step) * proved,
            length=length,
            distance=distance,
            steps=step,
            ots=torch.tensor(self._scores, dtype=torch.float64, device=step.device),
            certified=self._certified,
            m=self._first.shape[:-1].numel(),
            d=self._first.shape[-1],
        )


def _layers(tracks: Tensor | Iterable[Tensor], dim: int) -> tuple[int | None, Iterator[Tensor]]:
    """Return the number of steps, where it is known, and the layers (*batch, d), each checked in turn."""
    if isinstance(tracks, Iterator):
        if dim != 0:
            raise ValueError(f"dim must be 0 for an iterator over layers, got {dim}.")
        return None, _checked(tracks)
    given = Tracks.of(tracks, dim)
    return given.steps, iter(given.states())


def _finite(number: int, layer: Tensor) -> Tensor:
    name = f"layer {number} of tracks"
    check_device(name, layer)
    rows = in_memory(name, layer.detach()).reshape(-1, layer.shape[-1])
    check_finite_rows(name, rows, "drop such tracks")
    return layer


def _checked(layers: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield the layers of an iterator; refuse less than two of them, and any that is unlike the first two."""
    pair = [as_tensors(layer) for layer in itertools.islice(layers, 2)]
    Tracks.of(pair)
    yield from pair
    for index, layer in enumerate(map(as_tensors, layers), start=2):
        check_float_tensor(f"tracks[{index}]", layer)
        check_layer("tracks", index, layer, pair[1])
        yield layer


def _distance(x: Tensor, y: Tensor, found: OTSResult) -> Tensor:
    """Return W2 of two layers (*batch, d) by the assignment found, differentiable where it is not zero."""
    x, y = (points.reshape(-1, points.shape[-1]).double() for points in (x, y))  # (m, d)
    move = y[found.permutation] - x
    largest = move.detach().abs().max()
    if not largest > 0:
        return move.sum() * 0.0
    return (move / largest).square().sum(-1).mean().sqrt() * largest


def _evenness(steps: Tensor) -> Tensor:
    mean = steps.mean()
    spread = (steps / mean - 1).square().mean()
    return spread.sqrt() if spread.detach() > 0 else spread


def _bar(total: int | None, verbose: bool) -> tqdm:
    delay, disable = (0, False) if verbose else (_BAR_AFTER, None)
    return tqdm(
        total=total, desc="Wasserstein distances", unit="layer", leave=False, delay=delay, disable=disable
    )
