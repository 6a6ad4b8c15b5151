# SPDX-License-Identifier: MIT
"""Optimal transport score: is the network's own map the optimal transport map?"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from geodesic_fast._arrays import Array, Arrays, NDArray, ResultOf, Tensors, takes_arrays
from geodesic_fast._extension import engine, has_engine
from geodesic_fast._results import compared_by_value
from geodesic_fast._torch_internals import outside_graphs
from geodesic_fast._validation import (
    check_choice,
    check_device,
    check_finite_rows,
    check_points,
    check_positive,
    check_tracks,
    in_memory,
)
from geodesic_fast.metrics.directions import power_of_two
from geodesic_fast.transport.planner import METHODS, make_plan
from geodesic_fast.transport.points import Flow, Points
from geodesic_fast.transport.solve import Search, Solution

_FARTHEST_START = 2.0**20  # spread of potentials handed in, against the largest cost
REFERENCE_POINTS = 16_384  # 2 GiB of float64 costs


@compared_by_value
@dataclass(frozen=True, eq=False)
class OTSResult(ResultOf[Array]):
    """What `ots` found: the score and how far it is proved, the assignment, its cost and its certificate."""

    score: float  # NaN unless certified
    permutation: Array  # (m) int64: T(x_i) = y[permutation[i]]; the best known where not certified
    map_cost: float  # mean |x_i - y_i|^2
    optimal_cost: float  # mean |x_i - T(x_i)|^2 = W2^2; an upper bound where not certified
    efficiency: float  # optimal_cost / map_cost
    certified: bool
    score_lower: float = 0.0
    score_upper: float = 1.0
    gap: float = math.inf  # optimal_cost minus what the potentials prove
    relative_gap: float = math.inf  # gap / optimal_cost
    potentials: tuple[Array, Array] | None = None  # (u, v), (m) float64 each: u_i + v_j <= |x_i - y_j|^2
    method: str = "reference"
    record: dict[str, Any] = field(default_factory=dict, compare=False)  # stages, counts and seconds


@overload
def ots(
    x: Tensors,
    y: Tensor | NDArray | None = ...,
    *,
    method: str = ...,
    potentials: tuple[Tensor, Tensor] | tuple[NDArray, NDArray] | None = ...,
    memory_budget: int | None = ...,
    time_budget: float | None = ...,
    verbose: bool = ...,
) -> OTSResult: ...
@overload
def ots(
    x: Arrays,
    y: NDArray | None = ...,
    *,
    method: str = ...,
    potentials: tuple[NDArray, NDArray] | None = ...,
    memory_budget: int | None = ...,
    time_budget: float | None = ...,
    verbose: bool = ...,
) -> OTSResult[NDArray]: ...
@outside_graphs
@takes_arrays
def ots(
    x: Tensor | Sequence[Tensor],
    y: Tensor | None = None,
    *,
    method: str = "auto",
    potentials: tuple[Tensor, Tensor] | None = None,
    memory_budget: int | None = None,
    time_budget: float | None = None,
    verbose: bool = False,
) -> OTSResult:
    """Score how far the pairing x_i -> y_i is the optimal transport map.

    OTS = #{i : T(x_i) = y_i} / m, where T minimises sum_i |x_i - T(x_i)|^2 over all one-to-one maps onto y.

    Certified means exact in the values given: the permutation is optimal and, of all optimal ones, has the
    most fixed points, without a tolerance, since what float64 cannot tell apart is decided in whole numbers.
    Potentials and costs are rounded: u_i + v_j <= |x_i - y_j|^2 for all m x m pairs, with equality for those
    of the permutation, up to (d + 64) 2^-53 times the largest squared distance or potential.

    T(x_i) = y_i means equal points, so a duplicate of y_i is as good as y_i, and the permutation then names
    i. Where too many pairs of different points are tied, or nearly, to be decided, the result is not
    certified, and the score an interval.

    Args:
        x: source points (*batch, d), float16, bfloat16, float32 or float64, on the CPU or a GPU; or, without
            `y`, tracks: a tensor (n+1, *batch, d) or a list of layers (*batch, d), of which the first and
            last are taken.
        y: images of the source points, same shape, dtype and device as x: y_i = f(x_i).
        method: "stored" keeps one float32 number for each of the m x m pairs; "tiles" recomputes them in each
            pass and takes O(m d) memory; "dense" solves on all pairs in float64, for small m; "auto" takes
            "dense" up to 160 distinct points, else "stored" where the memory budget allows it, else "tiles".
        potentials: (u, v) of an earlier result, for example of the epoch before, or of a search that ran out
            of time: the start, never the proof.
        memory_budget: bytes the search may take; default: half of what is free on the device.
        time_budget: seconds; when they are used up, the result is an interval, `certified` is False and
            `score` NaN. It is looked at between tiles of costs, with one pass over all pairs kept in hand.
            Until the first assignment is solved the interval of a map far from optimal is [0, 1].
            `potentials`, if a pass was made at all, are feasible, and a later call goes on from them.
        verbose: show a progress bar on stderr; long searches do so on a terminal anyway.

    Returns:
        OTSResult; score, score_lower and score_upper are in [0, 1], costs in squared units of x. Where the
        optimal cost is tiny beside the duals, `relative_gap` may look large, such as 1e-3, although the gap
        itself is rounding: `certified` is what to go by.

    Raises:
        TypeError, ValueError: x and y are not finite points of the same shape, dtype and device.
        MemoryError: the budget cannot hold the problem.

    Not differentiable: the score counts. Higher is better; 1 means that the map is an optimal transport map.

    Source: Gai and Zhang, arXiv:2102.09235.

    Example:
        >>> import torch
        >>> from geodesic_fast import ots
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> ots(x, x + 1.0).score
        1.0
        >>> ots(x, torch.tensor([[2.0], [1.0], [3.0], [4.0]])).score
        0.5
    """
    x, y = _points_of(x, y)
    check_choice("method", method, METHODS)
    check_positive("memory_budget", memory_budget)
    check_positive("time_budget", time_budget)
    if potentials is not None:
        _check_potentials(potentials, len(x))
    started = time.monotonic()
    if engine is None and not has_engine(x.device):
        return ots_reference(x, y)
    has_engine(x.device)
    deadline = started + time_budget if time_budget is not None else math.inf
    with torch.no_grad():
        points = Points(x, y)
        turned = points.cols > points.rows  # the search takes the side with more distinct points as its rows
        if turned:
            points = Points(y, x)
        plan = make_plan(points, method, memory_budget)
        start = None if potentials is None else _start_of(points, potentials, turned)
        solution = Search(points, plan, deadline, verbose).run(start)
        solution.record["seconds"]["total"] = time.monotonic() - started
        return _result(points, turned, plan.method, solution)


def ots_reference(x: Tensor | Sequence[Tensor], y: Tensor | None = None) -> OTSResult:
    """Define `ots` on SciPy's dense solver; where optima tie, it reports one of them."""
    x, y = _points_of(x, y)
    m = len(x)
    if m > REFERENCE_POINTS:
        raise ValueError(
            f"x must hold at most {REFERENCE_POINTS} points, got {m}: the dense solver stores m x m costs. "
            "Score a random subset of the points."
        )
    from scipy.optimize import linear_sum_assignment  # where it is used: loading it takes a second

    unit = power_of_two(torch.stack([each.double().abs().amax() for each in (x, y)]).amax().cpu())
    source, target = x.double().cpu() / unit, y.double().cpu() / unit  # whose squares stay in the range
    offset = source.mean(0)
    cost = torch.cdist(
        source - offset, target - offset, compute_mode="donot_use_mm_for_euclid_dist"
    ).square_()
    permutation = torch.as_tensor(linear_sum_assignment(cost.numpy())[1])
    optimal = float((source - target[permutation]).square().sum(-1).mean())
    total = float((source - target).square().sum(-1).mean())
    score = float((target[permutation] == target).all(-1).double().mean())
    efficiency = optimal / total if total > 0 else 1.0
    square = float(unit) * float(unit)
    return OTSResult(
        score,
        permutation.to(x.device),
        total * square,
        optimal * square,
        efficiency,
        True,
        score,
        score,
        0.0,
        0.0,
    )


