# SPDX-License-Identifier: MIT
"""The control of the line-shape score: the same states, with the layers in another order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor

from geodesic_fast._arrays import Arrays, NDArray, Tensors, takes_arrays
from geodesic_fast._tracks import MAX_LISTED_LAYERS, Tracks
from geodesic_fast.engine.torch_internals import constant_in_graphs
from geodesic_fast.metrics.lss import lss, lss_reference


@overload
def lss_shuffled(
    tracks: Tensors, *, dim: int = ..., shuffles: int = ..., seed: int = ..., zero_step: str = ...
) -> Tensor: ...
@overload
def lss_shuffled(
    tracks: Arrays, *, dim: int = ..., shuffles: int = ..., seed: int = ..., zero_step: str = ...
) -> NDArray: ...
@takes_arrays
def lss_shuffled(
    tracks: Tensor | Sequence[Tensor],
    *,
    dim: int = 0,
    shuffles: int = 8,
    seed: int = 0,
    zero_step: str = "skip",
) -> Tensor:
    r"""Score the tracks with their layers shuffled, the control that the order of layers matters.

    With random orders p_1, ..., p_k of the n+1 layers, the same for all tracks,

        lss_shuffled = 1/k sum over i of lss(x^(p_i(0)), ..., x^(p_i(n))).

    Where a track moves on from layer to layer, its LSS lies below that; independent states give n in any
    order. An LSS that is no lower than this says nothing about the network's path.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d).
        dim: the layer axis of a tensor; must be 0 for a list.
        shuffles: k, the number of random orders, at least 1.
        seed: of the orders; NumPy's generator, so the same on every device.
        zero_step: as for `geodesic_fast.lss`.

    Returns:
        (*batch), in float32 (float64 for float64 tracks); inf or NaN where an order gives that.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`; fewer than 1 shuffle.

    Differentiable as `geodesic_fast.lss`. Compare it with the LSS itself: neither high nor low is better.

    Source: the permutation test, applied to the line-shape score of Gai and Zhang, arXiv:2102.09235.

    Example:
        >>> import torch, geodesic_fast
        >>> line = torch.arange(5.0)[:, None]  # 4 equal steps
        >>> geodesic_fast.lss(line).item(), geodesic_fast.lss_shuffled(line).item() > 1
        (1.0, True)
    """
    return _mean(lss, tracks, dim, shuffles, seed, zero_step)


def lss_shuffled_reference(
    tracks: Tensor | Sequence[Tensor],
    *,
    dim: int = 0,
    shuffles: int = 8,
    seed: int = 0,
    zero_step: str = "skip",
) -> Tensor:
    """Define `lss_shuffled` on the definition of the score."""
    return _mean(lss_reference, tracks, dim, shuffles, seed, zero_step)


def _mean(
    score: Callable[..., Tensor],
    tracks: Tensor | Sequence[Tensor],
    dim: int,
    shuffles: int,
    seed: int,
    zero_step: str,
) -> Tensor:
    given = Tracks.of(tracks, dim)
    if isinstance(shuffles, bool) or not isinstance(shuffles, int) or shuffles < 1:
        raise ValueError(f"shuffles must be an int of at least 1, got {shuffles!r}.")
    orders = _orders(given.points, shuffles, seed)
    return torch.stack([score(_in_order(given, order), zero_step=zero_step) for order in orders]).mean(0)


def _in_order(tracks: Tracks, order: list[int]) -> Tensor | list[Tensor]:
    if tracks.points > MAX_LISTED_LAYERS:  # then they are stacked
        return tracks.stacked()[torch.tensor(order, device=tracks.device)]
    states = tracks.states()
    return [states[at] for at in order]


@constant_in_graphs
def _orders(points: int, shuffles: int, seed: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.permutation(points).tolist() for _ in range(shuffles)]
