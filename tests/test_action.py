# SPDX-License-Identifier: MIT
"""Action: values and gradients; the fused numbers themselves are tested in test_track_geometry.py."""

import numpy as np
import pytest
import torch
from assert_accurate import assert_accurate
from known_tracks import DTYPES, LAYOUTS, laid_out, random_tracks
from scipy.spatial.distance import sqeuclidean

from geodesic_fast import action, action_reference


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
    assert_accurate(action(arranged, dim=dim), action_reference(tracks), truth)


def test_even_straight_tracks_cost_their_squared_chord(device):
    ends = torch.randn(2, 7, 5, dtype=torch.float64, device=device)
    time = torch.linspace(0, 1, 11, dtype=torch.float64, device=device)[:, None, None]
    torch.testing.assert_close(action(torch.lerp(*ends, time)), (ends[1] - ends[0]).square().sum(-1))


def test_gradcheck(device):
    tracks = random_tracks((5, 3, 4), torch.float64, device).requires_grad_()
    assert torch.autograd.gradcheck(action, tracks)


def test_numpy_in_numpy_out():
    assert action(np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])) == 50.0


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match="at least 2 layers along dim 0"):
        action(torch.randn(1, 4))
