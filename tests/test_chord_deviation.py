# SPDX-License-Identifier: MIT
"""Chord deviation: values, gradients, wrong calls."""

import math

import numpy as np
import pytest
import torch
from assert_accurate import assert_accurate
from hypothesis import given, settings
from hypothesis import strategies as st
from known_tracks import DTYPES, LAYOUTS, SHAPES, gradient, laid_out, line, random_tracks
from torch.library import opcheck

from geodesic_fast import chord_deviation, reference
from geodesic_fast.engine import chord_deviation as operation


def true_deviation(tracks):
    """Return (n+1, *batch) in extended precision: the least-squares residual of NumPy, over the chord."""
    x = tracks.detach().double().cpu().numpy().astype(np.longdouble)
    chord = x[-1] - x[0]
    c = np.sqrt((chord**2).sum(-1, keepdims=True))
    w = (x - x[0]) / c
    e = chord / c
    off = w - (w * e).sum(-1, keepdims=True) * e
    return torch.as_tensor(np.sqrt((off**2).sum(-1)).astype(np.float64))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_extended_precision(shape, dtype, layout, device):
    tracks = random_tracks(shape, dtype, device)
    if shape[-1] == 1:  # a line is all there is
        tracks[-1] += tracks[-1] == tracks[0]
    arranged, dim = laid_out(tracks, layout)
    got = chord_deviation(arranged, dim=dim)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert got.device == tracks.device
    assert (got[0] == 0).all()
    assert (got[-1] == 0).all()
    plain = reference.chord_deviation(tracks)
    reach = (tracks.double() - tracks[0].double()).norm(dim=-1) / (tracks[-1] - tracks[0]).double().norm(
        dim=-1
    )
    scale = true_deviation(tracks).max().clamp(min=1e-300)
    assert_accurate(got, plain, true_deviation(tracks), condition=(reach.max().cpu() / scale).clamp(1, 1e12))


def test_a_straight_line_is_zero(device):
    assert chord_deviation(line(20, 6).to(device)).abs().max().item() < 1e-15
    grid = torch.arange(5.0, device=device)[:, None] * torch.tensor([3.0, 0.0, -4.0], device=device)
    assert torch.equal(chord_deviation(grid), torch.zeros(5, device=device))


def test_half_a_circle_stands_half_its_chord_high(device):
    angle = torch.linspace(0, math.pi, 9, dtype=torch.float64, device=device)
    circle = torch.stack((angle.cos(), angle.sin()), -1)
    torch.testing.assert_close(chord_deviation(circle), angle.sin() / 2, rtol=0, atol=1e-15)


def test_invariances(device):
    tracks = random_tracks((9, 6, 5), torch.float64, device)
    expected = chord_deviation(tracks)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q.to(device)
    for same in (tracks + 1e3, tracks @ rotation, tracks * 7.5, -tracks):
        torch.testing.assert_close(chord_deviation(same), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(chord_deviation(tracks.flip(0)), expected.flip(0), rtol=0, atol=1e-13)


def test_an_offset_costs_no_more_than_its_rounding(device):
    steps = torch.randint(-8, 9, (12, 4, 16)).float() + 0.5
    tracks = torch.cat((torch.zeros(1, 4, 16), steps.cumsum(0))).to(device)
    torch.testing.assert_close(chord_deviation(tracks + 65536.0), chord_deviation(tracks), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1.5e38, 1e-38])
def test_huge_and_tiny_coordinates_in_float32(scale, device):
    tracks = (torch.rand(8, 5, 300, dtype=torch.float64) * 2 - 1).mul(scale).float()
    moderate = reference.chord_deviation((tracks.double() / scale).float())
    assert_accurate(chord_deviation(tracks.to(device)), moderate, true_deviation(tracks))


def test_a_track_without_a_chord_is_nan(device):
    tracks = random_tracks((4, 3, 5), torch.float32, device)
    tracks[-1, 1] = tracks[0, 1]
    for metric in (chord_deviation, reference.chord_deviation):
        assert torch.equal(metric(tracks).isnan().all(0).cpu(), torch.tensor([False, True, False]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("layer", [0, 2, 4])
def test_nan_and_inf_stay_where_they_are(value, layer, device):
    tracks = random_tracks((4, 3, 40), torch.float32, device)
    clean = chord_deviation(tracks)
    tracks[layer, 1, 17] = value
    expected = clean.clone()
    expected[slice(None) if layer in (0, 4) else layer, 1] = torch.nan
    for metric in (chord_deviation, reference.chord_deviation):
        torch.testing.assert_close(metric(tracks), expected, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 20), st.integers(1, 9), st.integers(2, 70), st.integers(0, 2**31), st.sampled_from(LAYOUTS)
)
def test_any_shape_and_stride(steps, m, features, seed, layout):
    torch.manual_seed(seed)
    tracks = random_tracks((steps, m, features), torch.float32)
    arranged, dim = laid_out(tracks, layout)
    truth, plain = reference.chord_deviation(tracks.double()), reference.chord_deviation(tracks)
    reach = (tracks - tracks[0]).norm(dim=-1).max() / (tracks[-1] - tracks[0]).norm(dim=-1).min()
    condition = (reach / truth.max().clamp(min=1e-30)).clamp(min=1)
    assert_accurate(chord_deviation(arranged, dim=dim), plain, truth, condition=condition)


def test_does_not_depend_on_the_number_of_threads():
    tracks = random_tracks((30, 500, 40), torch.float32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append(chord_deviation(tracks))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(other, found[0]) for other in found)


def test_empty_and_single_shapes(device):
    assert chord_deviation(torch.zeros(3, 0, 5, device=device)).shape == (3, 0)
    assert torch.equal(chord_deviation(torch.randn(2, 5, device=device)), torch.zeros(2, device=device))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 6, 3), (12, 90, 64), (33, 4, 770), (5, 2, 5000)], ids=str)
