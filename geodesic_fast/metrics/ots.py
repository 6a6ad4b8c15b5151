# SPDX-License-Identifier: MIT
"""Optimal transport score: is the network's own map the optimal transport map?"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from geodesic_fast._arrays import Arrays, NDArray, Tensors, takes_arrays
from geodesic_fast._processes import ALONE, Processes, processes_of
from geodesic_fast._shared_points import agreed_points, hold_no_pairs
from geodesic_fast._tracks import ends_of
from geodesic_fast._validation import (
    check_choice,
    check_device,
    check_finite_rows,
    check_points,
    check_positive,
    check_potentials,
    in_memory,
)
from geodesic_fast.engine.load import has_engine, is_loaded
from geodesic_fast.engine.torch_internals import outside_graphs
from geodesic_fast.metrics.directions import power_of_two
from geodesic_fast.metrics.ots_results import (
    OTSBatchResult,
    OTSResult,
    moved,
    put,
    stacked,
    stacked_fields,
)
from geodesic_fast.transport import duals
from geodesic_fast.transport.agreement import Options, agreed_options, agreed_potentials
from geodesic_fast.transport.dense_assignment import (
    SMALL,
    DenseSolutions,
    bytes_each,
    solve_dense,
    solve_none,
)
from geodesic_fast.transport.memory import free_memory
from geodesic_fast.transport.planner import METHODS, make_plan
from geodesic_fast.transport.points import Flow, Points
from geodesic_fast.transport.solve import Search, Solution, new_record

_FARTHEST_START = 2.0**20  # spread of potentials handed in, against the largest cost
_CPU = torch.device("cpu")
REFERENCE_POINTS = 16_384  # 2 GiB of float64 costs
_UNASKED_BYTES = 64 << 20  # below that nobody asks what memory is free


@overload
def ots(  # type: ignore[overload-overlap]
    x: Tensors,
    y: Tensor | NDArray | None = ...,
    *,
    dim: int = ...,
    batch_dims: Literal[0] = ...,
    method: str = ...,
    potentials: tuple[Tensor, Tensor] | tuple[NDArray, NDArray] | None = ...,
    memory_budget: int | None = ...,
    time_budget: float | None = ...,
    verbose: bool = ...,
    group: ProcessGroup | None = ...,
) -> OTSResult: ...
@overload
def ots(  # type: ignore[overload-overlap]
    x: Arrays,
    y: NDArray | None = ...,
    *,
    dim: int = ...,
    batch_dims: Literal[0] = ...,
    method: str = ...,
    potentials: tuple[NDArray, NDArray] | None = ...,
    memory_budget: int | None = ...,
    time_budget: float | None = ...,
    verbose: bool = ...,
    group: ProcessGroup | None = ...,
) -> OTSResult[NDArray]: ...
@overload
def ots(
    x: Tensors,
    y: Tensor | NDArray | None = ...,
    *,
    dim: int = ...,
    batch_dims: int,
    method: str = ...,
    potentials: tuple[Tensor, Tensor] | tuple[NDArray, NDArray] | None = ...,
    memory_budget: int | None = ...,
    time_budget: float | None = ...,
    verbose: bool = ...,
    group: ProcessGroup | None = ...,
) -> OTSBatchResult: ...
@overload
def ots(
    x: Arrays,
    y: NDArray | None = ...,
    *,
    dim: int = ...,
    batch_dims: int,
    method: str = ...,
    potentials: tuple[NDArray, NDArray] | None = ...,
    memory_budget: int | None = ...,
    time_budget: float | None = ...,
    verbose: bool = ...,
    group: ProcessGroup | None = ...,
) -> OTSBatchResult[NDArray]: ...
@outside_graphs
@takes_arrays
def ots(
    x: Tensor | Sequence[Tensor],
    y: Tensor | None = None,
    *,
    dim: int = 0,
    batch_dims: int = 0,
    method: str = "auto",
    potentials: tuple[Tensor, Tensor] | None = None,
    memory_budget: int | None = None,
    time_budget: float | None = None,
    verbose: bool = False,
    group: ProcessGroup | None = None,
) -> OTSResult | OTSBatchResult:
    """Score how far the pairing x_i -> y_i is the optimal transport map.

    OTS = #{i : T(x_i) = y_i} / m, where T minimises sum_i |x_i - T(x_i)|^2 over all one-to-one maps onto y.

    Certified means exact in the values given: the permutation is optimal and, of all optimal ones, has the
    most fixed points, without a tolerance, since what float64 cannot tell apart is decided in whole numbers.
    Potentials and costs are rounded: u_i + v_j <= |x_i - y_j|^2 for all m x m pairs, with equality for those
    of the permutation, up to (d + 64) 2^-53 times the largest squared distance or potential, which
    `result.verify(x, y)` checks anew.

    T(x_i) = y_i means equal points, so a duplicate of y_i is as good as y_i, and the permutation then names
    i. Where too many pairs of different points are tied, or nearly, to be decided, the result is not
    certified, and the score an interval.

    Args:
        x: source points (*batch, d), float16, bfloat16, float32 or float64, on the CPU or a GPU; or, without
            `y`, tracks: a tensor (n+1, *batch, d) or a list of layers (*batch, d), of which the first and
            last are taken.
        y: images of the source points, same shape, dtype and device as x: y_i = f(x_i).
        dim: the layer axis of tracks in one tensor; must be 0 for a list, and with `y`.
        batch_dims: how many leading axes of x and y number problems of their own, which one call solves side
            by side: with 1, x and y (b, m, d) are b problems of m points, such as mini-batches, classes or
            layers (`ots(tracks[:-1], tracks[1:], batch_dims=1)`).
        method: "stored" keeps one float32 number for each of the m x m pairs; "tiles" recomputes them in each
            pass and takes O(m d) memory; "dense" solves on all pairs in float64, for small m; "auto" takes
            "dense" up to 600 points, else "stored" where the memory budget allows it, else "tiles".
        potentials: (u, v) of an earlier result, for example of the epoch before, or of a search that ran out
            of time: the start, never the proof. "dense" has no use for it.
        memory_budget: bytes the search may take; default: half of what is free on the device.
            Where points tie, or nearly, that their proof finds no room, the result is an interval.
        time_budget: seconds; when they are used up, the result is an interval, `certified` is False and
            `score` NaN. It is looked at between tiles of costs, with one pass over all pairs kept in hand.
            Until the first assignment is solved the interval of a map far from optimal is [0, 1].
            `potentials`, if a pass was made at all, are feasible, and a later call goes on from them.
        verbose: show a progress bar on stderr; long searches do so on a terminal anyway.
        group: processes that share the problem, such as `torch.distributed.group.WORLD`. Each passes its own
            pairs, in any number, none included, and all get the same result: `permutation` and potentials are
            of all points, numbered in the order of the ranks. Budgets are the least of any process. What
            ends the call on one, be it wrong input, Ctrl-C or no memory, ends it on all.

    Returns:
        OTSResult; score, score_lower and score_upper are in [0, 1], costs in squared units of x. Where the
        optimal cost is tiny beside the duals, `relative_gap` may look large, such as 1e-3, although the gap
        itself is rounding: `certified` is what to go by. With batch_dims, OTSBatchResult: the same fields
        as tensors (*b) on the device of x, and permutation and potentials (*b, m).

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
        >>> y = torch.tensor([[2.0], [1.0], [3.0], [4.0]])
        >>> ots(x, y).score
        0.5
        >>> ots(torch.stack((x, x)), torch.stack((x + 1.0, y)), batch_dims=1).score.tolist()
        [1.0, 0.5]
    """
    if group is not None:
        with processes_of(group, "ots") as processes, torch.no_grad():
            if batch_dims:
                raise ValueError(
                    f"batch_dims must be 0 with a group, got {batch_dims!r}: processes share one problem."
                )
            options = Options(method, potentials, memory_budget, time_budget, verbose)
            return ots_of_processes(*ends_of(x, y, dim), options, processes)
    x, y, batch = _problems_of(*ends_of(x, y, dim), batch_dims)
    check_choice("method", method, METHODS)
    check_positive("memory_budget", memory_budget)
    check_positive("time_budget", time_budget)
    start = None if potentials is None else _potentials_of(potentials, x, batch)
    started = time.monotonic()
    if not is_loaded and not has_engine(x.device):
        _warn_of_dropped(method=method, memory_budget=memory_budget, time_budget=time_budget)
        _check_finite(x, y, batch_dims)
        return _reference(x, y, batch, batch_dims)
    has_engine(x.device)
    deadline = started + time_budget if time_budget is not None else math.inf
    limits = _Limits(method, memory_budget, deadline, verbose, started)
    with torch.no_grad():
        dense = _solve_dense(x, y, limits)
        if dense is None or not dense.all_unique:  # NaN and inf are never proved
            _check_finite(x, y, batch_dims)
        if batch_dims > 0:
            return _batch_result(x, y, batch, start, limits, dense)
        if dense is not None and dense.all_unique:
            return _dense_result(dense, x.device, limits)
        return _search(x[0], y[0], start and (start[0][0], start[1][0]), limits)


@overload
def ots_reference(  # type: ignore[overload-overlap]
    x: Tensor | Sequence[Tensor], y: Tensor | None = None, *, dim: int = 0, batch_dims: Literal[0] = 0
) -> OTSResult: ...


@overload
def ots_reference(
    x: Tensor | Sequence[Tensor], y: Tensor | None = None, *, dim: int = 0, batch_dims: int
) -> OTSBatchResult: ...


def ots_reference(
    x: Tensor | Sequence[Tensor], y: Tensor | None = None, *, dim: int = 0, batch_dims: int = 0
) -> OTSResult | OTSBatchResult:
    """Define `ots` on SciPy's dense solver; where optima tie, it reports one of them."""
    x, y, batch = _problems_of(*ends_of(x, y, dim), batch_dims)
    _check_finite(x, y, batch_dims)
    return _reference(x, y, batch, batch_dims)


