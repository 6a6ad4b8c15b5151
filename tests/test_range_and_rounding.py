# SPDX-License-Identifier: MIT
"""Where formulas lose their digits or leave their range: with the engine, layer by layer, and without it."""

import math

import numpy as np
import pytest
import torch
from assert_accurate import assert_accurate
from known_tracks import DTYPES, gradient

import geodesic_fast as gf
from geodesic_fast.engine import load

FIELDS = gf.TrackGeometry._fields[:-1]
METRICS = {
    "lss": gf.lss,
    "chord_deviation": gf.chord_deviation,
    "line_deviation": lambda x: gf.line_deviation(x, reduction="none"),
    "track_distance": gf.track_distance,
    **{name: (lambda x, name=name: getattr(gf.track_geometry(x), name)) for name in FIELDS},
}


@pytest.fixture(params=[pytest.param("engine", marks=pytest.mark.engine), "reference"])
def way(request, monkeypatch):
    """Take either way to an answer."""
    if request.param == "reference":
        monkeypatch.setitem(load._REASONS, "cpu", "it is left out of this test.")
        monkeypatch.setattr(load, "_warned", {"cpu"})
    return request.param


def accumulated(tracks):
    accumulator = gf.TrackAccumulator()
    for layer in tracks:
        accumulator.push(layer)
    return accumulator.geometry


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_score_is_below_one_and_no_cosine_above(dtype, way):
    for length in range(1, 81):
        direction = torch.randn(4, 40, dtype=torch.float64)
        tracks = (torch.arange(length + 1.0)[:, None, None] * direction * 0.05).to(dtype)
        for geometry in (gf.track_geometry(tracks), accumulated(tracks)):
            assert (geometry.lss >= 1).all()
            assert (geometry.straightness <= 1).all()
            assert length == 1 or (geometry.adjacent_cosine <= 1).all()
        assert (gf.lss(tracks) >= 1).all()
        assert (gf.line_deviation(tracks, reduction="none") >= 0).all()
        assert (gf.line_deviation(tracks) >= 0).all()


@pytest.mark.parametrize("near", ["0", "pi"])
@pytest.mark.parametrize("angle", [1e-2, 1e-4, 1e-6, 1e-8])
def test_small_angles_keep_their_digits(angle, near, way):
    for steps in (2, 9):
        turns = np.arange(steps) * (angle if near == "0" else math.pi - angle)
        points = np.concatenate((np.zeros((1, 2)), np.stack((np.cos(turns), np.sin(turns)), -1).cumsum(0)))
        v = np.diff(points.astype(np.longdouble), axis=0)
        cross = v[:-1, 0] * v[1:, 1] - v[:-1, 1] * v[1:, 0]
        true = np.arctan2(np.abs(cross), (v[:-1] * v[1:]).sum(-1)).mean()
        tracks = torch.as_tensor(points)
        for geometry in (gf.track_geometry(tracks), accumulated(tracks)):
            assert abs(geometry.turning_angle.item() - true) < 1e-15
        slope = gradient(lambda x: gf.track_geometry(x).turning_angle, tracks.clone(), 1.0)
        u = v / np.sqrt((v * v).sum(-1, keepdims=True))
        side = np.sign(cross)[:, None] * np.stack((-u[:, 1], u[:, 0]), -1)[:-1]  # d angle / d u_2
        last = (
            np.sign(cross[-1]) * np.array([-u[-1, 1], u[-1, 0]]) / np.sqrt((v[-1] ** 2).sum()) / (steps - 1)
        )
        assert np.abs(slope[-1].numpy() - last).max() < 1e-14 / angle, side


