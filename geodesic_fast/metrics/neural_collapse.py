# SPDX-License-Identifier: MIT
"""Neural collapse, layer by layer: do the samples of a class draw together on their way?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from geodesic_fast._arrays import Array, Arrays, NamedTuple, NDArray, ResultOf, Tensors, takes_arrays
from geodesic_fast._results import compared_by_value
from geodesic_fast._tracks import Tracks
from geodesic_fast._validation import check_labels, in_memory
from geodesic_fast.engine.torch_internals import outside_graphs
from geodesic_fast.metrics.directions import power_of_two

_BLOCK = 1 << 18  # values of a layer that are looked at together, or distances to class means


@compared_by_value
class NeuralCollapse(NamedTuple, ResultOf[Array]):
    """What `neural_collapse` returns: one value for each of the n+1 layers, float64."""

    variability: Array  # (n+1)
    nearest_mean_error: Array  # (n+1)


@overload
def neural_collapse(tracks: Tensors, *, labels: Tensor | NDArray, dim: int = ...) -> NeuralCollapse: ...
@overload
def neural_collapse(
    tracks: Arrays, *, labels: Tensor | NDArray, dim: int = ...
) -> NeuralCollapse[NDArray]: ...
@overload  # of both, or of what nobody typed
def neural_collapse(tracks: Sequence[Tensor | NDArray], **options: Any) -> Any: ...
@outside_graphs
@takes_arrays
def neural_collapse(tracks: Tensor | Sequence[Tensor], *, labels: Tensor, dim: int = 0) -> NeuralCollapse:
    r"""Measure how far the samples of each class have drawn together at every layer.

    With k_i the class of sample i, mu_k the mean of class k at layer l, mu that of all m samples there and
    m_k the number of samples in class k,

        within  = 1/m sum over i of |x_i^(l) - mu_(k_i)|^2        the trace of the within-class covariance
        between = 1/m sum over k of m_k |mu_k - mu|^2             the trace of the between-class covariance
        variability_l        = within / between
        nearest_mean_error_l = share of the i for which another class's mean is the nearest to x_i^(l).

    Neural collapse is a variability of 0 at the last layer; progressive feedforward collapse is that both
    figures fall from layer to layer, as they do along a Wasserstein geodesic that ends collapsed. Takes two
    passes over each layer and memory for one vector per class, in float64.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d).
        labels: (*batch) or (m), integers: the class of each track.
        dim: the layer axis of a tensor; must be 0 for a list.

    Returns:
        NeuralCollapse of variability in [0, inf] and nearest_mean_error in [0, 1], (n+1) each, float64 on the
        device of the tracks. Where all class means are equal, variability is inf, or NaN if all samples are
        too. Of equally near means that of the lowest label counts. A layer that holds NaN or inf has NaN for
        both. The means are those of the samples given: few samples in many dimensions look collapsed, so
        compare at equal m and d.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`; no tracks; labels are not one integer for each track.

    Not differentiable: it describes. Lower is more collapsed.

    Source: Papyan, Han and Donoho (2020), arXiv:2008.08186, whose NC1 takes the whole covariances where these
    are their traces; layer by layer: Wang, Gai and Zhang, arXiv:2405.00985.

    Example:
        >>> import torch, geodesic_fast
        >>> first = torch.tensor([[0.0], [2.0], [4.0], [6.0]])  # (m, d)
        >>> last = torch.tensor([[1.0], [1.0], [5.0], [5.0]])
        >>> geodesic_fast.neural_collapse([first, last], labels=torch.tensor([0, 0, 1, 1])).variability
        tensor([0.2500, 0.0000], dtype=torch.float64)
    """
    layers, classes = _checked(tracks, labels, dim)
    found = [_collapse_of(layer, classes) for layer in layers]
    return NeuralCollapse(*(torch.stack(column) for column in zip(*found, strict=True)))


def neural_collapse_reference(
    tracks: Tensor | Sequence[Tensor], *, labels: Tensor, dim: int = 0
) -> NeuralCollapse:
    """Define `neural_collapse` in plain torch: the mean squares within and between the classes."""
    layers, classes = _checked(tracks, labels, dim)
    found = []
    for layer in layers:
        x = layer.double()  # (m, d)
        means = torch.stack([x[classes == k].mean(0) for k in range(int(classes.max()) + 1)])  # (K, d)
        within = (x - means[classes]).square().sum(-1).mean()
        between = (means[classes] - x.mean(0)).square().sum(-1).mean()
        nearest = (x[:, None] - means).square().sum(-1).argmin(-1)
        error = (nearest != classes).double().mean()
        bad = ~x.isfinite().all()
        found.append(((within / between).masked_fill(bad, torch.nan), error.masked_fill(bad, torch.nan)))
    return NeuralCollapse(*(torch.stack(column) for column in zip(*found, strict=True)))


def _checked(tracks: Tensor | Sequence[Tensor], labels: Tensor, dim: int) -> tuple[Iterator[Tensor], Tensor]:
    """Return the layers, (m, d) each, and the class of each track, (m), numbered by its label's rank."""
    given = Tracks.of(tracks, dim).map(lambda layer: in_memory("tracks", layer.detach()))
    if labels is None:
        raise TypeError("labels must be a torch.Tensor, got NoneType: pass the class of each track.")
    check_labels(labels, given.batch, given.device)
    if not given.m:
        raise ValueError("tracks must hold at least 1 track, got 0: pass the states of some samples.")
    return iter(given.flat().states()), torch.unique(labels.reshape(-1), return_inverse=True)[1]


def _collapse_of(layer: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return variability and nearest-mean error of one layer (m, d), a block of samples at a time."""
    m, d = layer.shape
    largest = torch.stack(layer.aminmax()).double().abs().amax()  # NaN passes on
    if not bool(largest.isfinite()):
        return torch.full_like(largest, torch.nan), torch.full_like(largest, torch.nan)
    unit = power_of_two(largest)  # squares in it neither overflow nor vanish
    sizes = classes.bincount()  # (K)
    rows = max(1, _BLOCK // max(d, len(sizes)))
    blocks = [slice(start, start + rows) for start in range(0, m, rows)]
    sums = torch.zeros(len(sizes), d, dtype=torch.float64, device=layer.device)  # (K, d)
    for block in blocks:
        member = one_hot(classes[block], len(sizes)).double()  # (rows, K)
        sums += member.T @ (layer[block].double() / unit)
    means = sums / sizes[:, None]
    centre = sums.sum(0) / m  # (d)
    means = means - centre
    within, wrong = torch.zeros_like(largest), torch.zeros_like(largest)
    for block in blocks:
        x = layer[block].double() / unit - centre
        within += (x - means[classes[block]]).square().sum()
        nearest = (means.square().sum(-1) - 2 * x @ means.T).argmin(-1)
        wrong += (nearest != classes[block]).sum()
    return within / (sizes * means.square().sum(-1)).sum(), wrong / m
