# SPDX-License-Identifier: MIT
"""lss and track_geometry at the ends of what they take: wide, deep, many layers, many values, memory."""

import math

import pytest
import torch
from assert_accurate import assert_accurate
from known_tracks import random_tracks, true_lss
from peak_memory import peak_above_now

from geodesic_fast import lss, reference, track_geometry


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(3, 2, 262_144), (3000, 2, 70), (5000, 1, 90)], ids=str)
def test_wide_and_deep(shape, dtype, device):
    torch.manual_seed(0)
    tracks = random_tracks(shape, dtype, device)
    truth = true_lss(tracks)
    assert_accurate(lss(tracks), reference.lss(tracks), truth, condition=truth)
    leaf = tracks.clone().requires_grad_()
    (found,) = torch.autograd.grad(lss(leaf).sum(), leaf)
    leaf = tracks.double().requires_grad_()
    (exact,) = torch.autograd.grad(reference.lss(leaf).sum(), leaf)
    leaf = tracks.clone().requires_grad_()
    (plain,) = torch.autograd.grad(reference.lss(leaf).sum(), leaf)
    assert_accurate(found, plain, exact, condition=truth.max())


def test_a_list_of_1024_layers(device):
    tracks = random_tracks((1023, 2, 40), torch.float32, device)
    layers = [layer.clone().requires_grad_() for layer in tracks]
    got = track_geometry(layers)
    truth = reference.track_geometry(tracks.double())
    torch.testing.assert_close(got.lss.double(), truth.lss, rtol=2e-6, atol=0)
    torch.testing.assert_close(got.path_length.double(), truth.path_length, rtol=1e-6, atol=0)
    found = torch.autograd.grad(got.lss.sum(), layers)
    leaf = tracks.double().requires_grad_()
    (exact,) = torch.autograd.grad(reference.lss(leaf).sum(), leaf)
    torch.testing.assert_close(torch.stack(found).double(), exact, rtol=1e-3, atol=2e-6 * exact.abs().max())


@pytest.mark.huge
def test_more_than_two_to_the_31_values(device):
    """Every track lies at the same place: the layout counts more values than the memory holds."""
    one = random_tracks((32, 1, 8192), torch.bfloat16, device)
    tracks = one.expand(-1, 8000, -1)
    assert tracks.numel() > 2**31
    assert torch.equal(lss(tracks), lss(one).expand(8000))


@pytest.mark.huge
def test_offsets_beyond_two_to_the_31(device):
    """Two tracks 2^31 values apart, in half precision: 4 GiB that are reserved, but hardly touched."""
    if device.type != "cpu":
        pytest.skip("a GPU reserves what it is asked for")
    apart = 2**31 + 64
    room = torch.empty(apart + 9 * 64, dtype=torch.bfloat16)
    tracks = room.as_strided((9, 2, 64), (64, apart, 1))
    tracks.copy_(random_tracks((8, 2, 64), torch.bfloat16))
    assert torch.equal(lss(tracks), lss(tracks.contiguous()))


@pytest.mark.parametrize("listed", [False, True], ids=["tensor", "list"])
@pytest.mark.parametrize("score", [lss, lambda x: track_geometry(x).lss], ids=["lss", "track_geometry"])
def test_memory_of_the_forward_pass(score, listed):
    """One value a track and output; nothing that grows with n m d."""
    tracks = torch.randn(17, 2000, 256)
    given = list(tracks) if listed else tracks
    score(given)
    peak = peak_above_now(lambda: score(given))
    assert peak is None or peak < 4 << 20  # the tracks take 33 MiB


def test_gradients_of_a_list_are_written_per_layer():
    """They take what they take, and no stacked copy beside them."""
    layers = [torch.randn(2000, 256).requires_grad_() for _ in range(17)]
    torch.autograd.grad(lss(layers).sum(), layers)
    peak = peak_above_now(lambda: torch.autograd.grad(lss(layers).sum(), layers))
    gradients = 17 * 4 * 2000 * 256
    assert peak is None or peak < 1.5 * gradients  # a stacked copy would make it twice as much


@pytest.mark.parametrize("scale", [1e30, 1.0, 1e-30])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("field", ["lss", "straightness", "turning_angle", "adjacent_cosine", "step_cv"])
def test_gradients_of_huge_and_tiny_tracks(field, dtype, scale, device):
    torch.manual_seed(0)
    tracks = (torch.randn(7, 5, 33, dtype=torch.float64).cumsum(0) * scale).to(dtype).to(device)

    def gradient(function, x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(getattr(function(x), field).sum(), x)[0] * scale

    found = gradient(track_geometry, tracks).double()
    exact = gradient(reference.track_geometry, tracks.double())
    assert found.isfinite().all()
    rounding = torch.finfo(dtype).eps * exact.abs() + 1e-5 * exact.abs().max()
    assert ((found - exact).abs() <= rounding).all(), (found - exact).abs().max() / exact.abs().max()


@pytest.mark.parametrize("policy", ["propagate", "raise"])
def test_gradients_under_the_other_zero_step_policies(policy, device):
    tracks = random_tracks((6, 4, 9), torch.float64, device)
    for function, definition in ((lss, reference.lss), (track_geometry, reference.track_geometry)):
        found, truth = (gradient_of(f, tracks, policy) for f in (function, definition))
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-12)
    tracks[3, 1] = tracks[2, 1]  # a step of length zero
    if policy == "propagate":
        found = gradient_of(lss, tracks, policy)
        others = [0, 2, 3]
        torch.testing.assert_close(found[:, others], gradient_of(lss, tracks[:, others], policy))
    else:
        with pytest.raises(ValueError, match="no step of length zero"):
            gradient_of(lss, tracks, policy)


def gradient_of(function, tracks, policy):
    leaf = tracks.clone().requires_grad_()
    result = function(leaf, zero_step=policy)
    total = result if isinstance(result, torch.Tensor) else sum(field.nan_to_num() for field in result[:-1])
    return torch.autograd.grad(total.nan_to_num().sum(), leaf)[0]


def test_second_derivatives_of_track_geometry_are_refused(device):
    leaf = random_tracks((4, 3, 5), torch.float64, device).requires_grad_()
    (first,) = torch.autograd.grad(track_geometry(leaf).action.sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.square().sum().backward()


def test_threads_do_not_change_gradients():
    tracks = random_tracks((9, 500, 96), torch.float32).requires_grad_()
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            geometry = track_geometry(tracks)
            found.append(torch.autograd.grad((geometry.lss + geometry.step_cv).sum(), tracks)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, found[0]) for each in found)
    assert math.isfinite(found[0].sum().item())
