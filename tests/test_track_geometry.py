# SPDX-License-Identifier: MIT
"""Every per-track number: values, degenerate tracks, gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
from assert_accurate import assert_accurate
from known_tracks import DTYPES, LAYOUTS, SHAPES, arc, laid_out, line, random_tracks
from scipy.spatial.distance import cosine, euclidean
from scipy.stats import variation

from geodesic_fast import TrackGeometry, lss, reference, track_geometry

FLOAT_FIELDS = TrackGeometry._fields[:-1]
# arccos magnifies the rounding of a cosine near +-1 to its square root
CONDITION = {"turning_angle": 40.0, "lss_normalized": 4.0, "step_cv": 8.0}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_float64_reference(shape, dtype, layout, device):
    tracks = random_tracks(shape, dtype, device)
    arranged, dim = laid_out(tracks, layout)
    got, plain = track_geometry(arranged, dim=dim), reference.track_geometry(tracks)
    truth = reference.track_geometry(tracks.double())
    bends = truth.lss.where(truth.lss.isfinite(), 1.0)
    for name in FLOAT_FIELDS:
        condition = 4 * bends * CONDITION.get(name, 1.0)
        fields = (getattr(geometry, name) for geometry in (got, plain, truth))
        assert_accurate(*fields, condition=condition, name=name)
    assert torch.equal(got.zero_steps, truth.zero_steps)
    assert torch.equal(got.lss, lss(arranged, dim=dim))


def test_each_field_against_scipy(device):
    track = np.random.default_rng(0).normal(size=(8, 5)).cumsum(0)
    steps = np.diff(track, axis=0)
    lengths = [euclidean(a, b) for a, b in itertools.pairwise(track)]
    cosines = [1 - cosine(a, b) for a, b in itertools.pairwise(steps)]
    got = track_geometry(torch.from_numpy(track).to(device))
    expected = {
        "path_length": sum(lengths),
        "chord": euclidean(track[0], track[-1]),
        "straightness": euclidean(track[0], track[-1]) / sum(lengths),
        "adjacent_cosine": np.mean(cosines),
        "turning_angle": np.mean(np.arccos(cosines)),
        "step_cv": variation(lengths),
        "action": 7 * np.sum(np.square(lengths)),
        "lss_normalized": (got.lss.item() - 1) / (math.sqrt(7) - 1),
        "zero_steps": 0,
    }
    for name, value in expected.items():
        assert getattr(got, name).item() == pytest.approx(value, rel=1e-13), name


def test_known_answers(device):
    points, expected_lss = arc(9, 0.3)
    got = track_geometry(points.to(device))
    assert got.lss.item() == pytest.approx(expected_lss, rel=1e-13)
    assert got.turning_angle.item() == pytest.approx(0.3, rel=1e-12)
    assert got.adjacent_cosine.item() == pytest.approx(math.cos(0.3), rel=1e-13)
    assert got.path_length.item() == pytest.approx(9, rel=1e-13)
    assert got.action.item() == pytest.approx(81, rel=1e-13)
    assert got.step_cv.item() == pytest.approx(0, abs=1e-7)
    straight = track_geometry(line(12, 5).to(device))
    assert straight.straightness.item() == pytest.approx(1, rel=1e-13)
    assert straight.lss_normalized.item() == pytest.approx(0, abs=1e-13)
    assert straight.action.item() >= straight.chord.item() ** 2


@pytest.mark.parametrize("policy", ["skip", "keep", "propagate"])
def test_zero_steps_match_the_reference(policy, device):
    tracks = random_tracks((9, 60, 5), torch.float64, device)
    for layer in range(1, 10):
        rests = torch.rand(60, device=device) < 0.35
        tracks[layer, rests] = tracks[layer - 1, rests]
    got, truth = (f(tracks, zero_step=policy) for f in (track_geometry, reference.track_geometry))
    for name in TrackGeometry._fields:
        torch.testing.assert_close(
            getattr(got, name), getattr(truth, name), rtol=1e-10, atol=1e-12, equal_nan=True, msg=name
        )
    if truth.zero_steps.any():
        with pytest.raises(ValueError, match="no step of length zero"):
            track_geometry(tracks, zero_step="raise")


def test_rest_and_one_step(device):
    rest = track_geometry(torch.ones(4, 3, device=device))
    assert rest.zero_steps.item() == 3
    assert (rest.path_length, rest.chord, rest.action) == (0, 0, 0)
    for name in ("lss", "lss_normalized", "straightness", "adjacent_cosine", "turning_angle", "step_cv"):
        assert getattr(rest, name).isnan(), name
    single = track_geometry(torch.tensor([[0.0, 0.0], [3.0, 4.0]], device=device))
    assert (single.lss, single.path_length, single.chord, single.action) == (1, 5, 5, 25)
    assert (single.straightness, single.step_cv, single.zero_steps) == (1, 0, 0)
    assert single.lss_normalized.isnan()
    assert single.adjacent_cosine.isnan()
    assert single.turning_angle.isnan()


def test_nan_and_inf_stay_in_their_track(device):
    tracks = random_tracks((6, 5, 40), torch.float32, device)
    clean = track_geometry(tracks)
    for value in (math.nan, math.inf):
        broken = tracks.clone()
        broken[3, 2, 17] = value
        for name, got, before in zip(TrackGeometry._fields, track_geometry(broken), clean, strict=True):
            others = [0, 1, 3, 4]
            assert torch.equal(got[others], before[others]), name
            assert name == "zero_steps" or got[2].isnan(), name


def test_huge_and_tiny_coordinates_in_float32(device):
    for scale in (1e30, 1e-30):
        tracks = (torch.rand(8, 5, 300, dtype=torch.float64) * 2 - 1).mul(scale).float()
        got, truth = track_geometry(tracks.to(device)), reference.track_geometry(tracks.double())
        for name in FLOAT_FIELDS:
            expected = getattr(truth, name).float()
            torch.testing.assert_close(getattr(got, name).cpu(), expected, rtol=2e-6, atol=0, msg=name)


def test_no_tracks_give_no_numbers(device):
    got = track_geometry(torch.zeros(3, 0, 4, device=device))
    assert all(field.shape == (0,) for field in got)


@pytest.mark.parametrize("name", FLOAT_FIELDS)
def test_gradcheck_of_each_field(name, device):
    tracks = random_tracks((5, 3, 4), torch.float64, device).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: getattr(track_geometry(x), name), tracks)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("policy", ["skip", "keep"])
@pytest.mark.parametrize("shape", [(9, 30, 5), (4, 3, 1111), (3, 2, 4100)], ids=str)
def test_gradient_of_any_weighted_sum(shape, policy, layout, device):
    tracks = random_tracks(shape, torch.float64, device)
    for layer in range(2, shape[0] + 1):
        rests = torch.rand(shape[1], device=device) < 0.2
        tracks[layer, rests] = tracks[layer - 1, rests]
    weights = torch.randn(len(FLOAT_FIELDS), *shape[1:-1], dtype=torch.float64, device=device)

    def total(geometry):
        return sum((w * f.nan_to_num()).sum() for w, f in zip(weights, geometry[:-1], strict=True))

    arranged, dim = laid_out(tracks, layout)
    leaves = [x.requires_grad_() for x in (arranged if layout == "list" else [arranged])]
    found = torch.autograd.grad(total(track_geometry(arranged, dim=dim, zero_step=policy)), leaves)
    found = torch.stack(found) if layout == "list" else found[0].movedim(dim, 0)
    tracks.requires_grad_()
    (truth,) = torch.autograd.grad(total(reference.track_geometry(tracks, zero_step=policy)), tracks)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-12 * truth.abs().max().item())
