# SPDX-License-Identifier: MIT
"""The geodesic lower bound: values, its summary, geodesics that keep it, wrong calls."""

import math

import numpy as np
import pytest
import torch
from assert_accurate import assert_accurate
from known_tracks import DTYPES, LAYOUTS, SHAPES, laid_out, random_tracks
from peak_memory import peak_above_now
from scipy.spatial.distance import cdist

from geodesic_fast import geodesic_bound, geodesic_bound_summary, reference, track_distance


def true_bound(tracks):
    """Return (m, m) from SciPy's distances of the first and the last layer."""
    x = tracks.detach().double().cpu().numpy().reshape(len(tracks), -1, tracks.shape[-1])
    a, b = cdist(x[0], x[0]), cdist(x[-1], x[-1])
    either = np.hypot(a, b)
    return torch.as_tensor(np.divide(a * b, either, out=np.zeros_like(a), where=either > 0))


def geodesic(m, features, steps, dtype=torch.float64, shuffled=False):
    """Return tracks along y = A x, A symmetric positive definite: the gradient of a convex function.

    `shuffled` pairs the same ends in another order, which is no geodesic.
    """
    x = torch.randn(m, features, dtype=torch.float64)
    root = torch.randn(features, features, dtype=torch.float64)
    y = x @ (root @ root.T + 0.1 * torch.eye(features, dtype=torch.float64))
    y = y[torch.randperm(m)] if shuffled else y
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64).view(-1, 1, 1)
    return ((1 - t) * x + t * y).to(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES[:10], (3, 130, 64)], ids=str)
def test_matches_scipy_and_the_float64_reference(shape, dtype, layout, device):
    tracks = random_tracks(shape, dtype, device)
    arranged, dim = laid_out(tracks, layout)
    got, truth = geodesic_bound(arranged, dim=dim), true_bound(tracks)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(got, got.mT)
    assert_accurate(got, reference.geodesic_bound(tracks), truth)


def test_known_answers(device):
    ends = torch.tensor(
        [[[0.0, 0.0], [3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 4.0], [0.0, 5.0]]], device=device
    )
    bound = geodesic_bound(ends)
    assert bound[0, 1].item() == pytest.approx(2.4, rel=1e-6)
    assert bound[0, 2].item() == 0  # equal at first
    assert (bound.diagonal() == 0).all()
    assert geodesic_bound_summary(ends).pairs == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(80, 2), (120, 12), (200, 20)], ids=str)
def test_a_geodesic_keeps_its_bound_and_a_shuffled_one_does_not(shape, dtype, device):
    m, features = shape
    kept = geodesic_bound_summary(geodesic(m, features, 16, dtype).to(device))
    assert kept.share_kept == 1
    assert kept.worst_ratio >= 1 - 16 * torch.finfo(dtype).eps
    assert kept.pairs == m * (m - 1) // 2
    tracks = geodesic(m, features, 16, dtype, shuffled=True).to(device)
    broken = geodesic_bound_summary(tracks)
    assert broken.share_kept < 1
    ratio = (track_distance(tracks.double()) / geodesic_bound(tracks.double())).triu(1)
    ratio[ratio == 0] = math.inf
    i, j = broken.worst_pair
    assert ratio[i, j].item() == pytest.approx(ratio.min().item(), rel=1e-5)
    assert broken.worst_ratio == pytest.approx(ratio.min().item(), rel=1e-5)


