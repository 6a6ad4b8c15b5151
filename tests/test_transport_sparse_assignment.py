# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from geodesic_fast.engine.load import engine
from geodesic_fast.transport.equal_points import merge_equal
from geodesic_fast.transport.interval import _possible_counts
from geodesic_fast.transport.points import Flow, Points
from geodesic_fast.transport.sparse_assignment import Rows, SparseGraph, cheapest_flow, most_fixed_flow

pytestmark = pytest.mark.engine


def no_deadline(slices, _):
    for _ in slices:
        pass


def random_flow(rng, most=12, units=4):
    """Return supply, demand and a flow (rows, cols) of at most `units` for each row."""
    p, q = rng.integers(1, most, 2)
    supply = rng.integers(1, units + 1, p)
    supply[0] += max(0, q - supply.sum())
    of_unit = np.repeat(np.arange(p), supply)
    to = rng.permutation(np.concatenate([np.arange(q), rng.integers(0, q, len(of_unit) - q)]))
    flow = np.zeros((p, q), np.int32)
    np.add.at(flow, (of_unit, to), 1)
    return flow


def rows_of(edges, flow):
    """Return the graph of the pairs where `edges` (rows, cols) is true, and those pairs."""
    rows, cols = np.nonzero(edges)
    start = np.searchsorted(rows, np.arange(len(edges) + 1))
    supply, demand = (flow.sum(axis).astype(np.int32) for axis in (1, 0))
    return Rows(start, cols.astype(np.int32), supply, demand), (rows, cols)


def unit_by_unit(cost, flow):
    """Return the least cost by SciPy, each unit a row and a column of its own."""
    whole = np.repeat(np.repeat(cost, flow.sum(1), 0), flow.sum(0), 1)
    whole = np.where(np.isfinite(whole), whole, 1e6)
    return whole[linear_sum_assignment(whole)].sum()


@pytest.mark.parametrize("units", [1, 2, 30])
@pytest.mark.parametrize("whole", [True, False])
def test_random_graphs_equal_scipy_from_any_start(whole, units):
    rng = np.random.default_rng(units)
    for _ in range(200):
        flow = random_flow(rng, 40 if units == 1 else 12, units)
        shape = flow.shape
        cost = rng.integers(0, 8, shape).astype(float) if whole else rng.standard_normal(shape)
        cost[(rng.random(shape) > rng.random()) & (flow == 0)] = np.inf
        rows, pairs = rows_of(np.isfinite(cost), flow)
        v = rng.standard_normal(shape[1]) * rng.choice([0.0, 1.0, 100.0])
        found = flow[pairs] if rng.random() < 0.5 else rng.integers(0, 2 * units, len(pairs[0]))
        found = np.ascontiguousarray(found, np.int32)
        u, _ = cheapest_flow(rows, cost[pairs], v, found, no_deadline)
        assert (found >= 0).all()
        for axis in (0, 1):
            np.testing.assert_array_equal(np.bincount(pairs[axis], found, shape[axis]), flow.sum(1 - axis))
        best = unit_by_unit(cost, flow)
        assert (cost[pairs] * found).sum() == pytest.approx(best, abs=1e-9)
        assert (cost - u[:, None] - v >= -1e-11).all()
        assert u @ rows.supply + v @ rows.demand == pytest.approx(best, abs=1e-8)


def neighbours(rng, m, k, whole):
    """Return a graph of k random columns a row and a hidden perfect matching, and its costs, all above 0."""
    keys = np.unique(np.concatenate([np.arange(m) * (m + 1), rng.integers(0, m * m, k * m)]))
    i, j = np.divmod(keys, m)
    cost = rng.integers(1, 9, len(keys)).astype(float) if whole else 1 + rng.exponential(size=len(keys))
    cost[i == j] += 4.0
    one = np.ones(m, np.int32)
    return Rows(np.searchsorted(i, np.arange(m + 1)), j.astype(np.int32), one, one), i, cost


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("m", "k"), [(300, 3), (2000, 4), (2000, 12)])
def test_sparse_graphs_whose_searches_meet_equal_scipy(m, k, whole):
    rng = np.random.default_rng(m + k)
    for start in ("equal prices", "random prices", "the matching"):
        rows, i, cost = neighbours(rng, m, k, whole)
        v = np.zeros(m) if start == "equal prices" else 3 * rng.standard_normal(m)
        units = (rows.col == i).astype(np.int32) if start == "the matching" else np.zeros_like(rows.col)
        u, done = cheapest_flow(rows, cost, v, units, no_deadline)
        assert m < 2000 or done["scanned"] > 50_000  # many are so long that both sides take part
        np.testing.assert_array_equal(np.bincount(i, units), 1)
        np.testing.assert_array_equal(np.bincount(rows.col, units), 1)
        best = csr_array((cost, rows.col, rows.start.astype(np.int32)), shape=(m, m))
        best = best[min_weight_full_bipartite_matching(best)].sum()
        assert (cost * units).sum() == pytest.approx(best, rel=1e-13)
        assert (cost - u[i] - v[rows.col] >= -1e-12).all()
        assert u.sum() + v.sum() == pytest.approx(best, rel=1e-12)


def test_every_slice_ends_in_time_and_changes_nothing():
    rng = np.random.default_rng(0)
    rows, _, cost = neighbours(rng, 4000, 20, whole=False)
    found, slices = [], []
    for seconds in (0.0, 100.0):
        u, v, units = np.empty(4000), np.zeros(4000), np.zeros_like(rows.col)
        solver = engine.AssignmentSolver(rows.view(), *(a.ctypes.data for a in (cost, u, v, units)))
        slices.append(1)
        while solver.run(seconds) != 0:
            slices[-1] += 1
        found.append((u, v, units))
    assert slices[0] > 10
    assert slices[1] == 1
    for ours, others in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, others)


