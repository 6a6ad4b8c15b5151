# SPDX-License-Identifier: MIT
"""The pieces of the proof: whole numbers, blocks of a graph, what is too much work."""

import math
from fractions import Fraction

import networkx
import numpy as np
import pytest
import torch
from exact_transport import near_ties, problem
from transport_problems import assert_certificate, assert_equals_scipy, tight_clusters

from geodesic_fast import ots
from geodesic_fast.transport import proof
from geodesic_fast.transport.block_costs import Blocks, WholeCosts, product_costs
from geodesic_fast.transport.points import Points

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]


def no_deadline():
    pass


def blocks_of(seed):
    """Return points of any family, all their pairs as two equal blocks, and -<x_i - x_0, y_j - y_0>."""
    _, x, y, _ = problem(seed, 5)
    points = Points(x, y)
    shape = points.rows, points.cols
    row, col = (np.tile(index.reshape(-1), 2) for index in np.indices(shape))
    block = np.repeat([0, 1], points.rows * points.cols)
    given = (points.given(which, np.arange(n)).tolist() for which, n in zip("xy", shape, strict=True))
    left, right = (np.array([[Fraction(value) for value in point] for point in side]) for side in given)
    return points, (row, col, block), -(left - left[0]) @ (right - right[0]).T


def without_terms(costs, shape):
    """Return costs of the second block, (rows, cols), less what a row or a column has in common."""
    costs = np.array([Fraction(cost) for cost in costs])[-shape[0] * shape[1] :].reshape(shape)
    return costs - costs[:1] - costs[:, :1] + costs[0, 0]


def unit_of(found, exact):
    """Return the power of two that `found` is to `exact`, by the largest."""
    at = np.unravel_index(np.argmax(np.abs(exact)), exact.shape)
    ratio = abs(found[at] / exact[at]) if exact[at] and found[at] else Fraction(1)
    power = round(math.log2(ratio.numerator) - math.log2(ratio.denominator))
    return Fraction(2) ** power


@pytest.mark.parametrize("first", range(0, 240, 60))
def test_products_of_blocks_err_by_no_more_than_they_say(first):
    exactly = 0
    for seed in range(first, first + 60):
        points, (row, col, block), exact = blocks_of(seed)
        blocks = Blocks(points, row, col, block, np.ones(len(row), np.int32))
        costs = product_costs(points, blocks)
        found = without_terms(costs.values.tolist(), exact.shape)
        allowed = np.array([Fraction(error) for error in costs.error.tolist()]).max() * 4
        if (costs.exact_up_to > 0).all():
            allowed, exactly = 0, exactly + 1
        assert (abs(found - unit_of(found, exact) * exact) <= allowed).all(), seed
        nothing = np.zeros_like(costs.values)
        rounding = costs.reduced_rounding(nothing, nothing, block)
        assert ((rounding >= costs.error) | (costs.exact_up_to > 0)).all()
        assert (rounding[costs.exact_up_to == 0] > 0).all()  # also where all costs are zero
    assert 10 < exactly < 50


def test_whole_costs_are_exact_and_what_duals_leave_of_them_too():
    rng = np.random.default_rng(0)
    for seed in range(120):
        points, (row, col, block), exact = blocks_of(seed)
        whole = WholeCosts.of(points, row, col, block, no_deadline)
        found = without_terms(whole.cost, exact.shape)
        assert (found == unit_of(found, exact) * exact).all()
        rounded = whole.rounded()
        scaled = [Fraction(cost) / 2 ** int(bits) for cost, bits in zip(whole.cost, whole.bits, strict=True)]
        for value, error, cost in zip(rounded.values.tolist(), rounded.error.tolist(), scaled, strict=True):
            assert abs(Fraction(value) - cost) <= Fraction(error) + Fraction(2) ** -800  # it may vanish
        u, v = rng.standard_normal(row.max() + 1), rng.standard_normal(col.max() + 1)
        assert (without_terms(whole.less(u, v, row, col, np.arange(len(row))), exact.shape) == found).all()


def test_blocks_are_the_biconnected_components():
    rng = np.random.default_rng(0)
    for _ in range(500):
        shape = rng.integers(1, 10, 2)
        row, col = np.nonzero(rng.random(shape) < rng.random())
        block = proof._cycle_blocks(row, col)
        edges = list(zip(row.tolist(), (100 + col).tolist(), strict=True))
        found = {}
        for edge, number in zip(edges, block.tolist(), strict=True):
            found.setdefault(number if number >= 0 else edge, set()).add(edge)
        expected = networkx.biconnected_component_edges(networkx.Graph(edges))
        assert sorted(map(sorted, found.values())) == sorted(
            sorted((min(e), max(e)) for e in edges) for edges in expected
        )


def test_a_block_as_long_as_the_problem_needs_no_stack():
    row = np.arange(200_000) // 2
    col = (np.arange(200_000) + 1) // 2 % 100_000  # one cycle through everyone
    assert not proof._cycle_blocks(row, col).any()
    assert (proof._cycle_blocks(row[1:], col[1:]) == -1).all()


@pytest.mark.parametrize("method", ["dense", "stored", "tiles"])
def test_tight_clusters_are_certified(method):
    for seed in range(120):
        rng = np.random.default_rng(seed)
        m, d = int(rng.integers(2, 65)), int(rng.choice([1, 2, 3, 5, 17, 64]))
        x, y = (torch.from_numpy(p).to(torch.float32 if seed % 2 else torch.float64)
                for p in tight_clusters(rng, m, d))  # fmt: skip
        result = ots(x, y, method=method)
        assert_certificate(result, x, y)
        assert_equals_scipy(result, x, y)


def test_what_is_too_much_work_stays_open(monkeypatch):
    problems = [near_ties(np.random.default_rng(seed), 60, 2) for seed in range(40)]
    problems = [tuple(map(torch.from_numpy, points)) for points in problems]
    truth = [ots(*problem) for problem in problems]
    monkeypatch.setattr(proof, "_MOST_WORK", 0)
    found = [ots(*problem) for problem in problems]
    open_ones = [k for k, result in enumerate(found) if not result.certified]
    assert open_ones
    assert all(np.isnan(found[k].score) for k in open_ones)
    for result, exact in zip(found, truth, strict=True):
        assert result.score_lower <= exact.score <= result.score_upper
    assert max(found[k].score_lower for k in open_ones) > 0.0
    assert min(found[k].score_upper for k in open_ones) < 1.0