def test_the_summary_is_that_of_the_matrices(device, monkeypatch):
    tracks = random_tracks((5, 40, 3), torch.float32, device)
    tracks[0, 7] = tracks[0, 3]
    arranged = [tracks, list(tracks), tracks.reshape(6, 8, 5, 3)]
    expected = reference.geodesic_bound_summary(tracks)
    for same in arranged:
        whole = geodesic_bound_summary(same)
        monkeypatch.setattr("geodesic_fast.metrics.geodesic_bound._BLOCK_PAIRS", 300)
        for got in (whole, geodesic_bound_summary(same)):
            assert got.worst_ratio == pytest.approx(expected.worst_ratio, rel=1e-5)
            assert (got.worst_pair, got.pairs) == (expected.worst_pair, 40 * 39 // 2 - 1)
            assert got.share_kept == pytest.approx(expected.share_kept, abs=1e-3)


@pytest.mark.engine
def test_the_summary_holds_no_matrix(monkeypatch):
    m, pairs = 8000, 1 << 18
    tracks = random_tracks((5, m, 8), torch.float32)
    monkeypatch.setattr("geodesic_fast.metrics.geodesic_bound._BLOCK_PAIRS", pairs)
    geodesic_bound_summary(tracks[:, :300])
    found = []
    peak = peak_above_now(lambda: found.append(geodesic_bound_summary(tracks)))
    if peak is None:
        pytest.skip("the peak of the resident memory cannot be read here")
    assert found[0].pairs == m * (m - 1) // 2
    assert peak < 4 * m * m / 8  # ten temporary blocks take 10 MiB, the matrix 244


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tracks_far_from_the_origin(dtype, device):
    tracks = (1e4 + torch.randn(5, 90, 12, dtype=torch.float64)).to(dtype).to(device)
    truth = true_bound(tracks)
    assert_accurate(geodesic_bound(tracks), reference.geodesic_bound(tracks), truth)
    each = np.stack([cdist(x, x) for x in tracks.double().cpu().numpy()]).min(0)
    upper = np.triu_indices(90, 1)
    ratio = each[upper] / truth.numpy()[upper]
    got = geodesic_bound_summary(tracks)
    assert got.worst_ratio == pytest.approx(ratio.min(), rel=1e-5)
    assert got.worst_pair == tuple(int(side[ratio.argmin()]) for side in upper)
    assert got.share_kept == pytest.approx((ratio >= 1).mean(), abs=1e-3)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_huge_and_tiny_coordinates_in_float32(scale, device):
    tracks = (torch.rand(3, 30, 20, dtype=torch.float64) * 2 - 1).mul(scale).float()
    got = geodesic_bound(tracks.to(device))
    assert_accurate(got, reference.geodesic_bound(tracks), reference.geodesic_bound(tracks.double()))
    assert geodesic_bound_summary(tracks.to(device)).pairs == 435


def test_nan_and_inf_and_nothing(device):
    tracks = random_tracks((4, 9, 5), torch.float32, device)
    broken = tracks.clone()
    broken[0, 2, 1] = math.nan
    broken[-1, 4, 3] = math.inf
    got = geodesic_bound(broken)
    assert got[2].isnan().all()
    first = torch.linalg.vector_norm(tracks[0, 4] - tracks[0, 0])
    torch.testing.assert_close(got[4, 0], first)
    assert math.isnan(geodesic_bound_summary(broken).worst_ratio)
    assert geodesic_bound_summary(broken).share_kept < 1
    for few in (tracks[:, :1], tracks[:, :0]):
        assert geodesic_bound(few).shape == (few.shape[1],) * 2
        share, worst, pair, pairs = geodesic_bound_summary(few)
        assert math.isnan(share)
        assert math.isnan(worst)
        assert (pair, pairs) == ((-1, -1), 0)


def test_gradients(device):
    tracks = random_tracks((3, 4, 3), torch.float64, device).requires_grad_()
    away = ~torch.eye(4, dtype=torch.bool, device=device)
    assert torch.autograd.gradcheck(lambda x: geodesic_bound(x)[away], tracks)
    (got,) = torch.autograd.grad(geodesic_bound(list(tracks)).sum(), tracks)
    (expected,) = torch.autograd.grad(reference.geodesic_bound(tracks).sum(), tracks)
    torch.testing.assert_close(got, expected)
    assert (got[1:-1] == 0).all()


def test_says_what_is_wrong():
    for call in (geodesic_bound, geodesic_bound_summary):
        with pytest.raises(ValueError, match="tracks must have at least 2 layers"):
            call(torch.randn(1, 4, 5))
        with pytest.raises(TypeError, match=r"tracks must be a torch\.Tensor"):
            call("tracks")


def test_takes_arrays():
    x = np.random.default_rng(0).normal(size=(3, 7, 6))
    assert isinstance(geodesic_bound(x), np.ndarray)
    assert geodesic_bound_summary(x).pairs == 21