def test_a_graph_without_a_perfect_matching_is_named():
    none = np.zeros(2, np.int32)
    both = Rows(np.array([0, 1, 2]), none, none + 1, none + 1)
    with pytest.raises(RuntimeError, match="no perfect matching"):
        cheapest_flow(both, np.zeros(2), np.zeros(2), none.copy(), no_deadline)
    with pytest.raises(RuntimeError, match="no perfect matching"):
        most_fixed_flow(both, none, no_deadline)


def test_a_growing_graph_keeps_pairs_sorted_and_once():
    points = Points(torch.randn(30, 4), torch.randn(30, 4))
    graph, rng = SparseGraph(points), np.random.default_rng(0)
    seen = {(i, i) for i in range(30)}
    for _ in range(5):
        rows, cols = rng.integers(0, 30, (2, 100))
        new = set(zip(rows.tolist(), cols.tolist(), strict=True)) - seen
        known = rng.random() < 0.5
        costs = points.costs(rows, cols) if known else None
        assert graph.add(rows, cols.astype(np.int32), costs) == len(new)
        seen |= new
    assert (np.diff(graph.keys) > 0).all()
    np.testing.assert_array_equal(graph.costs, points.costs(graph.keys // 30, graph.keys % 30))
    assert {(k // 30, k % 30) for k in graph.keys.tolist()} == seen


@pytest.mark.parametrize("units", [1, 2, 30])
def test_most_fixed_points_among_tied_assignments(units):
    rng = np.random.default_rng(units)
    moved = 0
    for _ in range(100):
        flow = random_flow(rng, 20 if units == 1 else 12, units)
        own = np.zeros_like(flow)  # another flow of the same supply and demand
        of_unit, to_unit = (np.repeat(np.arange(n), flow.sum(1 - k)) for k, n in enumerate(flow.shape))
        np.add.at(own, (of_unit, rng.permutation(to_unit)), 1)
        tied = (rng.random(flow.shape) < rng.random()) | (flow > 0)
        rows, pairs = rows_of(tied, flow)
        found = most_fixed_flow(rows, own[pairs], no_deadline)
        assert (found >= 0).all()
        for axis in (0, 1):
            np.testing.assert_array_equal(
                np.bincount(pairs[axis], found, flow.shape[axis]), flow.sum(1 - axis)
            )
        assert np.minimum(found, own[pairs]).sum() == flow.sum() - least_moved(tied, own, flow)
        moved += int((found > own[pairs]).any())
    assert moved > 30


def least_moved(tied, own, flow):
    """Return how few units move, by linear programming: of each pair, those that stay and those that move."""
    i, j = np.nonzero(tied)
    p, edges = len(flow), len(i)
    sums = np.zeros((p + flow.shape[1], edges))
    sums[i, np.arange(edges)] = sums[p + j, np.arange(edges)] = 1
    bounds = [(0, n) for n in own[i, j]] + [(0, None)] * edges
    totals = np.concatenate([flow.sum(1), flow.sum(0)])
    found = linprog(np.repeat([0, 1], edges), A_eq=np.hstack([sums, sums]), b_eq=totals, bounds=bounds)
    return round(found.fun)


def test_the_permutation_of_a_flow_names_what_stays():
    rng = np.random.default_rng(0)
    for _ in range(100):
        m = int(rng.integers(1, 40))
        x, y = (torch.from_numpy(rng.integers(0, 4, (m, 1))).double() for _ in range(2))
        points = Points(x, y)
        keys, units = np.unique(
            points.row_of * points.cols + rng.permutation(points.col_of), return_counts=True
        )
        rows, cols = np.divmod(keys, points.cols)
        permutation = points.permutation(Flow(rows, cols, units))
        np.testing.assert_array_equal(np.sort(permutation), np.arange(m))
        again = np.unique(points.row_of * points.cols + points.col_of[permutation], return_counts=True)
        np.testing.assert_array_equal(again, (keys, units))
        assert (permutation == np.arange(m)).sum() == points.fixed(Flow(rows, cols, units))
        assert points.fixed(Flow(rows, cols, units)) == (y[permutation] == y).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 4, 30])
def test_points_are_merged_exactly_when_they_are_equal(dtype, d):
    rng = np.random.default_rng(0)
    y = torch.zeros(500, d, dtype=dtype)
    y[:, -4:] = torch.from_numpy(rng.integers(-1, 2, (500, min(d, 4)))).to(dtype)
    y[::7] *= -1  # makes -0.0, which equals 0.0
    distinct, number = merge_equal(y)
    assert torch.equal(distinct[number], y)
    assert len(distinct) == 3 ** min(d, 4)
    first = [int(np.flatnonzero(number == k)[0]) for k in range(len(distinct))]
    assert first == sorted(first)
    assert merge_equal(distinct)[0] is distinct


def test_possible_counts_hold_every_assignment_within_the_gap():
    rng = np.random.default_rng(0)
    for _ in range(100):
        m = int(rng.integers(1, 9))
        fixed, moved, gap = rng.random(m), rng.random(m), rng.random() * m
        low, high = _possible_counts(fixed - moved, moved.sum(), gap)
        for choice in range(2**m):
            is_fixed = (choice >> np.arange(m)) & 1 == 1
            if np.where(is_fixed, fixed, moved).sum() <= gap - 1e-12:
                assert low <= is_fixed.sum() <= high
