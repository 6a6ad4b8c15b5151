# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from geodesic_fast._extension import engine
from geodesic_fast.transport.interval import _possible_counts
from geodesic_fast.transport.points import Points
from geodesic_fast.transport.sparse_assignment import SparseGraph, solve_rows
from geodesic_fast.transport.ties import equal_point_labels, fixed_to_themselves, most_fixed_points

pytestmark = pytest.mark.skipif(engine is None, reason="the engine is not built: the solver is part of it")


def no_deadline():
    pass


def random_graph(rng, m, share, whole):
    """Return an (m, m) cost with inf for missing edges; the identity is always there."""
    cost = rng.integers(0, 8, (m, m)).astype(float) if whole else rng.standard_normal((m, m))
    cost[(rng.random((m, m)) > share) & ~np.eye(m, dtype=bool)] = np.inf
    return cost


def rows_of(cost):
    rows, cols = np.nonzero(np.isfinite(cost))
    start = np.searchsorted(rows, np.arange(len(cost) + 1))
    return start.astype(np.int64), cols.astype(np.int32), cost[rows, cols]


@pytest.mark.parametrize("whole", [True, False])
def test_random_graphs_equal_scipy_from_any_start(whole):
    rng = np.random.default_rng(0)
    for _ in range(400):
        m = int(rng.integers(1, 40))
        cost = random_graph(rng, m, rng.random(), whole)
        start, cols, costs = rows_of(cost)
        v = rng.standard_normal(m) * rng.choice([0.0, 1.0, 100.0])
        match = rng.choice([np.arange(m), np.full(m, -1), rng.permutation(m)]).astype(np.int32)
        u, _ = solve_rows(start, cols, costs, v, match, no_deadline)
        best = linear_sum_assignment(np.where(np.isfinite(cost), cost, 1e6))
        np.testing.assert_array_equal(np.sort(match), np.arange(m))
        assert cost[np.arange(m), match].sum() == pytest.approx(cost[best].sum(), abs=1e-10)
        assert (cost - u[:, None] - v >= -1e-11).all()
        assert u.sum() + v.sum() == pytest.approx(cost[best].sum(), abs=1e-9)


def test_a_graph_without_a_perfect_matching_is_named():
    start, cols = np.array([0, 1, 2]), np.array([0, 0], np.int32)
    with pytest.raises(RuntimeError, match="no perfect matching"):
        solve_rows(start, cols, np.zeros(2), np.zeros(2), np.full(2, -1, np.int32), no_deadline)


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


def test_most_fixed_points_among_tied_assignments():
    rng = np.random.default_rng(0)
    for _ in range(300):
        m = int(rng.integers(1, 20))
        match = rng.permutation(m).astype(np.int32)
        tied = rng.random((m, m)) < rng.random()
        tied[np.arange(m), match] = True
        labels = rng.integers(0, m, m) if rng.random() < 0.5 else np.arange(m)
        equal = labels[:, None] == labels
        # A twin of a tied point is tied too.
        tied = (tied[:, :, None] & equal[None]).any(1)
        rows, cols = np.nonzero(tied)
        result = most_fixed_points(match, rows, cols.astype(np.int32), labels, no_deadline)
        assert tied[np.arange(m), result].all()
        np.testing.assert_array_equal(np.sort(result), np.arange(m))
        best = linear_sum_assignment(np.where(tied, 1.0 - equal, 1e3))
        assert (result == np.arange(m)).sum() == equal[best].sum()


def test_twins_take_their_own_places():
    match, labels = np.array([1, 2, 0, 3], np.int32), np.array([7, 7, 7, 1])
    np.testing.assert_array_equal(fixed_to_themselves(match, labels), np.arange(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_labels_are_equal_exactly_for_equal_points(dtype):
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(-1, 2, (500, 4))).to(dtype)
    y[::7] *= -1  # makes -0.0, which equals 0.0
    labels = torch.from_numpy(equal_point_labels(y))
    assert torch.equal(labels[:, None] == labels, (y[:, None] == y).all(-1))


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
