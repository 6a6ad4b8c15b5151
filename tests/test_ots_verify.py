# SPDX-License-Identifier: MIT
"""A certificate can be checked by who did not make it: in plain float64, on all pairs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from geodesic_fast import ots

pytestmark = pytest.mark.engine


def problem(m, d, dtype=torch.float32):
    x = torch.randn(m, d, dtype=torch.float64)
    return x.to(dtype), (x + torch.randn(m, d, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("method", ["dense", "stored", "tiles"])
@pytest.mark.parametrize(("m", "d", "dtype"), [
    (1, 3, torch.float32), (300, 2, torch.float64), (300, 64, torch.float16), (700, 8, torch.float32),
])  # fmt: skip
def test_certificates_hold(m, d, dtype, method):
    x, y = problem(m, d, dtype)
    found = ots(x, y, method=method)
    assert found.certified
    assert found.verify(x, y)
    cost = cdist(x.double(), y.double(), "sqeuclidean")
    assert found.optimal_cost == pytest.approx(cost[linear_sum_assignment(cost)].mean(), rel=1e-12)


def test_certificates_of_tied_points_and_of_arrays_hold():
    x = torch.randint(0, 3, (200, 2)).double()
    y = torch.randint(0, 3, (200, 2)).double()
    assert ots(x, y).verify(x, y)
    assert ots(x.numpy(), y.numpy()).verify(x.numpy(), y.numpy())


def test_what_is_no_certificate_is_refused():
    x, y = problem(300, 4)
    found = ots(x, y)
    u, v = found.potentials
    swapped = found.permutation.clone()
    swapped[[0, 1]] = found.permutation[[1, 0]]
    twice = found.permutation.clone()
    twice[0] = twice[1]
    for forged in (
        replace(found, permutation=swapped),
        replace(found, permutation=twice),
        replace(found, potentials=(u + 1e-6, v)),
        replace(found, potentials=(u - 1e-6, v)),
        replace(found, potentials=None),
    ):
        assert not forged.verify(x, y)
    assert not found.verify(x, y + 0.01 * torch.from_numpy(np.random.default_rng(0).normal(size=(300, 4))))


def test_points_that_were_not_scored_are_told():
    x, y = problem(20, 3)
    found = ots(x, y)
    for other in ((x[:10], y[:10]), (x, y[:, :2]), (torch.cat((x, x)), torch.cat((y, y)))):
        with pytest.raises(ValueError, match="x and y must be the 20 points that were scored, got shapes"):
            found.verify(*other)
