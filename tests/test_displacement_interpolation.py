# SPDX-License-Identifier: MIT
"""Displacement interpolation: against POT's assignment, closed forms, and wrong calls."""

import math

import numpy as np
import pytest
import torch
from known_tracks import DTYPES
from scipy.spatial.distance import cdist

from geodesic_fast import displacement_interpolation, geodesic_gap, ots, reference


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_pot(dtype, device):
    ot = pytest.importorskip("ot", reason="needs the package POT")
    x, y = (torch.randn(50, 4, device=device).to(dtype) for _ in range(2))
    costs = cdist(x.double().cpu().numpy(), y.double().cpu().numpy(), "sqeuclidean")
    plan = torch.from_numpy(ot.emd(np.ones(50), np.ones(50), costs)).to(device)
    image = plan @ y.double()
    for t in (0.0, 0.3, 1.0):
        expected = (1 - t) * x.double() + t * image
        got = displacement_interpolation(x, y, t)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_distances_grow_with_the_time_alone(device):
    x, y = (torch.randn(40, 3, dtype=torch.float64, device=device) for _ in range(2))
    t = [0.0, 0.25, 0.4, 1.0]
    z = displacement_interpolation(x, y, t)
    whole = math.sqrt(ots(x, y).optimal_cost)
    for i, s in enumerate(t):
        for j, r in enumerate(t):
            assert math.sqrt(ots(z[i], z[j]).optimal_cost) == pytest.approx(abs(s - r) * whole, abs=1e-12)


def test_a_translation_moves_every_point_alike_whatever_the_order(device):
    x = torch.randn(30, 5, dtype=torch.float64, device=device)
    shift = torch.arange(5.0, device=device)
    moved = displacement_interpolation(x, (x + shift).flip(0), 0.5)
    torch.testing.assert_close(moved, x + shift / 2, rtol=1e-13, atol=1e-13)


def test_is_a_geodesic_between_its_ends(device):
    x, y = (torch.randn(2, 20, 5, dtype=torch.float64, device=device) for _ in range(2))
    z = displacement_interpolation(x, y, torch.linspace(0, 1, 6, device=device))
    assert z.shape == (6, 2, 20, 5)
    assert torch.equal(z[0], x)
    assert sorted(z[-1].flatten().tolist()) == sorted(y.flatten().tolist())
    assert geodesic_gap(z).gap.abs() < 1e-13


def test_matches_the_reference(device):
    x, y = torch.randn(2, 60, 8, device=device)
    t = [0.1, 0.9]
    torch.testing.assert_close(
        displacement_interpolation(x, y, t), reference.displacement_interpolation(x, y, t), rtol=0, atol=0
    )


def test_gradients_hold_the_map_fixed(device):
    x, y = (torch.randn(6, 3, dtype=torch.float64, device=device).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda x, y: displacement_interpolation(x, y, [0.2, 0.7]), (x, y))


def test_large_coordinates_do_not_overflow(device):
    x = torch.tensor([[-3e38], [3e38]], device=device)
    got = displacement_interpolation(x, -x, 0.5)
    assert got.isfinite().all()


def test_numpy_in_numpy_out():
    got = displacement_interpolation(np.array([[0.0], [1.0]]), np.array([[3.0], [2.0]]), np.array([0.5]))
    assert isinstance(got, np.ndarray)
    assert got.tolist() == [[[1.0], [2.0]]]


def test_says_what_is_wrong():
    x = torch.randn(4, 2)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        displacement_interpolation(x, x, 1.5)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        displacement_interpolation(x, x, [0.0, math.nan])
    with pytest.raises(ValueError, match="one-dimensional"):
        displacement_interpolation(x, x, [[0.0]])
    with pytest.raises(ValueError, match="same number of points"):
        displacement_interpolation(x, x[:3], 0.5)
