# SPDX-License-Identifier: MIT
"""Certified means exact in the values given, whatever the points: far ones, shrunk ones, tied ones."""

import numpy as np
import pytest
import torch
from exact_transport import FAMILIES, METHODS, exact_score, most_fixed_score, problem, right_angles
from fuzz_ots import scores
from scipy.optimize import linear_sum_assignment
from transport_problems import assert_certificate, exact_product

from geodesic_fast import ots

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def certified_score(x, y, **options):
    result = ots(x, y, **options)
    assert result.certified
    assert result.score == result.score_lower == result.score_upper
    return result.score


@pytest.mark.parametrize("first", range(2000, 2320, 80))
def test_scores_equal_exact_ones(first):
    for seed in range(first, first + 80):
        family, certified, score, expected = scores(seed)
        assert certified, (seed, family)
        assert score == expected, (seed, family)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", [(30, 27), (44, 27), (27, 26), (44, 44)])
def test_a_point_far_away_does_not_spoil_the_near_ones(far, dtype, method):
    x, y = column(2, 0, 1, 2.0 ** far[0]).to(dtype), column(1, 1, 2, 2.0 ** far[1]).to(dtype)
    assert certified_score(x, y, method=method) == 0.5


@pytest.mark.parametrize("method", METHODS)
def test_two_clusters_far_apart_are_each_solved(method):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x, y = 1e-6 * rng.standard_normal((2, 10, 2))
        x[5:], y[5:] = x[5:] + 1e6, y[5:] + 1e6
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        assert certified_score(x, y, method=method) == most_fixed_score(x, y)


def test_jitter_below_the_last_place_counts():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, y = rng.integers(-2, 3, (2, 30, 2)) + 1e-16 * rng.standard_normal((2, 30, 2))
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        assert certified_score(x, y) == most_fixed_score(x, y)


def test_products_that_vanish_by_rounding_are_not_ties():
    x = torch.tensor([[-1.0, 2.0], [-2.0, 1.0], [1.0, -2.0]], dtype=torch.float64)
    y = torch.tensor([[2.0, -3.0], [-2.0, 3.0], [1.0, -(2.0**-55)]], dtype=torch.float64)
    for method in METHODS:
        assert certified_score(x, y, method=method) == exact_score(x, y) == 0.0


def test_exchanges_that_nearly_tie_where_squares_vanish():
    """The two costs differ in the last digit of products, far below where float64 holds a square."""
    wrong = []
    for seed in range(400):
        x, y = (torch.from_numpy(p) for p in right_angles(np.random.default_rng(seed), 2, 2))
        if certified_score(x, y) != exact_score(x, y):
            wrong.append(seed)
    assert not wrong


def test_a_map_that_shrinks_has_the_score_of_its_directions():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 4))
    y = x
    for _ in range(40):
        y = 0.4 * np.tanh(y @ (np.eye(4) + 0.3 * rng.standard_normal((4, 4))))
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    assert y.norm() < 1e-12 * x.norm()
    score = certified_score(x, y)
    assert score == most_fixed_score(x, y) < 0.5
    for power in (-40, 20, 52):
        assert certified_score(x, y * 2.0**power) == score


def half_scrambled(rng, m, d):
    x = rng.standard_normal((m, d))
    return x, 0.3 * x + rng.standard_normal((m, d))


def whole_numbers(rng, m, d):
    return rng.integers(-1000, 1000, (2, m, d)) * 1.0


UNITS = ((1.0, 2.0**-53), (2.0**-53, 1.0), (2.0**-90, 2.0**-90), (2.0**-60, 2.0**40), (2.0**11, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("method", "m"), [("dense", 200), ("stored", 1000), ("tiles", 3000)])
@pytest.mark.parametrize("family", [half_scrambled, whole_numbers])
def test_units_of_either_side_keep_the_assignment(family, method, m, dtype):
    x, y = (torch.from_numpy(p).to(dtype) for p in family(np.random.default_rng(0), m, 4))
    plain = ots(x, y, method=method)
    thirds = ((3.0, 3.0), (1.0, 3 * 2.0**-53), (5.0 * 2.0**-60, 3.0)) if family is whole_numbers else ()
    for unit_x, unit_y in (*UNITS, *thirds):
        given = x * unit_x, y * unit_y
        result = ots(*given, method=method)
        assert result.certified
        assert torch.equal(result.permutation, plain.permutation)
        assert result.score == plain.score
        cost = (given[0].double() - given[1].double()[result.permutation]).square().sum(1).mean()
        assert result.optimal_cost == pytest.approx(float(cost), rel=1e-12)
        if m <= 1000:
            assert_certificate(result, *given)


@pytest.mark.parametrize(("method", "dtype"), [("stored", torch.float64), ("tiles", torch.float32)])
def test_thousands_of_points_through_layers_that_shrink(method, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 4))
    y = x
    for _ in range(40):
        y = 0.4 * np.tanh(y @ (np.eye(4) + 0.3 * rng.standard_normal((4, 4))))
    x, y = (torch.from_numpy(p).to(dtype) for p in (x, y))
    assert y.norm() < 1e-14 * x.norm()
    products = x.double() @ (y.double() * 2.0**50).T
    best = torch.from_numpy(linear_sum_assignment(products.numpy(), maximize=True)[1])
    score = float((best == torch.arange(3000)).double().mean())
    for given, expected in (((x, y), best), ((x, y * 2.0**60), best), ((y, x), best.argsort())):
        result = ots(*given, method=method)
        assert result.certified
        found, other = (exact_product(*given, of.numpy()) for of in (result.permutation, expected))
        assert found >= other
        assert found > other or result.score >= score


