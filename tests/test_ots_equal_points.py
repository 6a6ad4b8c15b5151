# SPDX-License-Identifier: MIT
"""Many points at one place: labels, vanished features, whole-number grids."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from peak_memory import peak_above_now
from transport_problems import assert_certificate, assert_equals_scipy

from geodesic_fast import ots

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]


def one_hot_labels(rng, m, k):
    return rng.standard_normal((m, k)), np.eye(k)[rng.integers(0, k, m)]


def one_hot_on_both_sides(rng, m, k):
    return np.eye(k)[rng.integers(0, k, m)], np.eye(k)[rng.integers(0, k, m)]


def labels_to_logits(rng, m, k):
    return one_hot_labels(rng, m, k)[::-1]


def grid(rng, m, k):
    return rng.integers(0, k, (m, 3)) * 1.0, rng.integers(0, k, (m, 3)) * 1.0


def vanished(rng, m, k):
    return tuple(np.maximum(rng.standard_normal((m, k)) - 1.5, 0.0) for _ in range(2))


def a_few_twins(rng, m, k):
    x = rng.standard_normal((m, k))
    x[1::50] = x[::50]
    return x, np.tanh(x @ rng.standard_normal((k, k)))


FAMILIES = (one_hot_labels, one_hot_on_both_sides, labels_to_logits, grid, vanished, a_few_twins)


def tensors(family, m, k, seed=0, dtype=torch.float32):
    return tuple(torch.from_numpy(p).to(dtype) for p in family(np.random.default_rng(seed), m, k))


@pytest.mark.parametrize("method", ["dense", "stored", "tiles"])
def test_small_problems_equal_the_best_of_all_permutations(method):
    everyone, permutations = np.arange(6), np.array(list(itertools.permutations(range(6))))
    for seed in range(60):
        rng = np.random.default_rng(seed)
        kinds, d = rng.integers(1, 5), int(rng.integers(1, 4))
        pool = rng.integers(-3, 4, (kinds, d)) if seed % 2 else rng.standard_normal((kinds, d)) * 8 // 1 / 8
        x, y = pool[rng.integers(0, kinds, 6)] * 1.0, pool[rng.integers(0, kinds, 6)] * -1.0
        cost = np.array([[sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(p, q, strict=True))
                          for q in y.tolist()] for p in x.tolist()])  # fmt: skip
        equal = (y[:, None] == y[None]).all(-1)
        totals = cost[everyone, permutations].sum(1)
        best = permutations[totals == totals.min()]
        result = ots(torch.from_numpy(x), torch.from_numpy(y), method=method)
        assert result.certified
        assert (best == result.permutation.numpy()).all(1).any()
        assert result.score == equal[everyone, best].mean(1).max()


@pytest.mark.parametrize("method", ["dense", "stored", "tiles"])
@pytest.mark.parametrize("family", FAMILIES)
def test_hundreds_of_points_equal_scipy(family, method):
    for seed, k in enumerate((2, 3, 10)):
        x, y = tensors(family, 300, k, seed)
        result = ots(x, y, method=method)
        assert_equals_scipy(result, x, y)
        assert_certificate(result, x, y)


@pytest.mark.parametrize("family", FAMILIES)
def test_thousands_of_points_have_their_score(family):
    x, y = tensors(family, 4000, 4)
    result = ots(x, y)
    assert_certificate(result, x, y)
    assert result.score == (result.permutation.numpy() == np.arange(4000)).mean()
    assert np.array_equal(result.permutation.sort().values.numpy(), np.arange(4000))


@pytest.mark.parametrize("m", [4000, 50_000])
def test_two_classes_are_cut_where_one_is_full(m):
    x, y = tensors(one_hot_labels, m, 2, dtype=torch.float64)
    first, label = x[:, 0] - x[:, 1], y.argmax(1)
    given = torch.ones(m, dtype=torch.int64)
    given[first.argsort(descending=True)[: int((label == 0).sum())]] = 0
    result = ots(x, y)
    assert result.certified
    assert torch.equal(y[result.permutation].argmax(1), given)
    assert result.score == float((given == label).double().mean())


@pytest.mark.parametrize(("family", "k"), [(one_hot_labels, 10), (one_hot_on_both_sides, 10), (grid, 6)])
def test_fifty_thousand_points_take_no_matrix(family, k):
    x, y = tensors(family, 50_000, k)
    found = []
    peak = peak_above_now(lambda: found.append(ots(x, y)))
    assert found[0].certified
    assert peak is None or peak < 4 * 50_000**2 / 50


def test_twins_take_no_more_memory_than_the_costs():
    x, y = tensors(vanished, 4000, 2)
    ots(x[:500], y[:500], method="stored")
    peak = peak_above_now(lambda: ots(x, y, method="stored"))
    assert peak is None or peak <= 1.2 * 4 * 4000**2


def test_potentials_of_twins_start_the_next_call():
    for family in (one_hot_labels, vanished, a_few_twins):
        x, y = tensors(family, 600, 3)
        first = ots(x, y, method="stored")
        again = ots(x, y, method="stored", potentials=first.potentials)
        assert_certificate(again, x, y)
        assert (again.score, again.optimal_cost) == (first.score, first.optimal_cost)


def test_the_interval_of_twins_holds_the_score(monkeypatch):
    for family in FAMILIES:
        x, y = tensors(family, 500, 3)
        truth = ots(x, y).score
        for seconds in (1e-9, 0.003, 0.01, 0.03):
            result = ots(x, y, method="tiles", time_budget=seconds)
            assert result.score_lower <= truth <= result.score_upper
