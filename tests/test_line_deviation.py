# SPDX-License-Identifier: MIT
"""Line deviation of pairs of steps: values and wrong calls. Gradients: test_line_deviation_gradients.py."""

import math

import numpy as np
import pytest
import torch
from assert_accurate import assert_accurate
from hypothesis import given, settings
from hypothesis import strategies as st
from known_tracks import DTYPES, LAYOUTS, SHAPES, laid_out, line, random_tracks
from scipy.spatial.distance import cdist

from geodesic_fast import line_deviation, lss, reference

REDUCTIONS = ("mean", "none")
TENSOR_SHAPES = (
    (8, 5, 128),
    (20, 3, 136),
    (40, 2, 200),
    (80, 3, 256),
    (130, 2, 192),
)  # tensor cores, in halves


def true_deviation(tracks):
    """Return (*batch, n, n) by SciPy's cosine distance of the steps."""
    steps = np.diff(tracks.detach().double().cpu().numpy(), axis=0)
    n, *batch, features = steps.shape
    each = np.moveaxis(steps, 0, -2).reshape(-1, n, features)
    return torch.as_tensor(np.stack([cdist(track, track, "cosine") for track in each]).reshape(*batch, n, n))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (520, 2, 9), (3, 40, 64), (33, 3, 2500), *TENSOR_SHAPES], ids=str)
def test_matches_scipy_and_the_float64_reference(shape, dtype, layout, device):
    tracks = random_tracks(shape, dtype, device)
    arranged, dim = laid_out(tracks, layout)
    each = true_deviation(tracks)
    for reduction, truth in (
        ("none", each),
        ("mean", each.reshape(-1, *each.shape[-2:]).mean(0)),
    ):
        got = line_deviation(arranged, dim=dim, reduction=reduction)
        assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert got.device == tracks.device
        assert torch.equal(got, got.mT)
        assert (got.diagonal(dim1=-2, dim2=-1) == 0).all()
        assert_accurate(got, reference.line_deviation(tracks, reduction=reduction), truth)


def test_agrees_with_the_line_shape_score(device):
    tracks = random_tracks((20, 30, 12), torch.float64, device)
    dev = line_deviation(tracks, reduction="none")
    expected = 20 / (20**2 - dev.sum((-2, -1))).sqrt()
    torch.testing.assert_close(expected, lss(tracks), rtol=1e-12, atol=0)
    torch.testing.assert_close(line_deviation(tracks), dev.mean(0), rtol=0, atol=1e-14)


def test_known_answers(device):
    corner = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0], [0.0, 4.0]], device=device)
    expected = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]], device=device)
    for reduction in REDUCTIONS:
        assert torch.equal(line_deviation(corner, reduction=reduction), expected)
    straight = line_deviation(line(20, 6).to(device))
    assert straight.abs().max().item() < 1e-15
    random = line_deviation(torch.randn(9, 2000, 512).cumsum(0).to(device))
    off_diagonal = random[~torch.eye(8, dtype=torch.bool, device=device)]
    torch.testing.assert_close(off_diagonal, torch.ones_like(off_diagonal), rtol=0, atol=0.01)


def test_invariances(device):
    tracks = random_tracks((9, 6, 5), torch.float64, device)
    expected = line_deviation(tracks)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q.to(device)
    step_scales = torch.rand(9, 6, 1, dtype=torch.float64, device=device) + 0.1
    rescaled = torch.cat((tracks[:1], tracks[:1] + (tracks.diff(dim=0) * step_scales).cumsum(0)))
    for same in (tracks + 1e3, tracks @ rotation, tracks * 7.5, rescaled, tracks[:, torch.randperm(6)]):
        torch.testing.assert_close(line_deviation(same), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(line_deviation(tracks.flip(0)), expected.flip(0, 1), rtol=0, atol=1e-13)


def test_an_offset_costs_no_more_than_its_rounding(device):
    steps = torch.randint(-8, 9, (12, 4, 16)).float() + 0.5
    tracks = torch.cat((torch.zeros(1, 4, 16), steps.cumsum(0))).to(device)
    torch.testing.assert_close(line_deviation(tracks + 65536.0), line_deviation(tracks), rtol=0, atol=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("scale", [1e30, 1e-30, 1.5e38, 1e-38])
def test_huge_and_tiny_coordinates_in_float32(scale, reduction, device):
    tracks = (torch.rand(8, 5, 300, dtype=torch.float64) * 2 - 1).mul(scale).float()
    truth = reference.line_deviation(tracks.double(), reduction=reduction)
    plain = reference.line_deviation(tracks, reduction=reduction)
    assert_accurate(line_deviation(tracks.to(device), reduction=reduction), plain, truth)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("steps", [20, 100])
@pytest.mark.parametrize("scale", [1e30, 1e-30, 1.0, 60000.0])
def test_halves_of_any_magnitude(scale, steps, reduction, device):
    tracks = (torch.rand(steps + 1, 3, 136, dtype=torch.float64) * 2 - 1).mul(scale)
    tracks = tracks.to(torch.float16 if scale == 60000.0 else torch.bfloat16)
    tracks[2] = tracks[0]  # a step back, exactly opposite
    truth = reference.line_deviation(tracks.double(), reduction=reduction)
    plain = reference.line_deviation(tracks, reduction=reduction)
    assert_accurate(line_deviation(tracks.to(device), reduction=reduction), plain, truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_from_run_to_run(dtype, device):
    tracks = random_tracks((33, 300, 128), dtype, device)
    first = line_deviation(tracks)
    assert all(torch.equal(line_deviation(tracks), first) for _ in range(3))


def test_zero_step_policies(device):
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]], device=device)
    moving = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], device=device)
    tracks = torch.stack((points, moving), 1)
    nan = math.nan
    skip = torch.tensor([[0.0, nan, 1.0], [nan, nan, nan], [1.0, nan, 0.0]], device=device)
    each = {p: line_deviation(tracks, reduction="none", zero_step=p) for p in ("skip", "keep", "propagate")}
    for policy in ("skip", "propagate"):
        torch.testing.assert_close(each[policy][0], skip, equal_nan=True)
    torch.testing.assert_close(each["keep"][0], skip.nan_to_num(1.0))
    mean = {p: line_deviation(tracks, zero_step=p) for p in ("skip", "keep", "propagate")}
    torch.testing.assert_close(
        mean["skip"], torch.tensor([[0, 0, 0.5], [0, 0, 0], [0.5, 0, 0]], device=device)
    )
    torch.testing.assert_close(
        mean["keep"], torch.tensor([[0, 0.5, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5, 0]], device=device)
    )
    torch.testing.assert_close(mean["propagate"], skip / 2, equal_nan=True)
    for reduction in REDUCTIONS:
        with pytest.raises(ValueError, match=r"zero_step=\"raise\", got one at step 2 of track \(0,\)"):
            line_deviation(tracks, reduction=reduction, zero_step="raise")
        assert line_deviation(moving, reduction=reduction, zero_step="raise").shape == (3, 3)
    kept = 3 / (9 - each["keep"].sum((-2, -1))).sqrt()
    torch.testing.assert_close(kept, lss(tracks, zero_step="keep"))
    assert line_deviation(points[:1].expand(3, 2)).isnan().all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("policy", ["skip", "keep", "propagate"])
