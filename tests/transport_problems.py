# SPDX-License-Identifier: MIT
"""Point pairs (x, y) of every kind a transport score meets, and a plain float64 check of certificates."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def residual(rng, m, d):
    x, offset, noise = _classes(rng, m, d)
    return x, x + 0.3 * offset + 0.3 * noise


def half_scrambled(rng, m, d):
    x, offset, noise = _classes(rng, m, d)
    return x, 0.3 * x + offset + noise


def random_relu(rng, m, d):
    x = rng.standard_normal((m, d))
    return x, np.maximum(x @ rng.standard_normal((d, d)) / d**0.5, 0)


def few_integers(rng, m, d):
    return rng.integers(0, 3, (m, d)) * 1.0, rng.integers(0, 3, (m, d)) * 1.0


def integer_grid(rng, m, d):
    return rng.integers(0, 10, (m, d)) * 1.0, rng.integers(-5, 5, (m, d)) * 1.0


def duplicates(rng, m, d):
    kinds = max(1, m // 3)
    x, y = rng.standard_normal((m, d)), rng.standard_normal((m, d))
    return x[rng.integers(0, kinds, m)], y[rng.integers(0, kinds, m)]


def collinear(rng, m, d):
    x, y = rng.standard_normal((2, m, 1))
    return x * rng.standard_normal((1, d)), y * rng.standard_normal((1, d))


def orthogonal_lines(rng, m, d):
    x, y = np.zeros((m, d)), np.zeros((m, d))
    x[:, 0], y[:, -1] = rng.standard_normal((2, m))
    return x, y


def one_source(rng, m, d):
    return np.tile(rng.standard_normal((1, d)), (m, 1)), rng.standard_normal((m, d))


def far_away(rng, m, d):
    x, y = half_scrambled(rng, m, d)
    return x + 1e6, y + 1e6 * rng.integers(0, 2)


def symmetric_linear(rng, m, d):
    a, x = rng.standard_normal((d, d)), rng.standard_normal((m, d))
    return x, x @ (a @ a.T) / d


def the_same(rng, m, d):
    x = rng.standard_normal((m, d))
    return x, x.copy()


def shuffled(rng, m, d):
    x = rng.standard_normal((m, d))
    return x, x[rng.permutation(m)]


def collapsed(rng, m, d):
    x, offset, noise = _classes(rng, m, d)
    return x, offset + 1e-7 * noise


def tight_clusters(rng, m, d):
    """Float64 costs do not tell apart which point of a cluster goes to which of another."""
    kinds, width = int(rng.integers(1, 6)), 10.0 ** -rng.integers(2, 9)
    centres, noise = 3 * rng.standard_normal((kinds, d)), width * rng.standard_normal((2, m, d))
    return (centres[rng.integers(0, kinds, m)] + part for part in noise)


FAMILIES = (
    residual, half_scrambled, random_relu, few_integers, integer_grid, duplicates, collinear,
    orthogonal_lines, one_source, far_away, symmetric_linear, the_same, shuffled, collapsed, tight_clusters,
)  # fmt: skip


def _classes(rng, m, d, k=3):
    offset = 3 * rng.standard_normal((k, d))[rng.integers(0, k, m)]
    return rng.standard_normal((m, d)), offset, rng.standard_normal((m, d))


def random_problem(seed, most=64):
    """Return the family and tensors x, y (m, d) in one of the dtypes."""
    rng = np.random.default_rng(seed)
    family = FAMILIES[seed % len(FAMILIES)]
    m, d = int(rng.integers(1, most + 1)), int(rng.choice([1, 2, 3, 5, 17, 64, 100]))
    dtype = DTYPES[rng.integers(2 if family is far_away else 0, 4)]
    x, y = family(rng, m, d)
    return family, torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype)


def centred_costs(x, y):
    """Return squared distances of x and y after subtracting their means, (m, m) float64."""
    x, y = x.double().numpy(), y.double().numpy()
    difference = (x - x.mean(0))[:, None] - (y - y.mean(0))[None]
    return np.square(difference).sum(-1)


def assert_certificate(result, x, y):
    """Check in plain float64 that the potentials are feasible and sum to the permutation's cost."""
    assert result.certified
    matched_slack, allowed = assert_feasible(result, x, y)
    assert abs(matched_slack) <= 2 * allowed


def assert_feasible(result, x, y):
    """Check the potentials in plain float64; return the matched pairs' slack and its rounding, summed."""
    m, d = x.shape
    u, v = (p.numpy() for p in result.potentials)
    permutation = result.permutation.numpy()
    assert result.permutation.dtype == torch.int64
    np.testing.assert_array_equal(np.sort(permutation), np.arange(m))
    matched_slack = 0.0
    allowed = 0.0
    for start in range(0, m, 64):
        rows = np.arange(start, min(start + 64, m))
        cost = np.square(x.double().numpy()[rows, None] - y.double().numpy()[None]).sum(-1)
        reduced = cost - u[rows, None] - v[None]
        rounding = (d + 64) * 2.0**-53 * (cost + np.abs(u[rows, None]) + np.abs(v[None]))
        assert (reduced >= -rounding).all(), (reduced / rounding).min()
        matched_slack += reduced[rows - start, permutation[rows]].sum()
        allowed += rounding[rows - start, permutation[rows]].sum()
    return matched_slack, allowed


def assert_equals_scipy(result, x, y):
    """Check objective and score against SciPy in float64; of tied optima, most fixed points count."""
    cost, m = centred_costs(x, y), len(x)
    everyone = np.arange(m)
    permutation = result.permutation.numpy()
    optimum = cost[everyone, linear_sum_assignment(cost)[1]].sum()
    # What rounding the inputs' means and squares in float64 may add up to.
    scale = cost.max() + np.square(x.double().numpy()).max() * 2.0**-40
    assert abs(cost[everyone, permutation].sum() - optimum) <= 1e-12 * scale * m
    equal = (y[:, None] == y[None]).all(-1).numpy()
    assert result.score == equal[everyone, permutation].mean() == (permutation == everyone).mean()
    assert result.score_lower == result.score == result.score_upper
    # Without rounding none is better: not SciPy's, nor its own with a small reward on fixed points.
    rewarded = linear_sum_assignment(cost - equal * (1e-9 * cost.max() / m))[1]
    found, other = exact_product(x, y, permutation), exact_product(x, y, rewarded)
    assert found >= max(other, exact_product(x, y, linear_sum_assignment(cost)[1]))
    assert found > other or result.score >= equal[everyone, rewarded].mean()


def exact_product(x, y, permutation):
    """Return sum_i <x_i, y_permutation(i)> in whole units: the larger, the cheaper the assignment."""
    return int((whole(x) * whole(y)[permutation]).sum())


def whole(points):
    """Return coordinates as whole multiples of a power of two, Python's integers."""
    mantissa, exponent = np.frexp(points.double().numpy())
    exponent[mantissa == 0] = exponent.max()
    return (mantissa * 2.0**53).astype(np.int64).astype(object) << (exponent - exponent.min()).astype(object)
