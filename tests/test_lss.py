# SPDX-License-Identifier: MIT
"""Line-shape score: values. Gradients: test_lss_gradients.py; wrong calls: test_lss_wrong_calls.py."""

import math

import numpy as np
import pytest
import torch
from assert_accurate import assert_accurate
from hypothesis import given, settings
from hypothesis import strategies as st
from known_tracks import DTYPES, LAYOUTS, SHAPES, arc, laid_out, line, random_tracks, true_lss
from scipy.stats import directional_stats

from geodesic_fast import lss, reference


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_reference_in_higher_precision(shape, dtype, layout, device):
    tracks = random_tracks(shape, dtype, device)
    arranged, dim = laid_out(tracks, layout)
    got = lss(arranged, dim=dim)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert got.device == tracks.device
    truth = true_lss(tracks)
    # the sum of n rounded unit vectors has length n / LSS: rounding counts LSS times
    assert_accurate(got, reference.lss(tracks), truth, condition=truth)


@pytest.mark.parametrize("features", [1, 3, 64, 4096])
@pytest.mark.parametrize("steps", [1, 2, 12, 80])
def test_is_one_over_the_mean_resultant_length(features, steps, device):
    tracks = torch.randn(steps + 1, 5, features, dtype=torch.float64)
    steps_taken = np.diff(tracks.numpy(), axis=0)
    directions = steps_taken / np.linalg.norm(steps_taken, axis=-1, keepdims=True)
    expected = np.array([1 / directional_stats(directions[:, i]).mean_resultant_length for i in range(5)])
    finite = expected < 1e8  # one feature: directions +1 and -1 may cancel
    got = lss(tracks.to(device)).cpu().numpy()
    np.testing.assert_allclose(got[finite], expected[finite], rtol=1e-12)
    assert (got[~finite] > 1e8).all()


def test_known_answers(device):
    corner = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 3.0]], device=device)
    assert lss(corner).item() == pytest.approx(math.sqrt(2), rel=1e-6)
    assert lss(line(20, 6).to(device)).item() == pytest.approx(1, rel=1e-14)
    there_and_back = torch.tensor([[0.0], [1.0], [0.0]], device=device)
    assert lss(there_and_back).item() == math.inf
    for angle in (0.1, 0.7, 2.0):
        points, expected = arc(17, angle)
        assert lss(points.to(device)).item() == pytest.approx(expected, rel=1e-13)
    random = lss(torch.randn(65, 200, 4096, dtype=torch.float64).cumsum(0)[:, :8].to(device))
    assert random.mean().item() == pytest.approx(8, rel=0.02)  # sqrt(n)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_step_scores_exactly_one(dtype, device):
    assert torch.equal(
        lss(torch.randn(2, 50, 33).to(dtype).to(device)).cpu().double(), torch.ones(50).double()
    )


def test_invariances(device):
    tracks = random_tracks((9, 6, 5), torch.float64, device)
    expected = lss(tracks)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q.to(device)
    step_scales = torch.rand(9, 6, 1, dtype=torch.float64, device=device) + 0.1
    rescaled = torch.cat((tracks[:1], tracks[:1] + (tracks.diff(dim=0) * step_scales).cumsum(0)))
    for same in (tracks + 1e3, tracks @ rotation, tracks * 7.5, tracks.flip(0), rescaled):
        torch.testing.assert_close(lss(same), expected, rtol=1e-11, atol=0)


def test_an_offset_costs_no_more_than_its_rounding(device):
    steps = torch.randint(-8, 9, (12, 4, 16)).float() + 0.5
    tracks = torch.cat((torch.zeros(1, 4, 16), steps.cumsum(0))).to(device)
    torch.testing.assert_close(lss(tracks + 65536.0), lss(tracks), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1.5e38, 1e-38])
def test_huge_and_tiny_coordinates_in_float32(scale, device):
    tracks = (torch.rand(8, 5, 300, dtype=torch.float64) * 2 - 1).mul(scale).float()
    assert_accurate(lss(tracks.to(device)), reference.lss(tracks), reference.lss(tracks.double()))


def test_zero_step_policies(device):
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]], device=device)
    rests = torch.zeros(4, 2, device=device)
    tracks = torch.stack((points, rests), 1)
    skip, keep = (lss(tracks, zero_step=policy) for policy in ("skip", "keep"))
    assert skip[0].item() == pytest.approx(math.sqrt(2), rel=1e-6)
    assert skip[1].isnan()
    assert keep[0].item() == pytest.approx(3 / math.sqrt(2), rel=1e-6)
    assert keep[1].item() == math.inf
    assert lss(tracks, zero_step="propagate").isnan().all()
    with pytest.raises(ValueError, match=r"zero_step=\"raise\", got one at step 1 of track \(1,\)"):
        lss(tracks, zero_step="raise")
    assert lss(points[[0, 1, 3]], zero_step="raise").item() == pytest.approx(math.sqrt(2), rel=1e-6)


@pytest.mark.parametrize("policy", ["skip", "keep", "propagate"])
def test_zero_steps_match_the_reference(policy, device):
    tracks = random_tracks((9, 50, 5), torch.float32, device)
    for layer in range(1, 10):
        rests = torch.rand(50, device=device) < 0.3
        tracks[layer, rests] = tracks[layer - 1, rests]
    truth = reference.lss(tracks.double(), zero_step=policy)
    assert_accurate(lss(tracks, zero_step=policy), reference.lss(tracks, zero_step=policy), truth)


def test_nan_and_inf_stay_in_their_track(device):
    tracks = random_tracks((6, 5, 40), torch.float32, device)
    clean = lss(tracks)
    for value in (math.nan, math.inf, -math.inf):
        broken = tracks.clone()
        broken[3, 2, 17] = value
        got = lss(broken)
        assert got[2].isnan()
        others = [0, 1, 3, 4]
        assert torch.equal(got[others], clean[others])


def test_no_tracks_give_no_scores(device):
    assert lss(torch.zeros(3, 0, 4, device=device)).shape == (0,)
    assert lss([torch.zeros(2, 0, 4, device=device)] * 3).shape == (2, 0)


def test_autocast_leaves_the_result_alone(device):
    tracks = random_tracks((5, 4, 10), torch.float32, device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        got = lss(tracks)
    assert got.dtype == torch.float32
    assert torch.equal(got, lss(tracks))


def test_threads_do_not_change_the_result():
    tracks = random_tracks((12, 700, 130), torch.float32)
    threads = torch.get_num_threads()
    try:
        results = [(torch.set_num_threads(count), lss(tracks))[1] for count in (1, 2, 3, 1)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 70), batch=st.lists(st.integers(1, 4), max_size=5), features=st.integers(1, 70),
    dtype=st.sampled_from(DTYPES), layout=st.sampled_from(LAYOUTS), seed=st.integers(0, 2**30),
)  # fmt: skip
def test_any_shape_and_stride(steps, batch, features, dtype, layout, seed):
    torch.manual_seed(seed)
    tracks = random_tracks((steps, *batch, features), dtype)
    zero = (tracks.diff(dim=0) == 0).all(-1)
    if (
        zero.any() or features == 1
    ):  # low precision, low dimension: rest and exact cancelling have their own tests
        tracks = random_tracks((steps, *batch, features + 60), dtype)
    arranged, dim = laid_out(tracks, layout)
    truth = true_lss(tracks)
    assert_accurate(lss(arranged, dim=dim), reference.lss(tracks), truth, condition=truth)
