# SPDX-License-Identifier: MIT
"""Gradients of the track distance, alone and through torch's compilers."""

import math

import pytest
import torch
from assert_accurate import assert_accurate
from known_tracks import DTYPES, LAYOUTS, gradient, laid_out, random_tracks
from torch.library import opcheck

from geodesic_fast import reference, track_distance
from geodesic_fast.engine import track_distance as operation


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 6, 3), (9, 70, 20), (4, 2, 3, 33), (3, 9, 1030)], ids=str)
def test_matches_the_float64_reference(shape, dtype, layout, device):
    tracks = random_tracks(shape, dtype, device)
    m = math.prod(shape[1:-1])
    weights = torch.randn(m, m, dtype=torch.float64, device=device)
    arranged, dim = laid_out(tracks, layout)
    found = gradient(lambda x: track_distance(x, dim=dim), arranged, weights).movedim(dim, 0)
    plain = gradient(reference.track_distance, tracks.clone(), weights)
    truth = gradient(reference.track_distance, tracks.double(), weights)
    subnormal = 1 + (dtype == torch.float16) * 6e-5 / truth.abs().max()  # where halves are evenly spaced
    assert_accurate(found, plain, truth, condition=subnormal)


@pytest.mark.parametrize("listed", [False, True])
def test_both_sets_get_their_gradient(listed, device):
    x, y = random_tracks((5, 30, 6), torch.float64, device), random_tracks((5, 17, 6), torch.float64, device)
    weights = torch.randn(30, 17, dtype=torch.float64, device=device)

    def both(metric):
        leaves = [t.clone().requires_grad_() for t in (x, y)]
        first, second = (list(t.unbind(0)) if listed else t for t in leaves)
        return torch.autograd.grad((metric(first, second) * weights).sum(), leaves)

    for got, expected in zip(both(track_distance), both(reference.track_distance), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    only = y.clone().requires_grad_()
    (found,) = torch.autograd.grad((track_distance(x, only) * weights).sum(), only)
    torch.testing.assert_close(found, both(reference.track_distance)[1], rtol=1e-11, atol=1e-12)


def test_gradcheck(device):
    tracks = random_tracks((4, 5, 3), torch.float64, device).requires_grad_()
    away = ~torch.eye(5, dtype=torch.bool, device=device)  # |v| has no derivative at 0
    assert torch.autograd.gradcheck(lambda x: track_distance(x)[away], tracks)
    other = random_tracks((4, 3, 3), torch.float64, device).requires_grad_()
    assert torch.autograd.gradcheck(track_distance, (tracks, other))


def test_a_distance_of_zero_passes_no_gradient(device):
    tracks = random_tracks((4, 6, 5), torch.float64, device)
    tracks[:, 3] = tracks[:, 1]
    found = gradient(track_distance, tracks.clone(), torch.ones(6, 6, dtype=torch.float64, device=device))
    assert found.isfinite().all()
    alone = gradient(
        track_distance, tracks[:, [1, 3]].clone(), torch.ones(2, 2, dtype=torch.float64, device=device)
    )
    assert (alone == 0).all()


def test_identities(device):
    tracks = random_tracks((5, 9, 7), torch.float64, device)
    found = gradient(track_distance, tracks, torch.randn(9, 9, dtype=torch.float64, device=device))
    torch.testing.assert_close(found.sum(1), torch.zeros_like(found[:, 0]), rtol=0, atol=1e-12)
    weighted = gradient(track_distance, tracks.detach().clone(), torch.ones(9, 9, device=device))
    scaled = (weighted * tracks.detach()).sum()  # Euler: distances are homogeneous of degree 1
    torch.testing.assert_close(scaled, track_distance(tracks.detach()).sum(), rtol=1e-12, atol=0)


@pytest.mark.engine
def test_second_derivatives_say_what_to_do():
    tracks = random_tracks((4, 3, 5), torch.float64).requires_grad_()
    (first,) = torch.autograd.grad(track_distance(tracks).sum(), tracks, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"use geodesic_fast\.reference\.track_distance"):
        torch.autograd.grad(first.sum(), tracks)


@pytest.mark.engine
def test_forward_mode_says_what_to_do():
    tracks = random_tracks((4, 3, 5), torch.float64)
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match=r"reference\.track_distance for jvp"),
    ):
        track_distance(torch.autograd.forward_ad.make_dual(tracks, torch.ones_like(tracks)))


@pytest.mark.engine
@pytest.mark.parametrize("listed", [False, True])
def test_opcheck(listed, device):
    tracks = random_tracks((5, 3, 8), torch.float32, device)
    layers = [layer.clone().requires_grad_() for layer in tracks] if listed else [tracks.requires_grad_()]
    for other in (None, [random_tracks((5, 4, 8), torch.float32, device)]):
        opcheck(operation.track_distance.registered, (layers, other, True))
        m = 4 if other else 3
        weights, distance = torch.randn(3, m, device=device), torch.rand(3, m, device=device)
        layer = torch.randint(6, (3, m), dtype=torch.int32, device=device)
        given = ([t.detach() for t in layers], other, bool(other))
        opcheck(operation.track_distance_backward.registered, (weights, distance, layer, *given))


def test_compiled_in_one_graph(device):
    tracks = random_tracks((6, 4, 16), torch.float32, device).requires_grad_()

    def spread(x):
        return -track_distance(x * 1.5).square().mean()

    compiled = torch.compile(spread, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(tracks), tracks)[0]
    torch.testing.assert_close(found, torch.autograd.grad(spread(tracks), tracks)[0])
