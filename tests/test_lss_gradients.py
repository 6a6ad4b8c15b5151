# SPDX-License-Identifier: MIT
"""Gradients of the line-shape score, alone, in training, and through torch's compilers."""

import pytest
import torch
from assert_accurate import assert_accurate
from known_tracks import DTYPES, LAYOUTS, laid_out, random_tracks
from torch.library import opcheck

from geodesic_fast import lss, reference
from geodesic_fast.engine import track_geometry as operation


def gradient(score, tracks, weights):
    """Return d(sum weights * score) / d tracks, for a tensor or a list."""
    leaves = tracks if isinstance(tracks, list) else [tracks]
    for leaf in leaves:
        leaf.requires_grad_()
    total = (score(tracks) * weights).sum()
    found = torch.autograd.grad(total, leaves)
    return torch.stack(found) if isinstance(tracks, list) else found[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 6, 3), (12, 6, 64), (7, 4, 33), (70, 2, 130), (3, 2, 8200)], ids=str)
def test_matches_the_float64_reference(shape, dtype, layout, device):
    tracks = random_tracks(shape, dtype, device)
    weights = torch.rand(shape[1:-1], dtype=torch.float64, device=device) + 0.5
    arranged, dim = laid_out(tracks, layout)
    found = gradient(lambda x: lss(x, dim=dim), arranged, weights)
    found = found.movedim(dim, 0)
    plain = gradient(reference.lss, tracks.clone(), weights)
    truth = gradient(reference.lss, tracks.double(), weights)
    subnormal = 1 + (dtype == torch.float16) * 6e-5 / truth.abs().max()  # where halves are evenly spaced
    assert_accurate(found, plain, truth, condition=subnormal)


def test_gradcheck(device):
    tracks = random_tracks((5, 3, 4), torch.float64, device).requires_grad_()
    assert torch.autograd.gradcheck(lss, tracks)
    layers = [layer.detach().clone().requires_grad_() for layer in tracks]
    assert torch.autograd.gradcheck(lambda *x: lss(x), layers)


def test_identities(device):
    tracks = random_tracks((9, 6, 20), torch.float64, device)
    found = gradient(lss, tracks, torch.ones(6, device=device))
    torch.testing.assert_close(found.sum(0), torch.zeros_like(found[0]), rtol=0, atol=1e-13)
    along = (found * (tracks.detach() - tracks.detach()[0])).sum((0, -1))
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-12)
    one_step = gradient(lss, random_tracks((1, 6, 20), torch.float64, device), torch.ones(6, device=device))
    assert (one_step == 0).all()


@pytest.mark.parametrize("policy", ["skip", "keep"])
def test_a_step_of_length_zero_passes_no_gradient(policy, device):
    tracks = random_tracks((6, 3, 8), torch.float64, device)
    tracks[3] = tracks[2]
    tracks[1, 0] = tracks[0, 0]
    tracks[6, 1] = tracks[5, 1]
    weights = torch.ones(3, device=device)
    found = gradient(lambda x: lss(x, zero_step=policy), tracks.clone(), weights)
    truth = gradient(lambda x: reference.lss(x, zero_step=policy), tracks.clone(), weights)
    torch.testing.assert_close(found, truth, rtol=1e-11, atol=1e-14)
    assert (found[1, 0] != 0).any()
    assert (found[0, 0] == 0).all()
    assert (found[6, 1] == 0).all()


def test_a_track_without_weight_gets_zero_even_where_its_score_is_nan(device):
    tracks = random_tracks((4, 3, 5), torch.float32, device)
    tracks[2, 1, 0] = float("nan")
    tracks.requires_grad_()
    score = lss(tracks)
    (found,) = torch.autograd.grad(score[score.isfinite()].sum(), tracks)
    assert found.isfinite().all()
    assert (found[:, 1] == 0).all()


@pytest.mark.engine
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_huge_and_tiny_coordinates_in_float32(scale, device):
    tracks = torch.rand(6, 4, 40, dtype=torch.float64, device=device) * scale
    found = gradient(lss, tracks.float(), torch.ones(4, device=device)).double() * scale
    truth = gradient(reference.lss, tracks.float().double(), torch.ones(4, device=device)) * scale
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-6 * truth.abs().max().item())


@pytest.mark.engine
def test_second_derivatives_are_refused(device):
    tracks = random_tracks((4, 2, 3), torch.float64, device).requires_grad_()
    (first,) = torch.autograd.grad(lss(tracks).sum(), tracks, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        first.sum().backward()


@pytest.mark.engine
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("only_lss", [False, True])
def test_opcheck(only_lss, listed, device):
    tracks = random_tracks((4, 3, 5), torch.float32, device)
    layers = [layer.clone().requires_grad_() for layer in tracks] if listed else [tracks.requires_grad_()]
    opcheck(operation.track_geometry.registered, (layers, "skip", only_lss, True))
    fields, _, total, lengths = operation.track_geometry(layers, "skip", only_lss, True)
    opcheck(
        operation.track_geometry_backward.registered,
        (torch.ones_like(fields), [x.detach() for x in layers], total, lengths, "skip", only_lss),
    )


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.huge)], ids=["eager", "compiled"]
)
def test_a_training_step_with_the_penalty_gives_the_reference_loss(compiled, device):
    def train(score):
        torch.manual_seed(3)
        blocks = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(4)).to(device)
        optimizer = torch.optim.SGD(blocks.parameters(), lr=0.1)
        data = torch.randn(32, 16, device=device)

        def loss_of(x):
            states = [x]
            for block in blocks:
                states.append(states[-1] + block(states[-1]).tanh())
            return states[-1].square().mean() + 0.1 * score(states).mean()

        step = torch.compile(loss_of, fullgraph=True) if compiled and score is lss else loss_of
        losses = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = step(data)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    torch.testing.assert_close(train(lss), train(reference.lss), rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_cuda_graphs_capture_it():
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU is visible")
    tracks = random_tracks((6, 10, 64), torch.float32, "cuda")
    expected = lss(tracks)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        score = lss(tracks)
    other = random_tracks((6, 10, 64), torch.float32, "cuda")
    tracks.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(score, lss(other))
    assert not torch.equal(score, expected)


@pytest.mark.engine
def test_forward_mode_is_refused_not_dropped():
    tracks = random_tracks((3, 2, 4), torch.float64)
    with pytest.raises(NotImplementedError, match=r"reverse-mode.*; use geodesic_fast\.reference\.lss"):
        torch.func.jvp(lss, (tracks,), (tracks,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(tracks, tracks)
        with pytest.raises(NotImplementedError, match="dual tensor"):
            lss(dual)
        assert lss(tracks).shape == (2,)
