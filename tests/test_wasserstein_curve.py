# SPDX-License-Identifier: MIT
"""The curve of measures: against SciPy and POT, closed forms, streamed, and wrong calls."""

import math
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from known_tracks import DTYPES, LAYOUTS, laid_out, random_tracks
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from geodesic_fast import ots, reference, wasserstein_curve


def scipy_distance(x, y):
    costs = cdist(x.double().cpu().numpy(), y.double().cpu().numpy(), "sqeuclidean")
    return math.sqrt(costs[linear_sum_assignment(costs)].mean())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_scipy(dtype, layout, device):
    tracks = random_tracks((5, 40, 6), dtype, device)
    arranged, dim = laid_out(tracks, layout)
    found = wasserstein_curve(arranged, dim=dim)
    steps = np.array([scipy_distance(a, b) for a, b in pairwise(tracks)])
    distance = scipy_distance(tracks[0], tracks[-1])
    assert found.certified
    assert (found.m, found.d) == (40, 6)
    np.testing.assert_allclose(found.steps.cpu(), steps, rtol=1e-12)
    expected = {
        "length": steps.sum(), "distance": distance, "ratio": steps.sum() / distance,
        "evenness": steps.std() / steps.mean(),
    }  # fmt: skip
    for name, value in expected.items():
        got = getattr(found, name)
        assert (got.dtype, got.device) == (torch.float64, tracks.device)
        assert got.item() == pytest.approx(value, rel=1e-10), name
    scores = [ots(a, b).score for a, b in pairwise(tracks)]
    assert found.ots.tolist() == scores


def test_distances_are_those_of_pot(device):
    ot = pytest.importorskip("ot", reason="needs the package POT")
    tracks = random_tracks((3, 30, 4), torch.float64, device)
    found = wasserstein_curve(tracks)
    weights = np.full(30, 1 / 30)
    x = tracks.cpu().numpy()
    for step, (a, b) in zip(found.steps, pairwise(x), strict=True):
        assert step.item() == pytest.approx(math.sqrt(ot.emd2(weights, weights, cdist(a, b, "sqeuclidean"))))


def test_a_geodesic_has_ratio_one_whatever_its_speed_and_pairing(device):
    x = torch.randn(50, 4, dtype=torch.float64, device=device)
    scaled = torch.stack(
        [x * factor for factor in (1.0, 1.5, 2.0, 2.5)]
    )  # W2 of scaled copies: |a - b| rms(x)
    found = wasserstein_curve(scaled)
    rms = x.square().sum(-1).mean().sqrt().item()
    assert found.steps.tolist() == pytest.approx([0.5 * rms] * 3, rel=1e-12)
    assert found.ratio.item() == pytest.approx(1, abs=1e-13)
    assert found.evenness.item() < 1e-13
    assert found.ots.tolist() == [1.0] * 3
    shuffled = torch.stack([layer[torch.randperm(50, device=device)] for layer in scaled])
    mixed = wasserstein_curve(shuffled)
    assert mixed.ratio.item() == pytest.approx(1, abs=1e-13)
    assert mixed.ots.max() < 1
    uneven = wasserstein_curve(scaled[torch.tensor([0, 1, 3])])
    assert uneven.ratio.item() == pytest.approx(1, abs=1e-13)
    assert uneven.evenness.item() == pytest.approx(1 / 3, rel=1e-12)  # steps of 1 and 2


def test_a_detour_by_a_third_measure_is_its_length(device):
    x = torch.randn(30, 2, dtype=torch.float64, device=device)
    step = torch.tensor([3.0, 0.0], device=device)
    up = torch.tensor([0.0, 4.0], device=device)
    found = wasserstein_curve(torch.stack((x, x + step, x + step + up)))  # 3, then 4, for a distance of 5
    assert found.ratio.item() == pytest.approx(7 / 5, rel=1e-12)


def test_ratio_is_never_below_one(device):
    for seed in range(20):
        torch.manual_seed(seed)
        x = torch.randn(9, 3, device=device)
        tracks = x + torch.randn(3, device=device) * torch.arange(7.0, device=device)[:, None, None]
        assert wasserstein_curve(tracks).ratio >= 1


def test_what_does_not_move_and_what_comes_back(device):
    x = torch.randn(10, 3, device=device)
    still = wasserstein_curve(torch.stack((x, x.flip(0), x)))
    assert still.length == still.distance == 0
    assert still.ratio.isnan()
    assert still.evenness.isnan()
    back = wasserstein_curve(torch.stack((x, x + 1, x.flip(0))))
    assert back.ratio == math.inf


