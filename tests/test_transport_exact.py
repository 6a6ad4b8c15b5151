# SPDX-License-Identifier: MIT
"""Ties that rounding leaves open, decided in whole numbers."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from transport_problems import assert_certificate, assert_equals_scipy, tight_clusters

from geodesic_fast import ots
from geodesic_fast._extension import engine
from geodesic_fast.transport import solve
from geodesic_fast.transport.exact import cheapest_assignment

needs_engine = pytest.mark.skipif(engine is None, reason="certificates come from the engine")
pytestmark = [needs_engine, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("largest", [1, 3, 10**9])
def test_the_cheapest_assignment_equals_scipy(largest):
    rng = np.random.default_rng(largest)
    for _ in range(300):
        k = int(rng.integers(1, 20))
        small = rng.integers(-largest, largest + 1, (k, k))  # SciPy's sums of these are exact
        rows, cols = linear_sum_assignment(small)
        beyond_float64 = 10**40 + 10**20 * small.astype(object)
        for weights in (small.astype(object), beyond_float64):
            found = cheapest_assignment(weights, lambda: None)
            assert sorted(found) == list(range(k))
            assert small[np.arange(k), found].sum() == small[rows, cols].sum()


@pytest.mark.parametrize("method", ["dense", "stored", "tiles"])
def test_tight_clusters_are_certified(method):
    settled = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        m, d = int(rng.integers(2, 65)), int(rng.choice([1, 2, 3, 5, 17, 64]))
        x, y = (torch.from_numpy(p).to(torch.float32 if seed % 2 else torch.float64)
                for p in tight_clusters(rng, m, d))  # fmt: skip
        result = ots(x, y, method=method)
        assert_certificate(result, x, y)
        assert_equals_scipy(result, x, y)
        settled += result.record["exact"]
    assert settled > 5


def test_the_best_of_all_permutations():
    everyone, settled = np.arange(6), 0
    permutations = np.array(list(itertools.permutations(range(6))))
    for seed in range(150):
        x, y = (torch.from_numpy(p) for p in tight_clusters(np.random.default_rng(seed), 6, 3))
        result = ots(x, y)
        assert result.certified
        if not result.record["exact"]:
            continue
        settled += 1
        products = np.array([[sum(Fraction(a) * Fraction(b) for a, b in zip(p, q, strict=True))
                              for q in y.tolist()] for p in x.tolist()])  # fmt: skip
        totals = products[everyone, permutations].sum(1)
        best = permutations[totals == totals.max()]
        assert (best == result.permutation.numpy()).all(1).any()
        assert result.score == (best == everyone).mean(1).max()
    assert settled > 3


def test_what_is_too_much_work_stays_open(monkeypatch):
    monkeypatch.setattr(solve, "settle_exactly", lambda *_: None)
    problems = (tight_clusters(np.random.default_rng(seed), 60, 2) for seed in range(40))
    found = [ots(*map(torch.from_numpy, problem)) for problem in problems]
    open_ones = [result for result in found if not result.certified]
    assert open_ones
    assert all(np.isnan(result.score) and result.score_lower == 0.0 for result in open_ones)
