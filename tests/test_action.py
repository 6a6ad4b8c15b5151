# SPDX-License-Identifier: MIT
"""Action: values and gradients; the fused numbers themselves are tested in test_track_geometry.py."""

import numpy as np
import pytest
import torch
from assert_accurate import assert_accurate
from known_tracks import DTYPES, LAYOUTS, laid_out, random_tracks
from scipy.spatial.distance import sqeuclidean

from geodesic_fast import action, reference


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 5, 7), (12, 3, 64), (33, 2, 1111), (4, 2, 3, 50)], ids=str)
def test_matches_scipy(shape, dtype, layout, device):
    tracks = random_tracks(shape, dtype, device)
    arranged, dim = laid_out(tracks, layout)
    points = tracks.double().cpu().reshape(len(tracks), -1, shape[-1]).numpy()
    truth = [
        (len(points) - 1) * sum(sqeuclidean(a, b) for a, b in zip(track[1:], track[:-1], strict=True))
        for track in np.moveaxis(points, 1, 0)
    ]
    truth = torch.tensor(truth).reshape(tracks.shape[1:-1])
    assert_accurate(action(arranged, dim=dim), reference.action(tracks), truth)


def test_even_straight_tracks_cost_their_squared_chord(device):
    ends = torch.randn(2, 7, 5, dtype=torch.float64, device=device)
    time = torch.linspace(0, 1, 11, dtype=torch.float64, device=device)[:, None, None]
    torch.testing.assert_close(action(torch.lerp(*ends, time)), (ends[1] - ends[0]).square().sum(-1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_uneven_times_match_scipy(dtype, layout, device):
    tracks = random_tracks((6, 4, 33), dtype, device)
    times = [-1.0, 0.0, 0.25, 2.0, 2.5, 7.0, 7.125]
    arranged, dim = laid_out(tracks, layout)
    points = tracks.double().cpu().numpy()
    truth = [
        8.125 * sum(sqeuclidean(a, b) / gap for a, b, gap in zip(t[1:], t[:-1], np.diff(times), strict=True))
        for t in np.moveaxis(points, 1, 0)
    ]
    got = action(arranged, dim=dim, times=times)
    assert_accurate(got, reference.action(tracks, times=times), torch.tensor(truth))


def test_even_times_are_no_times_and_their_unit_does_not_matter(device):
    tracks = random_tracks((5, 3, 4), torch.float64, device)
    for times in (range(6), torch.linspace(0, 1e-9, 6), torch.arange(6) * 1e6):
        torch.testing.assert_close(action(tracks, times=times), action(tracks), rtol=1e-6, atol=0)


def test_a_track_with_nan_is_nan_alone_whatever_the_times(device):
    tracks = random_tracks((3, 4, 5), torch.float32, device)
    tracks[1, 2, 3] = float("inf")
    for times in (None, [0.0, 1.0, 3.0, 4.0]):
        for function in (action, reference.action):
            assert function(tracks, times=times).isnan().tolist() == [False, False, True, False]


def test_gradcheck_with_times(device):
    tracks = random_tracks((3, 3, 4), torch.float64, device).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: action(x, times=[0.0, 1.0, 1.5, 4.0]), tracks)


def test_gradcheck(device):
    tracks = random_tracks((5, 3, 4), torch.float64, device).requires_grad_()
    assert torch.autograd.gradcheck(action, tracks)


def test_numpy_in_numpy_out():
    assert action(np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])) == 50.0


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match="at least 2 layers along dim 0"):
        action(torch.randn(1, 4))
    with pytest.raises(ValueError, match="times must hold one number for each of the 4 layers, got 3"):
        action(torch.randn(4, 2, 3), times=[0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="times must be finite and increasing"):
        action(torch.randn(3, 2, 3), times=[0.0, 2.0, 1.0])
