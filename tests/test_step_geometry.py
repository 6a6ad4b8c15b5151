# SPDX-License-Identifier: MIT
"""Step geometry: against torch's cosine similarity in float64, closed forms, gradients, and wrong calls."""

import math

import numpy as np
import pytest
import torch
from assert_accurate import assert_accurate
from known_tracks import DTYPES, LAYOUTS, laid_out, random_tracks
from torch.nn.functional import cosine_similarity

from geodesic_fast import reference, step_geometry, track_geometry
from geodesic_fast.engine import step_geometry as operation
from geodesic_fast.metrics.step_geometry import StepGeometry

SHAPES = [(1, 5, 7), (12, 3, 64), (33, 2, 1111), (4, 2, 3, 50), (9, 4, 1), (3, 2, 2500), (2, 300, 3)]


def truth_of(tracks):
    x = tracks.double().cpu()
    v = x.diff(dim=0)
    norm = torch.linalg.vector_norm(v, dim=-1)
    return StepGeometry(
        norm,
        norm / torch.linalg.vector_norm(x[:-1], dim=-1),
        cosine_similarity(x[:-1], x[1:], dim=-1, eps=0),
        cosine_similarity(v, x[:-1], dim=-1, eps=0),
        cosine_similarity(v[:-1], v[1:], dim=-1, eps=0),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_cosine_similarity_in_float64(shape, dtype, layout, device):
    tracks = random_tracks(shape, dtype, device)
    arranged, dim = laid_out(tracks, layout)
    found, plain, truth = step_geometry(arranged, dim=dim), reference.step_geometry(tracks), truth_of(tracks)
    for name, got, expected, exact in zip(found._fields, found, plain, truth, strict=True):
        assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32), name
        assert_accurate(got, expected, exact)


def test_known_steps(device):
    points = [[3.0, 4.0], [6.0, 8.0], [6.0, 0.0], [6.0, 0.0], [0.0, 0.0], [0.0, 2.0]]
    found = step_geometry(torch.tensor(points, device=device))
    assert found.length.tolist() == [5, 8, 0, 6, 2]
    assert found.relative_length.tolist() == pytest.approx([1, 0.8, 0, 1, math.inf])
    expected = {
        "state_cosine": [1, 0.6, 1, math.nan, math.nan],
        "update_cosine": [1, -0.8, math.nan, -1, math.nan],
        "turning_cosine": [-0.8, math.nan, math.nan, 0],
    }
    for name, values in expected.items():
        assert getattr(found, name).tolist() == pytest.approx(values, abs=1e-7, nan_ok=True), name


def test_agrees_with_track_geometry(device):
    tracks = random_tracks((12, 7, 40), torch.float64, device)
    found, whole = step_geometry(tracks), track_geometry(tracks)
    torch.testing.assert_close(found.length.sum(0), whole.path_length)
    torch.testing.assert_close(found.turning_cosine.mean(0), whole.adjacent_cosine)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_cosines_never_pass_one(dtype, device):
    x = torch.randn(500, 33, device=device)
    tracks = torch.stack([x * factor for factor in (1, 2, 4, 8, -8)]).to(dtype)
    for cosine in step_geometry(tracks)[2:]:
        assert cosine.abs().max() <= 1


def test_what_is_not_finite_stays_where_it_is(device):
    tracks = random_tracks((5, 4, 6), torch.float32, device)
    tracks[2, 1, 3], tracks[0, 2, 0] = math.nan, math.inf
    for function in (step_geometry, reference.step_geometry):
        found = function(tracks)
        for name, got in found._asdict().items():
            bad = torch.zeros_like(got, dtype=torch.bool)
            steps = ([1, 2], [0]) if name != "turning_cosine" else ([0, 1, 2], [0])
            bad[steps[0], 1], bad[steps[1], 2] = True, True
            assert torch.equal(got.isnan(), bad), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("exponent", [-140, -60, 60, 120])
def test_any_magnitude(dtype, exponent, device):
    tracks = random_tracks((4, 5, 9), torch.float32, device).to(dtype)
    factor = 2.0 ** (exponent * (7 if dtype == torch.float64 else 1))
    scaled = tracks * factor
    found, truth = step_geometry(scaled), truth_of(scaled.double() / factor)
    tolerance = {"rtol": 1e-3 if exponent == -140 and dtype == torch.float32 else 1e-5, "atol": 1e-5}
    for name in ("relative_length", "state_cosine", "update_cosine", "turning_cosine"):
        torch.testing.assert_close(getattr(found, name).double().cpu(), getattr(truth, name), **tolerance)
    torch.testing.assert_close((found.length.double() / factor).cpu(), truth.length, **tolerance)


def test_opposite_ends_of_the_range(device):
    tracks = torch.tensor([[-3e38, 1.0], [3e38, 1.0], [3e38, 3e38]], device=device)
    found = step_geometry(tracks)
    assert found.length.tolist() == [math.inf, pytest.approx(3e38)]
    assert found.update_cosine.tolist() == pytest.approx([-1, 0], abs=1e-6)
    assert found.turning_cosine.tolist() == pytest.approx([0], abs=1e-6)