def test_a_u_turn_and_equal_steps_pass_no_gradient(way):
    there_and_back = torch.tensor([[0.0, 0.0], [3.0, 1.0], [0.0, 0.0], [3.0, 1.0]])
    assert (gradient(lambda x: gf.track_geometry(x).turning_angle, there_and_back, 1.0) == 0).all()
    staircase = torch.tensor([[0, 0], [1, 0], [1, 1], [2, 1]], dtype=torch.float64)
    assert (gradient(lambda x: gf.track_geometry(x).step_cv, staircase, 1.0) == 0).all()


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_masked_sends_no_gradient(name, value, way):
    tracks = torch.randn(5, 3, 4, dtype=torch.float64).cumsum(0)
    tracks[2, 1, 0] = value  # a broken track
    tracks[:, 2] = tracks[0, 2]  # one that rests
    tracks.requires_grad_()
    answer = METRICS[name](tracks)
    counted = answer.isfinite()
    assert not counted.all()
    (found,) = torch.autograd.grad(answer[counted].sum(), tracks)
    assert found.isfinite().all()
    assert (found[:, 0] != 0).any()
    assert (found[2, 1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_coordinates_at_the_edge_of_the_type(dtype, way):
    moderate = (torch.rand(6, 4, 30, dtype=torch.float64) * 2 - 1).to(dtype)
    most = 2.0 ** (127 if dtype == torch.float32 else 1023)
    huge = moderate * most  # exact; differences overflow, and so do lengths
    for got in (gf.track_geometry(huge), accumulated(huge)):
        expected = gf.track_geometry(moderate)
        for name in ("lss", "lss_normalized", "straightness", "adjacent_cosine", "turning_angle", "step_cv"):
            torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=1e-6, atol=1e-6)
        assert got.path_length.isinf().all()
        assert got.action.isinf().all()
    torch.testing.assert_close(
        accumulated(huge).step_cv, gf.track_geometry(moderate).step_cv, rtol=1e-6, atol=0
    )
    torch.testing.assert_close(gf.chord_deviation(huge), gf.chord_deviation(moderate), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gf.line_deviation(huge), gf.line_deviation(moderate), rtol=1e-5, atol=1e-6)
    smaller = 2.0**-20  # keeps the gradient, which is as small as the track is large, out of the subnormals
    for metric in (gf.lss, gf.chord_deviation, lambda x: gf.track_geometry(x).step_cv):
        found = gradient(metric, huge.clone(), 1.0).double() * most * smaller
        truth = gradient(metric, moderate.clone(), 1.0).double() * smaller
        torch.testing.assert_close(found, truth, rtol=1e-2, atol=1e-2 * truth.abs().max().item())


@pytest.mark.parametrize("scale", [1e20, 1e-30])
def test_evenness_does_not_depend_on_scale(scale, way):
    tracks = torch.randn(8, 5, 6).cumsum(0)
    expected = gf.track_geometry(tracks).step_cv
    torch.testing.assert_close(gf.track_geometry(tracks * scale).step_cv, expected, rtol=1e-5, atol=0)
    wide = tracks.double() * scale**8
    torch.testing.assert_close(accumulated(wide).step_cv.float(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gf.track_geometry(wide).step_cv.float(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("dtype", "part"), [(torch.float32, 1e-21), (torch.float64, 1e-200)])
def test_nearly_closed_tracks_stand_far_off_their_chord(dtype, part, way):
    tracks = torch.tensor([[0.0, 0.0], [0.0, 2.0], [1.0, 1.0], [part, 0.0]], dtype=dtype)
    expected = torch.tensor([0.0, 2 / part, 1 / part, 0.0], dtype=dtype)
    torch.testing.assert_close(gf.chord_deviation(tracks), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("steps", "features"), [(2, 2), (5, 2), (3, 3), (6, 40)])
def test_the_gradient_of_a_nearly_straight_track(steps, features, dtype, way):
    unit = torch.finfo(dtype).eps
    for bend in (1e-1, 1e-3, unit * 1e3):
        line = torch.arange(steps + 1.0, dtype=torch.float64)[:, None, None] * torch.randn(50, features)
        tracks = (line + bend * torch.randn(steps + 1, 50, features, dtype=torch.float64)).to(dtype)
        weights = torch.rand(steps + 1, 50, dtype=torch.float64)
        found = gradient(gf.chord_deviation, tracks.clone(), weights.to(dtype))
        plain = gradient(gf.reference.chord_deviation, tracks.clone(), weights.to(dtype))
        truth = torch.as_tensor(true_chord_gradient(tracks, weights.to(dtype)))
        assert_accurate(found, plain, truth, condition=4.0)


def true_chord_gradient(tracks, weights):
    """Return the gradient in extended precision, from the formula in csrc/chord_deviation.h."""
    x, g = tracks.numpy().astype(np.longdouble), weights.numpy().astype(np.longdouble)[..., None]
    w, chord = x - x[0], x[-1] - x[0]
    c = np.sqrt((chord**2).sum(-1, keepdims=True))
    e = chord / c
    along = (w * e).sum(-1, keepdims=True) / c
    off = w - along * chord
    off -= (off * e).sum(-1, keepdims=True) * e
    height = np.sqrt((off**2).sum(-1, keepdims=True))
    height[[0, -1]] = 1
    found = g * off / height / c
    found[[0, -1]] = 0
    stretch = (g * height / c)[1:-1].sum(0)
    found[-1] = -(along * found).sum(0) - stretch * e / c
    found[0] = -found.sum(0)
    return found.astype(np.float64)


def test_ties_have_their_gradient_at_the_lowest_layer(way):
    tracks = torch.randint(-2, 3, (4, 40, 3)).float()
    for moved in (tracks, tracks + 1000.0, tracks.double()):
        moved = moved.clone().requires_grad_()
        distance = gf.track_distance(moved)
        each = (moved.detach()[:, :, None] - moved.detach()[:, None]).double().square().sum(-1)
        for i in range(0, 40, 3):
            (found,) = torch.autograd.grad(distance[i].sum(), moved, retain_graph=True)
            wanted = torch.zeros(4, 40, dtype=torch.bool)
            lowest = each[:, i].argmin(0)
            wanted[lowest, torch.arange(40)] = each[:, i].amin(0) > 0
            others = torch.arange(40) != i
            assert torch.equal((found != 0).any(-1)[:, others], wanted[:, others])


# Points whose distances stay apart when they are rounded to whole numbers; the last two are one.
FAR_APART = [(0, 0), (1, 1), (7, 1), (20, 9), (70, -40), (-300, 100), (-300, 100)]
DISTANCES = {
    "track_distance": lambda x: gf.track_distance(x),
    "of two sets": lambda x: gf.track_distance(x[:, :3], x[:, 3:]),
    "nearest_track": lambda x: gf.nearest_track(x).distance,
}


@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_distances_of_any_size_have_their_gradient(dtype, kind, way):
    """From the smallest number that is not 0 to the largest: times a power of two it is the same gradient."""
    points = torch.tensor(FAR_APART, dtype=torch.float64)
    between = points[:, None] - points  # (m, m, d)
    all_pairs = between.square().sum(-1).sqrt()
    sent = torch.zeros_like(all_pairs)
    if kind == "track_distance":
        expected, sent[:] = all_pairs, torch.rand(7, 7)
        weights = sent
    elif kind == "of two sets":
        expected, sent[:3, 3:] = all_pairs[:3, 3:], torch.rand(3, 4)
        weights = sent[:3, 3:]
    else:
        expected, nearest = all_pairs.clone().fill_diagonal_(math.inf).min(1)
        weights = torch.rand(7).double()
        sent[torch.arange(7), nearest] = weights
    along = sent[..., None] * (between / all_pairs[..., None]).nan_to_num()
    truth = torch.zeros(3, *points.shape, dtype=torch.float64)
    truth[1] = along.sum(1) - along.sum(0)
    lowest, highest, digits = (-149, 115, 24) if dtype == torch.float32 else (-1074, 1011, 53)
    for power in [lowest, lowest + 1, *range(lowest + 2, highest, 13 * digits // 24), highest]:
        tracks = torch.stack((4 * points, points, 8 * points))
        tracks = torch.tensor(np.ldexp(tracks.numpy(), power), dtype=dtype)
        found = np.ldexp(DISTANCES[kind](tracks).double().numpy(), -power)
        off = torch.finfo(dtype).eps * expected + (0.5 if power < lowest + digits else 0)
        assert (np.abs(found - expected.numpy()) <= off.numpy()).all()
        for size in (1.0, 2.0**-20, 2.0**20):
            got = gradient(DISTANCES[kind], tracks.clone(), (weights * size).to(dtype)).double() / size
            torch.testing.assert_close(got, truth, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_references_have_second_derivatives():
    tracks = torch.randn(4, 5, 3, dtype=torch.float64).requires_grad_()
    total = lambda x: sum(gf.reference.track_geometry(x)[:-1])  # noqa: E731
    references = gf.reference.track_distance, gf.reference.lss, gf.reference.chord_deviation
    for definition in (*references, gf.reference.line_deviation, total):
        (first,) = torch.autograd.grad(definition(tracks).sum(), tracks, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), tracks)
        assert second.isfinite().all()
        assert (second != 0).any()


def test_gradients_of_long_rows(way):
    tracks = torch.randn(5, 1, 52_000).cumsum(0)
    found = gradient(gf.lss, tracks.clone(), 1.0)
    plain = gradient(gf.reference.lss, tracks.clone(), 1.0)
    truth = gradient(gf.reference.lss, tracks.double(), 1.0)
    assert_accurate(found, plain, truth)
