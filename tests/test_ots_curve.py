# SPDX-License-Identifier: MIT
"""OTS against the number of points: against SciPy on the same subsets, and wrong calls."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import t as student

from geodesic_fast import ots, ots_curve, reference


def half_scrambled(m, d, device):
    x = torch.randn(m, d, device=device)
    y = x + 0.1 * torch.randn(m, d, device=device)
    return x, torch.where(torch.rand(m, 1, device=device) < 0.5, y, torch.randn(m, d, device=device) + x / 2)


def scipy_score(x, y):
    costs = cdist(x.double().cpu().numpy(), y.double().cpu().numpy(), "sqeuclidean")
    return (linear_sum_assignment(costs)[1] == np.arange(len(x))).mean()


def test_matches_scipy_on_the_same_subsets(device):
    x, y = half_scrambled(300, 6, device)
    found = ots_curve(x, y, [20, 75, 300], seed=3)
    random = np.random.default_rng(3)
    assert [len(scores) for scores in found.scores] == [8, 4, 1]
    for size, scores in zip([20, 75, 300], found.scores, strict=True):
        order = torch.from_numpy(random.permutation(300)).to(device)
        expected = [scipy_score(x[part], y[part]) for part in order.split(size)[: len(scores)]]
        assert scores.tolist() == pytest.approx(expected, abs=1e-12)


def test_mean_spread_and_interval(device):
    x, y = half_scrambled(256, 4, device)
    found = ots_curve(x, y, [32, 256])
    scores = found.scores[0].numpy()
    assert found.sizes.tolist() == [32, 256]
    assert found.d == 4
    assert found.mean[0].item() == pytest.approx(scores.mean())
    assert found.std[0].item() == pytest.approx(scores.std(ddof=1))
    low, high = student.interval(0.95, 7, scores.mean(), scores.std(ddof=1) / math.sqrt(8))
    assert found.low[0].item() == pytest.approx(max(low, 0))
    assert found.high[0].item() == pytest.approx(min(high, 1))
    assert found.mean[1].item() == ots(x, y).score
    assert found.std[1].isnan()
    assert found.low[1].isnan()


def test_more_points_lower_the_score(device):
    x, y = half_scrambled(2048, 8, device)
    mean = ots_curve(x, y).mean
    assert (mean.diff() < 0).all()


def test_default_sizes_end_with_all_points(device):
    x = torch.randn(300, 3, device=device)
    assert ots_curve(x, x).sizes.tolist() == [64, 256, 300]
    assert ots_curve(x[:5], x[:5]).sizes.tolist() == [5]


def test_the_seed_decides(device):
    x, y = half_scrambled(200, 4, device)
    first, again, other = (ots_curve(x, y, [20], seed=seed).scores[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_matches_the_reference(device):
    x, y = half_scrambled(128, 5, device)
    for got, expected in zip(
        ots_curve(x, y, [16, 64]).scores, reference.ots_curve(x, y, [16, 64]).scores, strict=True
    ):
        assert torch.equal(got, expected)


def test_numpy_in_numpy_out():
    x = np.random.default_rng(0).normal(size=(40, 3))
    found = ots_curve(x, x + 1, [10])
    assert isinstance(found.mean, np.ndarray)
    assert found.mean.tolist() == [1.0]


def test_says_what_is_wrong():
    x = torch.randn(10, 2)
    for sizes in ([], [0], [11]):
        with pytest.raises(ValueError, match="sizes must be numbers of points between 1 and 10"):
            ots_curve(x, x, sizes)
    with pytest.raises(ValueError, match="subsets must be at least 1"):
        ots_curve(x, x, subsets=0)
    with pytest.raises(ValueError, match="same number of points"):
        ots_curve(x, x[:4])