def test_the_smallest_numbers_keep_their_digits(device):
    smallest = 2.0**-1074
    tracks = torch.tensor([[3.0, 0.0], [8.0, 12.0], [3.0, 0.0]], dtype=torch.float64)[:, None].to(device)
    expected, small = step_geometry(tracks), step_geometry(tracks * smallest)
    assert torch.equal(small.length, torch.full_like(small.length, 13 * smallest))
    for field in StepGeometry._fields[1:]:
        torch.testing.assert_close(getattr(small, field), getattr(expected, field), rtol=1e-15, atol=1e-15)


def test_steps_of_the_smallest_numbers_send_whole_gradients(device):
    tracks = torch.tensor([[3.0, 0.0], [8.0, 12.0]], dtype=torch.float64)[:, None] * 2.0**-1074
    tracks = tracks.to(device).requires_grad_()
    step_geometry(tracks).length.sum().backward()
    torch.testing.assert_close(
        tracks.grad[1, 0].cpu(), torch.tensor([5.0, 12.0], dtype=torch.float64) / 13, rtol=1e-15, atol=0
    )


@pytest.mark.parametrize("field", StepGeometry._fields)
def test_gradcheck(field, device):
    tracks = random_tracks((4, 3, 5), torch.float64, device).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: getattr(step_geometry(x), field), tracks)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 5, 7), (12, 3, 64), (6, 2, 1111), (4, 2, 3, 50)], ids=str)
def test_gradients_match_float64(shape, dtype, layout, device):
    tracks = random_tracks(shape, dtype, device)
    weights = [torch.randn_like(value) for value in reference.step_geometry(tracks.double())]

    def gradient(function, given, dim=0):
        listed = isinstance(given, list)
        leaves = [layer.detach().requires_grad_() for layer in (given if listed else [given])]
        found = function(leaves if listed else leaves[0], dim=dim)
        sum((w.to(value.dtype) * value).sum() for w, value in zip(weights, found, strict=True)).backward()
        grads = [leaf.grad for leaf in leaves]
        return torch.stack(grads) if listed else grads[0].movedim(dim, 0)

    arranged, dim = laid_out(tracks, layout)
    truth = gradient(reference.step_geometry, tracks.double())
    assert_accurate(gradient(step_geometry, arranged, dim), gradient(reference.step_geometry, tracks), truth)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_gradients_at_any_magnitude(scale, device):
    tracks = (random_tracks((5, 3, 6), torch.float64, device) * scale).float()
    for field in StepGeometry._fields:
        leaf, exact = tracks.clone().requires_grad_(), tracks.double().requires_grad_()
        getattr(step_geometry(leaf), field).sum().backward()
        getattr(reference.step_geometry(exact), field).sum().backward()
        unit = exact.grad.abs().max()
        torch.testing.assert_close(leaf.grad.double() / unit, exact.grad / unit, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_step_beyond_the_range_leaves_the_gradients_of_others(dtype, device):
    far = torch.finfo(dtype).max * 0.9  # the difference overflows
    track = torch.tensor([[0.0, 0.0], [3.0, 4.0], [far, far], [-far, -far]], dtype=dtype, device=device)
    leaf = track.requires_grad_()
    step_geometry(leaf).length[0].backward()
    expected = torch.tensor([[-0.6, -0.8], [0.6, 0.8], [0.0, 0.0], [0.0, 0.0]], dtype=dtype, device=device)
    torch.testing.assert_close(leaf.grad, expected)


def test_what_is_undefined_sends_no_gradient_and_no_nan_to_others(device):
    tracks = random_tracks((5, 4, 6), torch.float32, device)
    tracks[2, 0] = tracks[1, 0]  # a step of length zero
    tracks[1, 1] = 0  # a zero state
    tracks[3, 2, 1] = math.nan
    leaf = tracks.requires_grad_()
    found = step_geometry(leaf)
    sum(value[value.isfinite()].sum() for value in found).backward()
    assert leaf.grad[:, [0, 1, 3]].isfinite().all()
    assert leaf.grad[:2, 2].isfinite().all()


@pytest.mark.engine
def test_operation_is_registered_well(device):
    layers = [random_tracks((3, 2, 4), torch.float64, device).requires_grad_()]
    torch.library.opcheck(operation.step_geometry.registered, (layers, True))


def test_no_gradient_is_kept_where_none_is_asked_for(device):
    tracks = random_tracks((3, 2, 4), torch.float32, device).requires_grad_()
    with torch.no_grad():
        assert not step_geometry(tracks).length.requires_grad


def test_empty_batches(device):
    found = step_geometry(torch.zeros(4, 0, 3, device=device))
    assert found.length.shape == (3, 0)
    assert found.turning_cosine.shape == (2, 0)


def test_numpy_in_numpy_out():
    found = step_geometry(np.array([[3.0, 4.0], [6.0, 8.0]]))
    assert isinstance(found.length, np.ndarray)
    assert found.length.tolist() == [5.0]
    assert found.turning_cosine.shape == (0,)


def test_says_what_is_wrong():
    with pytest.raises(TypeError, match=r"tracks must be a torch\.Tensor"):
        step_geometry("tracks")
    with pytest.raises(ValueError, match="at least 2 layers along dim 1"):
        step_geometry(torch.randn(4, 1, 4), dim=1)