def test_gradients_match_the_float64_reference(shape, dtype, layout, device):
    tracks = random_tracks(shape, dtype, device)
    weights = torch.randn(shape[0] + 1, shape[1], dtype=torch.float64, device=device)
    arranged, dim = laid_out(tracks, layout)
    found = gradient(lambda x: chord_deviation(x, dim=dim), arranged, weights).movedim(dim, 0)
    plain = gradient(reference.chord_deviation, tracks.clone(), weights)
    truth = gradient(reference.chord_deviation, tracks.double(), weights)
    subnormal = 1 + (dtype == torch.float16) * 6e-5 / truth.abs().max()  # where halves are evenly spaced
    assert_accurate(found, plain, truth, condition=subnormal)


def test_gradcheck_and_identities(device):
    tracks = random_tracks((5, 3, 4), torch.float64, device).requires_grad_()
    assert torch.autograd.gradcheck(chord_deviation, tracks)
    layers = [layer.detach().clone().requires_grad_() for layer in tracks]
    assert torch.autograd.gradcheck(lambda *x: chord_deviation(x), layers)
    found = gradient(chord_deviation, tracks, torch.randn(6, 3, device=device))
    torch.testing.assert_close(found.sum(0), torch.zeros_like(found[0]), rtol=0, atol=1e-14)
    along = (found * (tracks.detach() - tracks.detach()[0])).sum((0, -1))
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-13)


def test_no_gradient_comes_from_points_on_the_line_or_unweighted_tracks(device):
    tracks = torch.stack((line(4, 5), random_tracks((4, 5), torch.float64)), 1).to(device)
    tracks[:, 0] = torch.arange(5.0, device=device)[:, None] * torch.tensor([1.0, 0, 0, 0, 0], device=device)
    tracks[-1, 1] = tracks[0, 1]  # NaN
    weights = torch.tensor([1.0, 0.0], device=device)
    assert torch.equal(gradient(chord_deviation, tracks, weights), torch.zeros_like(tracks))


@pytest.mark.engine
def test_second_derivatives_and_forward_mode_say_what_to_do():
    tracks = random_tracks((4, 3, 5), torch.float64).requires_grad_()
    (first,) = torch.autograd.grad(chord_deviation(tracks).sum(), tracks, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"use geodesic_fast\.reference\.chord_deviation"):
        torch.autograd.grad(first.sum(), tracks)
    with pytest.raises(NotImplementedError, match=r"forward-mode.*reference\.chord_deviation"):
        torch.func.jvp(chord_deviation, (tracks.detach(),), (tracks.detach(),))


@pytest.mark.engine
@pytest.mark.parametrize("listed", [False, True])
def test_opcheck(listed, device):
    tracks = random_tracks((5, 3, 8), torch.float32, device)
    layers = [layer.clone().requires_grad_() for layer in tracks] if listed else [tracks.requires_grad_()]
    opcheck(operation.chord_deviation.registered, (layers, True))
    given = [torch.rand(6, 3, device=device) for _ in range(2)]
    given.append(torch.rand(2, 6, 3, device=device))
    opcheck(
        operation.chord_deviation_backward.registered, (given[0], [t.detach() for t in layers], *given[1:])
    )


def test_compiled_in_one_graph(device):
    tracks = random_tracks((6, 4, 16), torch.float32, device).requires_grad_()

    def penalty(x):
        return chord_deviation(x * 1.5).square().mean()

    compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(tracks), tracks)[0]
    torch.testing.assert_close(found, torch.autograd.grad(penalty(tracks), tracks)[0])


def test_says_what_is_wrong():
    with pytest.raises(TypeError, match=r"tracks must be a torch\.Tensor"):
        chord_deviation("tracks")
    with pytest.raises(ValueError, match="at least 2 layers along dim 0"):
        chord_deviation(torch.randn(1, 4))
