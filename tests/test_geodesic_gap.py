# SPDX-License-Identifier: MIT
"""Geodesic gap: against POT's W2, a closed-form geodesic, and wrong calls."""

import math

import numpy as np
import pytest
import torch
from known_tracks import DTYPES, LAYOUTS, laid_out, random_tracks
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from geodesic_fast import geodesic_gap, reference


def geodesic(m, d, steps, device):
    """Return tracks (n+1, m, d) to the gradient of a convex quadratic, evenly sampled: an exact geodesic."""
    x = torch.randn(m, d, dtype=torch.float64, device=device)
    root = torch.randn(d, d, dtype=torch.float64, device=device)
    y = x @ (root @ root.T / d + 0.1 * torch.eye(d, dtype=torch.float64, device=device))
    time = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=device)[:, None, None]
    return torch.lerp(x, y, time)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_pot(dtype, layout, device):
    ot = pytest.importorskip("ot", reason="needs the package POT")
    tracks = random_tracks((6, 40, 5), dtype, device)
    arranged, dim = laid_out(tracks, layout)
    found = geodesic_gap(arranged, dim=dim)
    x = tracks.double().cpu().numpy()
    costs = cdist(x[0], x[-1], "sqeuclidean")
    weights = np.full(40, 1 / 40)
    optimal = ot.emd2(weights, weights, costs)
    action = 6 * (np.diff(x, axis=0) ** 2).sum() / 40
    expected = {
        "gap": action / optimal - 1, "bending": action / costs.trace() * 40, "action": action,
        "detour": costs.trace() / 40 / optimal, "chord_cost": costs.trace() / 40, "optimal_cost": optimal,
    }  # fmt: skip
    assert found.certified
    for name, value in expected.items():
        got = getattr(found, name)
        assert got.dtype == torch.float64
        assert got.device == tracks.device
        assert got.item() == pytest.approx(value, rel=1e-12 if dtype == torch.float64 else 3e-7), name


def test_a_geodesic_has_no_gap_and_a_permuted_one_has(device):
    tracks = geodesic(60, 4, 9, device)
    found = geodesic_gap(tracks)
    assert found.gap.abs().item() < 1e-13
    assert geodesic_gap(tracks.float()).gap.abs().item() < 1e-6
    permuted = torch.lerp(
        tracks[0], tracks[-1].roll(1, 0), torch.linspace(0, 1, 10).to(tracks)[:, None, None]
    )
    worse = geodesic_gap(permuted)
    assert worse.bending.item() == pytest.approx(1, abs=1e-13)
    assert worse.detour.item() > 1.5
    torch.testing.assert_close(worse.optimal_cost, found.optimal_cost)
    uneven = tracks[torch.tensor([0, 1, 2, 9])]
    assert geodesic_gap(uneven).bending.item() > 1.2


def test_the_factors_multiply(device):
    found = geodesic_gap(random_tracks((6, 3, 10, 5), torch.float64, device))
    assert (found.bending * found.detour - 1).item() == pytest.approx(found.gap.item(), rel=1e-12)
    assert found.bending >= 1
    assert found.detour >= 1


def test_a_target_gives_the_normalised_path_energy(device):
    tracks = geodesic(40, 3, 6, device)
    target = torch.randn(40, 3, dtype=torch.float64, device=device)
    found = geodesic_gap(tracks, target=target)
    costs = cdist(tracks[0].cpu(), target.cpu(), "sqeuclidean")
    squared = costs[linear_sum_assignment(costs)].mean()
    energy = 6 * tracks.diff(dim=0).square().sum(-1).sum(0).mean().item()
    assert found.optimal_cost.item() == pytest.approx(squared, rel=1e-12)
    assert found.gap.item() == pytest.approx((energy - squared) / squared, rel=1e-10)
    shuffled = geodesic_gap(tracks, target=tracks[-1][torch.randperm(40, device=device)])
    assert shuffled.gap.abs().item() < 1e-13


def test_uneven_times_take_the_time_of_each_step(device):
    times = torch.tensor([0.0, 0.1, 0.5, 0.6, 2.0], dtype=torch.float64)
    x, y = geodesic(30, 3, 1, device)
    tracks = torch.lerp(x, y, (times / 2).to(device)[:, None, None])
    assert geodesic_gap(tracks, times=times).gap.abs().item() < 1e-13
    assert geodesic_gap(tracks).gap.item() > 0.5
    assert geodesic_gap(tracks, times=times.tolist()).gap == geodesic_gap(tracks, times=times * 8).gap
    for got, expected in zip(
        geodesic_gap(tracks, times=times), reference.geodesic_gap(tracks, times=times), strict=True
    ):
        assert float(got) == pytest.approx(float(expected), rel=1e-12, abs=1e-13)


