# SPDX-License-Identifier: MIT
"""The pieces of the proof: whole numbers, blocks of a graph, what is too much work."""

import itertools

import networkx
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from transport_problems import assert_certificate, assert_equals_scipy, tight_clusters

from geodesic_fast import ots
from geodesic_fast._extension import engine
from geodesic_fast.transport import proof
from geodesic_fast.transport.exact import WholeFlow

needs_engine = pytest.mark.skipif(engine is None, reason="certificates come from the engine")
pytestmark = [needs_engine, pytest.mark.usefixtures("one_thread")]


def no_deadline():
    pass


@pytest.mark.parametrize("largest", [1, 3, 10**9])
def test_a_whole_flow_becomes_an_optimum_like_scipys(largest):
    rng = np.random.default_rng(largest)
    for _ in range(200):
        k = int(rng.integers(1, 16))
        small = rng.integers(-largest, largest + 1, (k, k))  # SciPy's sums of these are exact
        best = small[linear_sum_assignment(small)].sum()
        row, col = np.divmod(np.arange(k * k), k)
        begun = (rng.permutation(k)[row] == col).astype(np.int32)
        beyond_float64 = 10**40 + 10**20 * small.astype(object)
        for weights in (small.astype(object), beyond_float64):
            flow = WholeFlow(row, col, weights.reshape(-1).tolist(), begun)
            flow.optimise(no_deadline)
            units = np.reshape(flow.units, (k, k))
            assert (units.sum(0) == 1).all()
            assert (units.sum(1) == 1).all()
            assert (small * units).sum() == best


def test_the_pairs_that_optima_use_are_told():
    permutations = np.array(list(itertools.permutations(range(5))))
    for seed in range(60):
        rng = np.random.default_rng(seed)
        cost = rng.integers(0, 4, (5, 5))
        totals = cost[np.arange(5), permutations].sum(1)
        used = np.zeros((5, 5), bool)
        for best in permutations[totals == totals.min()]:
            used[np.arange(5), best] = True
        row, col = np.divmod(np.arange(25), 5)
        flow = WholeFlow(row, col, cost.reshape(-1).tolist(), (row == col).astype(np.int32))
        tight = flow.optimise(no_deadline).reshape(5, 5)
        assert tight[used].all()
        everything = permutations[tight[np.arange(5), permutations].all(1)]  # assignments of tight pairs
        assert (cost[np.arange(5), everything].sum(1) == totals.min()).all()


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
    problems = [tight_clusters(np.random.default_rng(seed), 60, 2) for seed in range(40)]
    problems = [tuple(map(torch.from_numpy, problem)) for problem in problems]
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