def _warn_of_dropped(**given: str | float | None) -> None:
    """Say which wishes the definition does not follow, where it answers for the engine."""
    dropped = [f"{name}={value!r}" for name, value in given.items() if value not in (None, "auto")]
    if dropped:
        warnings.warn(
            f"ots without the compiled engine solves on all pairs at once, got {', '.join(dropped)}, which "
            "it does not follow: leave it out, or install a C++ compiler and then this package again.",
            RuntimeWarning,
            stacklevel=5,
        )


def _reference(x: Tensor, y: Tensor, batch: tuple[int, ...], batch_dims: int) -> OTSResult | OTSBatchResult:
    m = x.shape[1]
    if m > REFERENCE_POINTS:
        raise ValueError(
            f"x must hold at most {REFERENCE_POINTS} points, got {m}: the dense solver stores m x m costs. "
            "Score a random subset of the points."
        )
    if batch_dims == 0:
        return _reference_of(x[0], y[0])
    fields = stacked_fields(solve_none(x, y))
    for k, problem in enumerate(zip(x, y, strict=True)):
        put(fields, k, _reference_of(*problem))
    return stacked(fields, batch, x.device, "reference", {})


def _reference_of(x: Tensor, y: Tensor) -> OTSResult:
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


def _problems_of(x: object, y: object, batch_dims: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Return checked points (problems, m, d) without gradients, and the batch's shape."""
    check_points(x, y, batch_dims)
    assert isinstance(x, Tensor)
    assert isinstance(y, Tensor)
    check_device("x", x)
    batch, m = tuple(x.shape[:batch_dims]), x.shape[batch_dims:-1].numel()
    x, y = (
        in_memory(name, points.detach()).reshape(math.prod(batch), m, points.shape[-1])
        for name, points in (("x", x), ("y", y))
    )  # (problems, m, d)
    return x, y, batch


def _check_finite(x: Tensor, y: Tensor, batch_dims: int) -> None:
    for name, points in (("x", x), ("y", y)):
        if len(points) == 0 or all(map(math.isfinite, torch.stack(points.aminmax()).tolist())):
            continue  # NaN and inf pass through both extremes
        for k, problem in enumerate(points):
            check_finite_rows(f"{name}[{k}]" if batch_dims else name, problem)


def _potentials_of(
    potentials: tuple[Tensor, Tensor], x: Tensor, batch: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Return checked potentials (problems, m) each."""
    problems, m, _ = x.shape
    check_potentials(potentials, (*batch, m))
    u, v = (p.detach().to(x.device).reshape(problems, m) for p in potentials)
    check_finite_rows("potentials", torch.stack([u.reshape(-1), v.reshape(-1)], dim=1))
    return u, v


class _Limits(NamedTuple):
    """What a search may take, and when it began."""

    method: str
    memory_budget: int | None
    deadline: float
    verbose: bool
    started: float


def _solve_dense(x: Tensor, y: Tensor, limits: _Limits) -> DenseSolutions | None:
    """Solve problems that are small enough on all their pairs; None where they are not."""
    _, m, d = x.shape
    wanted = limits.method == "dense" or (limits.method == "auto" and m <= SMALL)
    if not is_loaded or not wanted:
        return None
    needed, budget = bytes_each(m, d), limits.memory_budget
    if budget is None:
        budget = _UNASKED_BYTES if needed <= _UNASKED_BYTES else free_memory(x.device) // 2
    return solve_dense(x, y, budget, limits.deadline, limits.verbose) if needed <= budget else None


def ots_of_processes(x: object, y: object, options: Options, processes: Processes) -> OTSResult:
    """Find the answer to the problem of all processes, of which this one holds some pairs."""
    started = time.monotonic()
    if not hold_no_pairs(x, y):
        x, y, _ = _problems_of(x, y, 0)
        _check_finite(x, y, 0)
    assert isinstance(x, Tensor)
    assert isinstance(y, Tensor)
    flat = (points.reshape(points.shape[:-1].numel(), points.shape[-1]) for points in (x, y))
    x, y = agreed_points("x", processes, *flat)
    options, m = agreed_options(options, processes), sum(processes.numbers(len(x)))
    potentials = agreed_potentials(options.potentials, m, x.device, processes)
    small = options.method == "dense" or (options.method == "auto" and m <= SMALL)
    if small or not has_engine(x.device):
        every = processes.gathered(x), processes.gathered(y)
        options = options._replace(potentials=potentials)
        return moved(processes.shared(lambda: moved(ots(*every, **options._asdict()), _CPU)), x.device)
    deadline = math.inf if options.time_budget is None else started + options.time_budget
    limits = _Limits(options.method, options.memory_budget, deadline, options.verbose, started)
    return _search(x, y, potentials, limits, processes)


def _search(
    x: Tensor,
    y: Tensor,
    potentials: tuple[Tensor, Tensor] | None,
    limits: _Limits,
    processes: Processes = ALONE,
) -> OTSResult:
    """Find the answer to one problem (m, d), whatever its size and ties."""
    points = Points(x, y, processes=processes)
    turned = points.cols > points.rows  # the search takes the side with more distinct points as its rows
    if turned:
        points = Points(y, x, processes=processes)
    plan = make_plan(points, limits.method, limits.memory_budget)
    start = None if potentials is None else _start_of(points, potentials[0 if turned else 1])
    solution = Search(points, plan, limits.deadline, limits.verbose).run(start)
    solution.record["seconds"]["total"] = time.monotonic() - limits.started
    return _result(points, turned, plan.method, solution)


def _start_of(points: Points, potential: Tensor) -> np.ndarray | None:
    """Return the column dual that an earlier result proposes, in shifted costs."""
    start = duals.from_given(points, potential)
    largest = duals.largest_cost(points)
    if not np.ptp(start) <= _FARTHEST_START * largest:
        warnings.warn(
            "potentials must be about as large as the squared distances of the points, got values that "
            f"differ by {np.ptp(start) / max(largest, 1e-300):.1e} times the largest: the search starts from "
            "nothing. Pass result.potentials of an earlier call on nearly the same points.",
            stacklevel=5,
        )
        return None
    return start


def _result(points: Points, turned: bool, method: str, solution: Solution) -> OTSResult:
    own, flow = Flow(points.pair_row, points.pair_col, points.pair_count), solution.flow
    map_cost, optimal = (points.mean_cost(of) for of in (own, flow))
    gap = points.as_distance(solution.gap)
    given = None
    if solution.u is not None and solution.v is not None:
        given = duals.as_given(points, solution.u, solution.v)
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


def _dense_result(dense: DenseSolutions, device: torch.device, limits: _Limits) -> OTSResult:
    """Return the result of the only problem, which is proved."""
    column, m = dense.column[0], dense.column.shape[1]
    score = int(np.count_nonzero(column == np.arange(m))) / m
    map_cost, optimal, gap = (of.item() for of in (dense.map_cost, dense.optimal_cost, dense.gap))
    permutation, u, v = (torch.from_numpy(of).to(device) for of in (column, dense.u[0], dense.v[0]))
    record = new_record(dense.bytes, 0.0)
    record["rounds"], record["edges"] = 1, m * m
    record["seconds"]["total"] = record["seconds"]["assignment"] = time.monotonic() - limits.started
    return OTSResult(
        score=score,
        permutation=permutation,
        map_cost=map_cost,
        optimal_cost=optimal,
        efficiency=optimal / map_cost if map_cost > 0 else 1.0,
        certified=True,
        score_lower=score,
        score_upper=score,
        gap=gap,
        relative_gap=gap / optimal if optimal > 0 else (0.0 if gap <= 0 else math.inf),
        potentials=(u, v),
        method="dense",
        record=record,
    )


def _batch_result(
    x: Tensor,
    y: Tensor,
    batch: tuple[int, ...],
    start: tuple[Tensor, Tensor] | None,
    limits: _Limits,
    dense: DenseSolutions | None,
) -> OTSBatchResult:
    """Search what is still open, one problem after the other, and stack the results."""
    fields, method = stacked_fields(dense or solve_none(x, y)), "dense"
    left = (~fields["certified"]).nonzero()[:, 0].tolist()
    for k in left:
        if time.monotonic() > limits.deadline:
            break
        found = _search(x[k], y[k], start and (start[0][k], start[1][k]), limits)
        put(fields, k, found)
        method = method if dense else found.method
    record = {"searched": len(left), "seconds": {"total": time.monotonic() - limits.started}}
    return stacked(fields, batch, x.device, method, record)