def test_rectified_straightness_is_the_time_integral_of_its_definition(device):
    tracks = random_tracks((5, 12, 3), torch.float64, device)
    n = len(tracks) - 1
    velocity, chord = tracks.diff(dim=0) * n, tracks[-1] - tracks[0]
    expected = (chord - velocity).square().sum(-1).mean()  # integral over t of E |(Z1 - Z0) - v_t|^2
    assert geodesic_gap(tracks).rectified_straightness.item() == pytest.approx(expected.item(), rel=1e-12)


def test_matches_the_reference(device):
    tracks = random_tracks((5, 80, 12), torch.float32, device)
    for got, expected in zip(geodesic_gap(tracks), reference.geodesic_gap(tracks), strict=True):
        assert float(got) == pytest.approx(float(expected), rel=1e-6)


def test_gradients_hold_the_pairing_fixed(device):
    tracks = random_tracks((4, 6, 3), torch.float64, device).requires_grad_()
    for name in ("gap", "bending", "detour", "action", "chord_cost", "optimal_cost"):
        assert torch.autograd.gradcheck(lambda x, name=name: getattr(geodesic_gap(x), name), tracks)


def test_descent_closes_the_gap(device):
    tracks = geodesic(20, 3, 4, device).float()
    tracks = (tracks + 0.3 * torch.randn_like(tracks)).requires_grad_()
    before = geodesic_gap(tracks).gap.item()
    optimiser = torch.optim.Adam([tracks], lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        geodesic_gap(tracks).gap.backward()
        optimiser.step()
    assert geodesic_gap(tracks).gap.item() < 0.3 * before


def test_what_stands_still_is_undefined_and_what_only_swaps_is_infinite(device):
    still = torch.randn(4, 2, device=device).expand(3, 4, 2)
    assert math.isnan(geodesic_gap(still).gap)
    swapped = geodesic_gap(torch.stack((still[0], still[0].flip(0))))
    assert swapped.optimal_cost == 0
    assert swapped.gap == swapped.detour == math.inf


@pytest.mark.huge
@pytest.mark.engine
def test_a_time_budget_leaves_lower_bounds(device):
    x = torch.randn(3000, 3, device=device)
    tracks = torch.stack((x, torch.randn(3000, 3, device=device)))
    short = geodesic_gap(tracks, time_budget=1e-9)
    full = geodesic_gap(tracks)
    assert full.certified
    assert not short.certified
    assert short.optimal_cost >= full.optimal_cost
    assert short.gap <= full.gap


@pytest.mark.parametrize("scale", [1e30, 1e-22, 1e-30])
def test_huge_and_tiny_coordinates_in_float32(scale, device):
    tracks = (random_tracks((5, 8, 3), torch.float64) * scale).float().to(device)
    for got, expected in zip(geodesic_gap(tracks), geodesic_gap(tracks.double()), strict=True):
        assert float(got) == pytest.approx(float(expected), rel=1e-6)


def test_numpy_in_numpy_out():
    found = geodesic_gap(np.array([[[0.0], [1.0]], [[3.0], [2.0]]]))
    assert isinstance(found.gap, np.ndarray)
    assert found.gap == 0.25


def test_says_what_is_wrong():
    with pytest.raises(TypeError, match=r"tracks must be a torch\.Tensor"):
        geodesic_gap("tracks")
    with pytest.raises(ValueError, match="at least 2 layers along dim 1"):
        geodesic_gap(torch.randn(4, 1, 4), dim=1)
    with pytest.raises(ValueError, match="tracks must hold at least 1 track"):
        geodesic_gap(torch.zeros(3, 0, 4))
    broken = torch.randn(3, 5, 4)
    broken[2, 3, 1] = math.nan
    with pytest.raises(ValueError, match="layer 2 of tracks must be finite, got NaN or inf first in row 3"):
        geodesic_gap(broken)
    for target, message in (
        (torch.randn(4, 4), "shape of one layer"),
        (torch.randn(5, 4, dtype=torch.float64), "dtype of one layer"),
    ):
        with pytest.raises(ValueError, match=f"target must have the {message}"):
            geodesic_gap(torch.randn(3, 5, 4), target=target)
    with pytest.raises(ValueError, match="times must hold one number for each of the 3 layers, got 2"):
        geodesic_gap(torch.randn(3, 5, 4), times=[0.0, 1.0])
    with pytest.raises(ValueError, match="times must be finite and increasing"):
        geodesic_gap(torch.randn(3, 5, 4), times=[0.0, 1.0, 1.0])