@pytest.mark.parametrize(
    ("shape", "dtype"), [((9, 50, 5), torch.float32), ((20, 50, 128), torch.bfloat16)], ids=str
)
def test_zero_steps_match_the_reference(shape, dtype, policy, reduction, device):
    tracks = random_tracks(shape, dtype, device)
    for layer in range(1, len(tracks)):
        rests = torch.rand(50, device=device) < 0.3
        tracks[layer, rests] = tracks[layer - 1, rests]
    options = {"zero_step": policy, "reduction": reduction}
    truth = reference.line_deviation(tracks.double(), **options)
    assert_accurate(line_deviation(tracks, **options), reference.line_deviation(tracks, **options), truth)


@pytest.mark.parametrize("policy", ["skip", "keep", "propagate"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_beside_a_step_of_length_zero(dtype, reduction, policy, device):
    tracks = random_tracks((7, 2, 4), dtype, device)
    tracks[2, 0], tracks[7, 0, 1] = tracks[1, 0], math.nan
    found = line_deviation(tracks, reduction=reduction, zero_step=policy)
    first = found[0] if reduction == "none" else found
    assert first[6].isnan().all()
    assert first[:, 6].isnan().all()
    expected = reference.line_deviation(tracks, reduction=reduction, zero_step=policy)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("n", "features", "dtype"), [(6, 40, torch.float32), (20, 128, torch.float16)], ids=str
)
def test_nan_and_inf_stay_in_their_steps(n, features, dtype, value, device):
    tracks = random_tracks((n, 5, features), dtype, device)
    clean = line_deviation(tracks, reduction="none")
    broken = tracks.clone()
    broken[3, 2, 17] = value
    got = line_deviation(broken, reduction="none")
    assert got[2, [2, 3]].isnan().all()
    assert got[2, :, [2, 3]].isnan().all()
    fine = torch.tensor([0, 1, *range(4, n)])
    assert torch.equal(got[2][fine][:, fine], clean[2][fine][:, fine])
    assert torch.equal(got[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])
    mean = line_deviation(broken)
    assert mean[[2, 3]].isnan().all()
    assert mean[fine][:, fine].isfinite().all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 20), st.integers(1, 9), st.integers(1, 70), st.integers(0, 2**31), st.sampled_from(LAYOUTS)
)
def test_any_shape_and_stride(steps, m, features, seed, layout):
    torch.manual_seed(seed)
    tracks = random_tracks((steps, m, features), torch.float32)
    arranged, dim = laid_out(tracks, layout)
    for reduction in REDUCTIONS:
        truth = reference.line_deviation(tracks.double(), reduction=reduction)
        plain = reference.line_deviation(tracks, reduction=reduction)
        assert_accurate(line_deviation(arranged, dim=dim, reduction=reduction), plain, truth)


def test_does_not_depend_on_the_number_of_threads():
    tracks = random_tracks((30, 500, 40), torch.float32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            runs = [line_deviation(tracks) for _ in range(3)]
            assert all(torch.equal(run, runs[0]) for run in runs)
            found.append(runs[0])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-7)


def test_empty_and_single_shapes(device):
    assert line_deviation(torch.zeros(3, 0, 5, device=device), reduction="none").shape == (0, 2, 2)
    assert line_deviation(torch.zeros(3, 0, 5, device=device)).isnan().all()
    assert torch.equal(line_deviation(torch.randn(2, 5, device=device)), torch.zeros(1, 1, device=device))


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"reduction must be one of 'mean', 'none', got 'sum'\."):
        line_deviation(torch.randn(3, 4), reduction="sum")
    with pytest.raises(ValueError, match="zero_step must be one of"):
        line_deviation(torch.randn(3, 4), zero_step="drop")
    with pytest.raises(TypeError, match=r"tracks must be a torch\.Tensor"):
        line_deviation("tracks")
    with pytest.raises(ValueError, match="at least 2 layers along dim 0"):
        line_deviation(torch.randn(1, 4))
