# SPDX-License-Identifier: MIT
"""Gradients of the line deviation, alone, in training, and through torch's compilers."""

import pytest
import torch
from assert_accurate import assert_accurate
from known_tracks import DTYPES, LAYOUTS, gradient, laid_out, random_tracks
from torch.library import opcheck

from geodesic_fast import line_deviation, reference
from geodesic_fast.engine import line_deviation as operation

REDUCTIONS = ("mean", "none")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 6, 3), (12, 90, 64), (7, 4, 33), (70, 2, 130), (520, 2, 3), (5, 2, 5000)], ids=str
)
def test_matches_the_float64_reference(shape, dtype, layout, reduction, device):
    tracks = random_tracks(shape, dtype, device)
    weights = torch.randn(shape[0], shape[0], dtype=torch.float64, device=device)
    arranged, dim = laid_out(tracks, layout)
    found = gradient(lambda x: line_deviation(x, dim=dim, reduction=reduction), arranged, weights)
    found = found.movedim(dim, 0)

    def definition(x):
        return reference.line_deviation(x, reduction=reduction)

    plain = gradient(definition, tracks.clone(), weights)
    truth = gradient(definition, tracks.double(), weights)
    subnormal = 1 + (dtype == torch.float16) * 6e-5 / truth.abs().max()  # where halves are evenly spaced
    assert_accurate(found, plain, truth, condition=subnormal)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck(reduction, device):
    tracks = random_tracks((5, 3, 4), torch.float64, device).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: line_deviation(x, reduction=reduction), tracks)
    layers = [layer.detach().clone().requires_grad_() for layer in tracks]
    assert torch.autograd.gradcheck(lambda *x: line_deviation(x, reduction=reduction), layers)


def test_identities(device):
    tracks = random_tracks((9, 6, 20), torch.float64, device)
    found = gradient(line_deviation, tracks, torch.randn(9, 9, device=device))
    torch.testing.assert_close(found.sum(0), torch.zeros_like(found[0]), rtol=0, atol=1e-13)
    along = (found * (tracks.detach() - tracks.detach()[0])).sum((0, -1))
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-12)


@pytest.mark.parametrize("policy", ["skip", "keep"])
def test_a_step_of_length_zero_passes_no_gradient(policy, device):
    tracks = random_tracks((6, 3, 5), torch.float64, device)
    tracks[3, 1] = tracks[2, 1]
    weights = torch.randn(6, 6, dtype=torch.float64, device=device)
    found = gradient(lambda x: line_deviation(x, zero_step=policy), tracks.clone(), weights)
    expected = gradient(lambda x: reference.line_deviation(x, zero_step=policy), tracks.clone(), weights)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("policy", ["skip", "propagate"])
def test_a_pair_without_any_track_passes_no_gradient_to_the_others(policy, device):
    tracks = random_tracks((6, 1, 7), torch.float32, device)
    tracks[3] = tracks[2]
    weights = torch.randn(6, 6, dtype=torch.float64, device=device)

    def mean_of_defined(metric):
        return lambda x: metric(x, zero_step=policy).nan_to_num()

    found = gradient(mean_of_defined(line_deviation), tracks.clone(), weights)
    plain = gradient(mean_of_defined(reference.line_deviation), tracks.clone(), weights)
    truth = gradient(mean_of_defined(reference.line_deviation), tracks.double(), weights)
    assert_accurate(found, plain, truth)


def test_a_broken_track_leaves_the_gradients_of_the_others(device):
    tracks = random_tracks((6, 3, 5), torch.float64, device)
    weights = torch.ones(6, 6, dtype=torch.float64, device=device)
    clean = gradient(lambda x: line_deviation(x, reduction="none"), tracks.clone(), weights)
    tracks[2, 1, 0] = torch.nan
    found = gradient(lambda x: line_deviation(x, reduction="none"), tracks.clone(), weights)
    assert torch.equal(found[:, [0, 2]], clean[:, [0, 2]])


@pytest.mark.engine
def test_second_derivatives_say_what_to_do():
    tracks = random_tracks((4, 3, 5), torch.float64).requires_grad_()
    (first,) = torch.autograd.grad(line_deviation(tracks).sum(), tracks, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"use geodesic_fast\.reference\.line_deviation"):
        torch.autograd.grad(first.sum(), tracks)


def test_autocast_leaves_it_alone(device):
    tracks = random_tracks((6, 3, 50), torch.float32, device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        got, plain = line_deviation(tracks), reference.line_deviation(tracks)
    assert torch.equal(got, line_deviation(tracks))
    assert torch.equal(plain, reference.line_deviation(tracks))
    assert reference.line_deviation(tracks.to("meta")).shape == (6, 6)


@pytest.mark.engine
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("listed", [False, True])
def test_opcheck(each, listed, device):
    tracks = random_tracks((5, 3, 8), torch.float32, device)
    layers = [layer.clone().requires_grad_() for layer in tracks] if listed else [tracks.requires_grad_()]
    opcheck(operation.line_deviation.registered, (layers, "skip", each))
    weights = torch.randn(3, 5, 5, device=device) if each else torch.randn(5, 5, device=device)
    opcheck(operation.line_deviation_backward.registered, (weights, [t.detach() for t in layers], each))


def test_compiled_in_one_graph(device):
    tracks = random_tracks((6, 4, 16), torch.float32, device).requires_grad_()

    def penalty(x):
        return line_deviation(x * 1.5).mean() + line_deviation(x, reduction="none").square().mean()

    compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(tracks), tracks)[0]
    torch.testing.assert_close(found, torch.autograd.grad(penalty(tracks), tracks)[0])


def test_descent_straightens(device):
    tracks = random_tracks((8, 20, 6), torch.float32, device).requires_grad_()
    before = line_deviation(tracks).mean().item()
    optimiser = torch.optim.SGD([tracks], lr=20.0)
    for _ in range(50):
        optimiser.zero_grad()
        line_deviation(tracks).mean().backward()
        optimiser.step()
    assert line_deviation(tracks).mean().item() < 0.5 * before