def _points_of(x: Tensor | Sequence[Tensor], y: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return checked points (m, d) without gradients."""
    if y is None:
        check_tracks(x, 0)
        x, y = x[0], x[-1]
    check_points(x, y)
    assert isinstance(x, Tensor)
    check_device("x", x)
    x, y = (
        in_memory(name, points.detach()).reshape(-1, points.shape[-1])
        for name, points in (("x", x), ("y", y))
    )  # (m, d)
    for name, points in (("x", x), ("y", y)):
        if not all(value.isfinite() for value in points.aminmax()):  # NaN and inf pass through both
            check_finite_rows(name, points)
    return x, y


def _check_potentials(potentials: tuple[Tensor, Tensor], m: int) -> None:
    shapes = [tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__ for p in potentials]
    if shapes != [(m,), (m,)]:
        raise ValueError(
            f"potentials must be (u, v) of shape ({m},) each, got {shapes}: "
            "pass result.potentials of an earlier call with as many points."
        )
    check_finite_rows("potentials", torch.stack([p.detach() for p in potentials], dim=1))


def _start_of(points: Points, potentials: tuple[Tensor, Tensor], turned: bool) -> np.ndarray | None:
    """Return the column dual that an earlier result proposes, in shifted costs."""
    start = points.shifted_column_potential(potentials[0 if turned else 1].detach())
    largest = points.largest_cost()
    if not np.ptp(start) <= _FARTHEST_START * largest:
        warnings.warn(
            "potentials must be about as large as the squared distances of the points, got values that "
            f"differ by {np.ptp(start) / max(largest, 1e-300):.1e} times the largest: the search starts from "
            "nothing. Pass result.potentials of an earlier call on nearly the same points.",
            stacklevel=4,
        )
        return None
    return start


def _result(points: Points, turned: bool, method: str, solution: Solution) -> OTSResult:
    own, flow = Flow(points.pair_row, points.pair_col, points.pair_count), solution.flow
    map_cost, optimal = (points.mean_cost(of) for of in (own, flow))
    gap = points.as_distance(solution.gap)
    given = None
    if solution.u is not None and solution.v is not None:
        given = points.given_potentials(solution.u, solution.v)
    if given is not None and not all(bool(dual.isfinite().all()) for dual in given):
        given = None  # squared distances beyond float64
    permutation = points.permutation(flow)
    if turned:
        permutation, given = np.argsort(permutation), given and given[::-1]
    return OTSResult(
        score=solution.fixed_low if solution.certified else math.nan,
        permutation=torch.from_numpy(permutation).to(points.device),
        map_cost=points.given_cost(map_cost),
        optimal_cost=points.given_cost(optimal),
        efficiency=optimal / map_cost if map_cost > 0 else 1.0,
        certified=solution.certified,
        score_lower=solution.fixed_low,
        score_upper=solution.fixed_high,
        gap=points.given_cost(gap),
        relative_gap=gap / optimal if optimal > 0 else (0.0 if gap <= 0 else math.inf),
        potentials=given,
        method=method,
        record=solution.record,
    )