@pytest.mark.parametrize("method", ["dense", "stored", "tiles"])
def test_large_and_tiny_points_side_by_side(method):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, y = half_scrambled(rng, 400, 4)
        small = [np.where(rng.random((400, 1)) < 0.5, 1.0, 1e-16) for _ in range(3)]
        for scale_x, scale_y in ((small[0], small[0]), (1.0, small[1]), (small[2], small[1])):
            a, b = torch.from_numpy(x * scale_x), torch.from_numpy(y * scale_y)
            result = ots(a, b, method=method)
            assert result.certified
            best = linear_sum_assignment((a @ b.T).numpy(), maximize=True)[1]
            assert exact_product(a, b, result.permutation.numpy()) >= exact_product(a, b, best)
            assert ots(a * 2.0**70, b * 2.0**-31, method=method).score == result.score


def test_clusters_whose_width_is_a_hundred_millionth_of_their_distance():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        centres, width = rng.standard_normal((4, 2)), 1e-8
        kind = rng.integers(0, 4, 48)
        x, y = (centres[kind] + width * rng.standard_normal((48, 2)) for _ in range(2))
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        assert certified_score(x, y) == most_fixed_score(x, y)


def test_small_squares_far_apart():
    for seed in range(20):
        x, y = 1e-7 * np.random.default_rng(seed).random((2, 12, 2))
        x, y = torch.from_numpy(x), torch.from_numpy(y + 1e8)
        assert certified_score(x, y) == most_fixed_score(x, y)


def test_a_common_feature_hides_nothing():
    x = torch.tensor([[0.0, 1.3e275], [-1.5e-39, 1.3e275], [2e-39, 1.3e275]], dtype=torch.float64)
    assert certified_score(x, x.flip(0)) == exact_score(x, x.flip(0)) == 1 / 3
    few = torch.tensor([[1, -1, 1], [0, 0, 1], [0, 0, 1], [-1, -2, 1], [-1, 1, 1], [1, 2, 1]]).double()
    fewer = torch.tensor([[2, -2, 1], [-1, -2, 1], [2, 2, 1], [1, 2, 1], [1, -2, 1], [2, 2, 1]]).double()
    x, y = ((p * torch.tensor([2.0**-131, 2.0**-131, 2.0**-26])).float() for p in (few, fewer))
    for method in METHODS:
        assert certified_score(x, y, method=method) == 0.5
    many = torch.full((40, 2), 1e300, dtype=torch.float64)
    many[:, 0] = 1e-100 * torch.randn(40, dtype=torch.float64)
    assert certified_score(many, many.flip(0)) == most_fixed_score(many, many.flip(0))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_what_changes_no_comparison_changes_no_score(family):
    """Units, translation by what both sides hold exactly, the order of points, the method, threads."""
    first = FAMILIES.index(family)
    for seed in range(first, first + 2 * len(FAMILIES), len(FAMILIES)):
        _, x, y, _ = problem(seed, 40)
        x, y = x.double(), y.double()
        score = certified_score(x, y)
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
        assert certified_score(x[order], y[order]) == score
        for method in METHODS:
            assert certified_score(x, y, method=method) == score
        torch.set_num_threads(2)
        assert certified_score(x, y, method="stored") == score
        torch.set_num_threads(1)
        for unit_x, unit_y in ((2.0**-9, 2.0**-9), (2.0**30, 1.0), (1.0, 2.0**-60)):
            if all(bool((p * unit / unit == p).all()) for p, unit in ((x, unit_x), (y, unit_y))):
                assert certified_score(x * unit_x, y * unit_y) == score
        moved = [p + 8.0 for p in (x, y)]
        if all(bool((m - 8.0 == p).all()) for m, p in zip(moved, (x, y), strict=True)):
            assert certified_score(*moved) == certified_score(moved[0], y) == score


def test_any_unit_of_whole_numbers_keeps_the_score():
    """A third of a whole number rounds, and the score is that of the rounded values."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x, y = (torch.from_numpy(p) for p in rng.integers(-9, 10, (2, 30, 3)).astype(np.float64))
        for unit in (1.0, 3.0, 1 / 3, 1e-30, 0.1):
            assert certified_score(unit * x, unit * y) == most_fixed_score(unit * x, unit * y)
        assert certified_score(3 * x, 3 * y) == certified_score(x, y)