def test_one_track_one_step_and_equal_layers(device):
    x = torch.randn(2, 1, 3, device=device)
    found = wasserstein_curve(x)
    assert found.ratio == 1
    assert found.evenness == 0
    assert found.ots.tolist() == [1.0]


def test_layers_may_come_one_by_one_and_are_let_go(device):
    tracks = random_tracks((6, 20, 4), torch.float32, device)
    alive = []

    def layers():
        for layer in tracks:
            copy = layer.clone()
            alive.append(weakref.ref(copy))
            yield copy
            del copy
            assert sum(held() is not None for held in alive) <= 3

    streamed = wasserstein_curve(layers())
    whole = wasserstein_curve(tracks)
    for got, expected in zip(streamed, whole, strict=True):
        assert torch.equal(got, expected) if isinstance(got, torch.Tensor) else got == expected


def test_gradients_hold_the_maps_fixed(device):
    tracks = random_tracks((4, 6, 3), torch.float64, device).requires_grad_()
    for name in ("ratio", "evenness", "length", "distance", "steps"):
        assert torch.autograd.gradcheck(lambda x, name=name: getattr(wasserstein_curve(x), name), tracks)


def test_a_layer_that_does_nothing_has_no_gradient_that_is_nan(device):
    x = torch.randn(8, 3, device=device)
    tracks = torch.stack((x, x, x + 1)).requires_grad_()
    wasserstein_curve(tracks).length.backward()
    assert tracks.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e-200, 1e150])
def test_extreme_units(scale, device):
    tracks = random_tracks((4, 12, 3), torch.float64, device)
    found, expected = wasserstein_curve(tracks * scale), wasserstein_curve(tracks)
    torch.testing.assert_close(found.ratio, expected.ratio, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.steps / scale, expected.steps, rtol=1e-12, atol=0)


@pytest.mark.engine
def test_a_time_budget_leaves_upper_bounds(device):
    tracks = torch.randn(3, 3000, 3, device=device)
    short = wasserstein_curve(tracks, time_budget=1e-9)
    assert not short.certified
    assert short.ratio.isnan()
    assert short.evenness.isnan()
    assert (short.steps >= wasserstein_curve(tracks).steps).all()


def test_matches_the_reference(device):
    tracks = random_tracks((5, 30, 12), torch.float32, device)
    for got, expected in zip(wasserstein_curve(tracks), reference.wasserstein_curve(tracks), strict=True):
        torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(expected), rtol=1e-10, atol=1e-14)


def test_numpy_in_numpy_out():
    found = wasserstein_curve(np.array([[[0.0], [1.0]], [[3.0], [2.0]]]))
    assert isinstance(found.steps, np.ndarray)
    assert found.steps.tolist() == [2.0]
    assert found.ots.tolist() == [0.0]


def test_says_what_is_wrong():
    with pytest.raises(TypeError, match=r"tracks must be a torch\.Tensor"):
        wasserstein_curve("tracks")
    with pytest.raises(ValueError, match="at least 2 layers"):
        wasserstein_curve(iter([torch.randn(4, 2)]))
    with pytest.raises(ValueError, match=r"tracks\[0\] has \(4, 2\), tracks\[2\] has \(4, 3\)"):
        wasserstein_curve(iter([torch.randn(4, 2), torch.randn(4, 2), torch.randn(4, 3)]))
    with pytest.raises(ValueError, match="dim must be 0"):
        wasserstein_curve(iter([torch.randn(4, 2), torch.randn(4, 2)]), dim=1)
    with pytest.raises(ValueError, match="at least 1 point"):
        wasserstein_curve(torch.zeros(3, 0, 4))
    broken = torch.randn(3, 5, 4)
    broken[1, 3, 1] = math.nan
    with pytest.raises(ValueError, match="finite, got NaN or inf first in row 3"):
        wasserstein_curve(broken)
    with pytest.raises(ValueError, match="time_budget must be positive"):
        wasserstein_curve(torch.randn(3, 5, 4), time_budget=0)


@pytest.mark.parametrize("given", [lambda x: x, list, iter])
def test_the_layer_that_is_not_finite_is_named(given):
    tracks = torch.randn(4, 10, 2)
    tracks[2, 3] = torch.inf
    for curve in (wasserstein_curve, reference.wasserstein_curve):
        with pytest.raises(ValueError, match=r"layer 2 of tracks must be finite, .* in row 3"):
            curve(given(tracks))
