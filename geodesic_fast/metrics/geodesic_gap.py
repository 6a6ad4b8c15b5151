# SPDX-License-Identifier: MIT
"""Geodesic gap: how much dearer is the network's way than the Wasserstein geodesic between its ends?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from geodesic_fast._arrays import Array, Arrays, NamedTuple, NDArray, ResultOf, Tensors, takes_arrays
from geodesic_fast._processes import Processes, processes_of
from geodesic_fast._results import compared_by_value
from geodesic_fast._shared_points import check_no_gradient
from geodesic_fast._tracks import Tracks
from geodesic_fast._validation import check_float_tensor
from geodesic_fast.engine.torch_internals import outside_graphs
from geodesic_fast.metrics.action import action, action_reference
from geodesic_fast.metrics.ots import OTSResult, ots, ots_of_processes, ots_reference
from geodesic_fast.transport.agreement import Options

SMALLEST_SQUARE = 1e-30  # in float32: below, squares lose digits


@compared_by_value
class GeodesicGap(NamedTuple, ResultOf[Array]):
    """What `geodesic_gap` returns: float64 scalars, and whether W2 is proved."""

    gap: Array
    bending: Array
    detour: Array
    action: Array
    chord_cost: Array
    optimal_cost: Array
    certified: bool

    @property
    def rectified_straightness(self) -> Array:
        """Straightness S of Liu et al., Flow Straight and Fast (2022): action - chord_cost, 0 if straight."""
        action: Any = self.action
        return action - self.chord_cost


@overload
def geodesic_gap(
    tracks: Tensors,
    *,
    dim: int = ...,
    target: Tensor | NDArray | None = ...,
    times: Sequence[float] | Tensor | NDArray | None = ...,
    memory_budget: int | None = ...,
    time_budget: float | None = ...,
    verbose: bool = ...,
    group: ProcessGroup | None = ...,
) -> GeodesicGap: ...
@overload
def geodesic_gap(
    tracks: Arrays,
    *,
    dim: int = ...,
    target: NDArray | None = ...,
    times: Sequence[float] | NDArray | None = ...,
    memory_budget: int | None = ...,
    time_budget: float | None = ...,
    verbose: bool = ...,
    group: ProcessGroup | None = ...,
) -> GeodesicGap[NDArray]: ...
@overload  # of both, or of what nobody typed
def geodesic_gap(tracks: Sequence[Tensor | NDArray], **options: Any) -> Any: ...
@outside_graphs
@takes_arrays
def geodesic_gap(
    tracks: Tensor | Sequence[Tensor],
    *,
    dim: int = 0,
    target: Tensor | None = None,
    times: Sequence[float] | Tensor | None = None,
    memory_budget: int | None = None,
    time_budget: float | None = None,
    verbose: bool = False,
    group: ProcessGroup | None = None,
) -> GeodesicGap:
    r"""Compare the action of all tracks together with that of the geodesic between the two end populations.

    Over m tracks, with c_i = |x_i^(n) - x_i^(0)| and T the optimal transport map of the ends (see `ots`):

        action        mean over i of n (s_i1^2 + ... + s_in^2)
        chord_cost    mean over i of c_i^2
        optimal_cost  W2^2 = mean over i of |x_i^(0) - T(x_i^(0))|^2
        bending       action / chord_cost         at least 1; 1: straight tracks at constant speed
        detour        chord_cost / optimal_cost   at least 1; 1: the network's own map is optimal
        gap           bending * detour - 1        at least 0; 0: a discrete Wasserstein geodesic

    With `times` the action is that of `action` with these times. With a `target`, T is the optimal map from
    x^(0) to the points of the target, which a flow should reach: |gap| is then the normalised path energy of
    the flow-matching literature, |action - W2^2| / W2^2, and detour and gap may fall below 1 and 0, since the
    tracks need not arrive there.
    `rectified_straightness` of the result is action - chord_cost, the straightness of rectified flow.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d). All tracks of the batch are one population.
        dim: the layer axis of a tensor; must be 0 for a list.
        target: (*batch, d), as many points as there are tracks, in any order, of their dtype and device: a
            sample of the distribution to reach; default: the last layer.
        times: n+1 increasing numbers, when each layer takes place; default: evenly.
        memory_budget: bytes that the search for T may take, as in `ots`.
        time_budget: seconds that it may take, as in `ots`.
        verbose: show its progress bar.
        group: processes that share the population, as in `ots`: each passes its own tracks, in any number,
            and all get the same numbers of all tracks.

    Returns:
        GeodesicGap of float64 scalars on the device of the tracks. `certified` says that W2 is proved; where
        a time budget ran out first, `optimal_cost` is the best found, an upper bound, and gap and detour are
        lower bounds. Per-track actions are float32 (float64 for float64 tracks, and where squares leave the
        range of float32), so that the gap of an exact geodesic is zero to about 1e-7 (1e-15) of either sign.
        If nothing moves on balance, optimal_cost is 0 and detour and gap are inf, or NaN where the chords are
        0 too.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`; no tracks, or ends that hold NaN or inf; a target that
            does not match the tracks; times that are not n+1 increasing numbers.
        MemoryError: the budget cannot hold the assignment problem.

    Differentiable once, with T held fixed, which is exact wherever T is the only optimal map; with a group
    a gradient is refused. Lower is more geodesic.

    Source: Benamou and Brenier (2000); Gai and Zhang, arXiv:2102.09235; with a target, the path energy of
    Tong et al. (2024).

    Example:
        >>> import torch, geodesic_fast
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> crossing = torch.stack((x, torch.tensor([[3.0], [2.0]])))  # one step, which swaps the two points
        >>> found = geodesic_fast.geodesic_gap(crossing)
        >>> found.bending.item(), found.detour.item(), found.gap.item()
        (1.0, 1.25, 0.25)
    """
    if group is not None:
        with processes_of(group, "geodesic_gap") as processes:
            given = Tracks.of(tracks, dim)
            check_no_gradient("geodesic_gap", given, target)
            options = Options("auto", None, memory_budget, time_budget, verbose)
            return _of_processes(given, target, times, options, processes)
    given = Tracks.of(tracks, dim)
    first, last, aim = _ends(given, target)
    found = ots(first, aim, memory_budget=memory_budget, time_budget=time_budget, verbose=verbose)
    actions = _actions(given.as_given(), times)
    return _gap(actions, first, last, aim, found)


def _of_processes(
    tracks: Tracks,
    target: Tensor | None,
    times: Sequence[float] | Tensor | None,
    options: Options,
    processes: Processes,
) -> GeodesicGap:
    """Return the numbers of all processes' tracks, whose means are taken in the order of the ranks."""
    first, last, aim = _ends(tracks, target, may_be_empty=True)
    found = ots_of_processes(first, aim, options, processes)
    actions = first.new_empty(0, dtype=torch.float64)
    if tracks.m:
        actions = _actions(tracks.as_given(), times).double().reshape(-1)
    chords = (last.double() - first.double()).square().sum(-1)
    action, chord_cost = (processes.gathered(each).mean() for each in (actions, chords))
    return _of_means(action, chord_cost, chord_cost.new_tensor(found.optimal_cost), found.certified)


def _actions(tracks: Tensor | Sequence[Tensor], times: Sequence[float] | Tensor | None) -> Tensor:
    """Return the action of each track (*batch), in float64 where squares leave the range of float32."""
    found = action(tracks, times=times)
    if found.dtype == torch.float64 or bool(((found > SMALLEST_SQUARE) & found.isfinite()).all()):
        return found
    return action(Tracks.of(tracks).map(Tensor.double).as_given(), times=times)


def geodesic_gap_reference(
    tracks: Tensor | Sequence[Tensor],
    *,
    dim: int = 0,
    target: Tensor | None = None,
    times: Sequence[float] | Tensor | None = None,
    memory_budget: int | None = None,
    time_budget: float | None = None,
    verbose: bool = False,
) -> GeodesicGap:
    """Define `geodesic_gap` on the plain action and SciPy's dense solver, which takes no budgets."""
    given = Tracks.of(tracks, dim)
    first, last, aim = _ends(given, target)
    actions = action_reference(given.map(Tensor.double).as_given(), times=times)
    return _gap(actions, first, last, aim, ots_reference(first, aim))


def _ends(tracks: Tracks, target: Tensor | None, may_be_empty: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first layer, the last, and the points to reach, (m, d) each."""
    first, last = (end.reshape(tracks.m, tracks.d) for end in tracks.ends())
    if tracks.m or not may_be_empty:
        tracks.check_population()
    if target is None:
        return first, last, last
    check_float_tensor("target", target)
    aim = target.reshape(-1, target.shape[-1]) if target.ndim else target
    for trait in ("shape", "dtype", "device"):
        got, expected = getattr(aim, trait), getattr(first, trait)
        if got != expected:
            raise ValueError(
                f"target must have the {trait} of one layer of the tracks, {expected}, got {got}: "
                "it holds as many points as there are tracks, in the same space."
            )
    return first, last, aim


def _gap(actions: Tensor, first: Tensor, last: Tensor, aim: Tensor, found: OTSResult) -> GeodesicGap:
    chord_cost, optimal_cost = _mean_cost(first, last), _mean_cost(first, aim[found.permutation])
    return _of_means(actions.double().mean(), chord_cost, optimal_cost, found.certified)


def _of_means(action: Tensor, chord_cost: Tensor, optimal_cost: Tensor, certified: bool) -> GeodesicGap:
    bending, detour = action / chord_cost, chord_cost / optimal_cost
    return GeodesicGap(
        action / optimal_cost - 1, bending, detour, action, chord_cost, optimal_cost, certified
    )


def _mean_cost(first: Tensor, last: Tensor) -> Tensor:
    return (last.double() - first.double()).square().sum(-1).mean()
