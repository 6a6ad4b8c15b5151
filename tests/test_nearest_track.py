# SPDX-License-Identifier: MIT
"""The nearest other track: values, ties, labels, gradients, wrong calls."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_tracks import DTYPES, LAYOUTS, laid_out, random_tracks
from peak_memory import peak_above_now
from scipy.spatial.distance import cdist
from torch.library import opcheck

from geodesic_fast import nearest_track, reference, track_distance
from geodesic_fast.engine import nearest_track as operation
from geodesic_fast.engine import parts


def true_nearest(tracks, labels=None):
    """Return distance, index, layer (m) from SciPy's distances of each layer, the lowest of equal ones."""
    x = tracks.detach().double().cpu().numpy().reshape(len(tracks), -1, tracks.shape[-1])
    each = np.stack([cdist(layer, layer) for layer in x])
    distance = each.min(0)
    same = np.eye(len(distance), dtype=bool)
    if labels is not None:
        same |= np.equal.outer(labels.reshape(-1).cpu().numpy(), labels.reshape(-1).cpu().numpy())
    distance[same] = np.inf
    rows = np.arange(len(distance))
    index = distance.argmin(1)
    layer = each[:, rows, index].argmin(0)
    none = np.isinf(distance[rows, index])
    index[none], layer[none] = -1, -1
    return torch.as_tensor(distance.min(1)), torch.as_tensor(index), torch.as_tensor(layer)


def assert_nearest(got, truth, units=4):
    """Compare with the truth; another index or layer is right only at a distance equal to rounding."""
    distance, index, layer = (t.cpu() for t in got)
    assert index.dtype == layer.dtype == torch.int64
    rounding = 1e-13 if distance.dtype == torch.float64 else units * torch.finfo(distance.dtype).eps
    torch.testing.assert_close(distance.double(), truth[0], rtol=rounding, atol=0)
    assert torch.equal(index < 0, truth[1] < 0)
    assert (index == truth[1]).double().mean() > 0.98
    assert (layer == truth[2]).double().mean() > 0.98


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "layout"),
    [((4, 400, 20), layout) for layout in LAYOUTS]
    + [((3, 2, 1, 60, 9), layout) for layout in LAYOUTS]
    + [((2, 300, 1), "list"), ((2, 70, 1111), "list"), ((100, 33, 7), "list"), ((5, 2, 3), "list")],
    ids=str,
)
def test_matches_scipy(shape, layout, dtype, labelled, device):
    tracks = random_tracks(shape, torch.float64, device).to(dtype)
    m = math.prod(shape[1:-1])
    labels = torch.randint(3, shape[1:-1], device=device) if labelled else None
    arranged, dim = laid_out(tracks, layout)
    got = nearest_track(arranged, dim=dim, labels=labels)
    assert got.distance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert all(field.shape == (m,) for field in got)
    truth = true_nearest(tracks, labels)
    if dtype in (torch.float16, torch.bfloat16):  # coarse values: exactly equal distances are common
        torch.testing.assert_close(got.distance.double().cpu(), truth[0], rtol=5e-7, atol=0)
        distance = track_distance(tracks).cpu()
        named = distance[torch.arange(m), got.track.cpu().clamp(min=0)]
        found = got.track.cpu() >= 0
        torch.testing.assert_close(named[found].double(), truth[0][found], rtol=5e-7, atol=0)
    else:
        assert_nearest(got, truth)


def test_ties_go_to_the_lowest(device):
    grid = torch.cartesian_prod(*[torch.arange(5.0)] * 3).to(device)  # up to six neighbours at distance 1
    tracks = torch.stack((2 * grid + 7, grid, grid))
    got, truth = nearest_track(tracks), true_nearest(tracks)
    assert torch.equal(got.track.cpu(), truth[1])
    assert torch.equal(got.layer.cpu(), truth[2])
    tracks = tracks.repeat(1, 3, 1)  # each track thrice
    got, truth = nearest_track(tracks), true_nearest(tracks)
    assert (got.distance == 0).all()
    assert torch.equal(got.track.cpu(), truth[1])
    assert (got.layer == 0).all()


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("values", [pytest.param(1, marks=pytest.mark.huge), 2, 5])
def test_many_equal_tracks(values, labelled, device):
    tracks = torch.randint(values, (3, 500, 2)).float().to(device)
    labels = torch.randint(3, (500,)).to(device) if labelled else None
    got, truth = nearest_track(tracks, labels=labels), true_nearest(tracks, labels)
    assert torch.equal(got.distance.double().square().round().cpu(), truth[0].square().round())
    assert torch.equal(got.track.cpu(), truth[1])
    assert torch.equal(got.layer.cpu(), truth[2])


def test_near_tracks_far_from_the_origin(device):
    tracks = 1e4 + torch.randn(6, 1, 40) * 5 + 1e-2 * torch.randn(6, 300, 40)
    tracks[:, ::2] += 30
    assert_nearest(nearest_track(tracks.to(device)), true_nearest(tracks))


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e38])
def test_huge_and_tiny_coordinates_in_float32(scale, device):
    tracks = (torch.rand(4, 60, 3, dtype=torch.float64) * 2 - 1).mul(scale).float()
    assert_nearest(nearest_track(tracks.to(device)), true_nearest(tracks))


def test_the_same_answer_from_any_number_of_threads():
    tracks = random_tracks((3, 700, 10), torch.float32)
    tracks[:, 350:] = tracks[:, :350]  # pairs of duplicates
    labels = torch.arange(700) % 2
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 5, before):
        torch.set_num_threads(threads)
        found.append((nearest_track(tracks), nearest_track(tracks, labels=labels)))
    torch.set_num_threads(before)
    for got in found[1:]:
        assert all(
            torch.equal(a, b)
            for first, other in zip(got, found[0], strict=True)
            for a, b in zip(first, other, strict=True)
        )
    assert torch.equal(found[0][0].track[:350], torch.arange(350, 700))


@pytest.mark.engine
def test_the_parts_of_long_work_add_up(monkeypatch):
    tracks = random_tracks((3, 900, 6), torch.float32)
    expected, distances = nearest_track(tracks), track_distance(tracks)
    against = track_distance(tracks, tracks[:, :100])
    monkeypatch.setattr(parts, "_FIRST_PART", 1.0)
    monkeypatch.setattr(parts, "_PART_SECONDS", 0.0)
    cut = list(parts.triangle_parts(range(900), 900, 1, ""))
    assert len(cut) == 15
    assert sum(parts.pairs_above(*part) for part in cut) == 900 * 899 // 2
    assert all(torch.equal(a, b) for a, b in zip(nearest_track(tracks), expected, strict=True))
    assert [rows.stop for rows in parts.row_parts(900, 900, 1, True, "")] == [192, 384, 576, 768, 900]
    assert torch.equal(track_distance(tracks), distances)
    assert torch.equal(track_distance(tracks, tracks[:, :100]), against)


def test_no_other_track_is_the_minimum_over_nothing(device):
    alone = nearest_track(torch.randn(3, 1, 5, device=device))
    assert (alone.distance.item(), alone.track.item(), alone.layer.item()) == (math.inf, -1, -1)
    same = nearest_track(
        torch.randn(3, 9, 5, device=device), labels=torch.ones(9, dtype=torch.int64).to(device)
    )
    assert (same.distance == math.inf).all()
    assert (same.track == -1).all()
    assert all(field.shape == (0,) for field in nearest_track(torch.zeros(3, 0, 5, device=device)))


def test_nan_and_inf(device):
    tracks = random_tracks((4, 30, 20), torch.float32, device)
    tracks[3, 2, 17] = math.nan
    tracks[1, 4, 3] = math.inf
    tracks[:, 5, 0] = -math.inf
    got, plain = nearest_track(tracks), reference.nearest_track(tracks)
    for a, b in zip(got, plain, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-6, atol=0)
    assert got.distance[2].isnan()
    assert got.track[2] == got.layer[2] == -1
    assert got.distance[4].isfinite()
    assert got.distance[5] == math.inf
    assert not (got.track == 2).any()


def test_an_infinite_distance_is_nearer_than_none(device):
    inf = math.inf
    tracks = torch.tensor([[[-inf], [-1.0], [-0.4]], [[inf], [0.5], [inf]]], device=device)
    broken = torch.tensor([[[1.0], [0.0]], [[inf], [math.nan]]], device=device)
    for metric in (nearest_track, reference.nearest_track):
        assert [field[0].item() for field in metric(tracks)] == [inf, 1, 0]
        assert [field[0].item() for field in metric(broken)] == [inf, -1, -1]


def test_the_distance_has_the_gradient_of_the_reference(device):
    for listed in (False, True):
        tracks = random_tracks((4, 30, 6), torch.float64, device).requires_grad_()
        labels = torch.arange(30, device=device) % 3
        weights = torch.randn(30, dtype=torch.float64, device=device)
        arranged = list(tracks) if listed else tracks
        (got,) = torch.autograd.grad(
            (nearest_track(arranged, labels=labels).distance * weights).sum(), tracks
        )
        distance = track_distance(tracks).masked_fill(labels == labels.unsqueeze(1), math.inf)
        (expected,) = torch.autograd.grad((distance.amin(1) * weights).sum(), tracks)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    small = random_tracks((3, 4, 2), torch.float64, device).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: nearest_track(x).distance, small)
    twins = small.detach().repeat(1, 2, 1).requires_grad_()
    (zero,) = torch.autograd.grad(nearest_track(twins).distance.sum(), twins)
    assert (zero == 0).all()


@pytest.mark.engine
def test_forward_mode_says_what_to_do():
    tracks = random_tracks((4, 3, 5), torch.float64)

    def along(metric):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(tracks, torch.ones_like(tracks))
            return torch.autograd.forward_ad.unpack_dual(metric(dual).distance).tangent

    with pytest.raises(NotImplementedError, match=r"reference\.nearest_track for jvp"):
        along(nearest_track)
    assert along(reference.nearest_track).abs().max() < 1e-12  # moving all points alike changes nothing


@pytest.mark.engine
def test_opcheck_and_one_graph(device):
    tracks = random_tracks((3, 20, 6), torch.float32, device)
    opcheck(operation.nearest_track.registered, ([tracks], None))
    opcheck(operation.nearest_track.registered, (list(tracks), torch.arange(20, device=device)))
    compiled = torch.compile(lambda x: nearest_track(x).distance.mean(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tracks), nearest_track(tracks).distance.mean())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9), st.integers(0, 300), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**31),
    st.sampled_from(LAYOUTS),
)  # fmt: skip
def test_any_shape_and_stride(steps, m, features, classes, seed, layout):
    torch.manual_seed(seed)
    tracks = random_tracks((steps, m, features), torch.float64)
    labels = torch.randint(classes, (m,))
    arranged, dim = laid_out(tracks, layout)
    got = nearest_track(arranged, dim=dim, labels=labels)
    if m:
        truth = true_nearest(tracks, labels)
        torch.testing.assert_close(got.distance, truth[0], rtol=1e-12, atol=0)
        assert torch.equal(got.track, truth[1])
        assert torch.equal(got.layer, truth[2])


@pytest.mark.engine
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("listed", [False, True])
def test_takes_memory_for_tracks_and_not_for_pairs(labelled, listed):
    m, features, layers = 20_000, 16, 5
    tracks = random_tracks((layers, m, features), torch.float32)
    tracks = list(tracks.clone()) if listed else tracks
    labels = torch.randint(10, (m,)) if labelled else None
    nearest_track(random_tracks((layers, 300, features), torch.float32))
    peak = peak_above_now(lambda: nearest_track(tracks, labels=labels))
    if peak is None:
        pytest.skip("the peak of the resident memory cannot be read here")
    given = 4 * layers * m * features
    assert peak < 3 * given + (8 << 20)  # all pairs of a layer are 1526 MiB


def test_says_what_is_wrong():
    x = torch.randn(3, 4, 5)
    for labels, error, sentence in (
        ([0, 1, 2, 3], TypeError, r"labels must be a torch\.Tensor, got list"),
        (torch.rand(4), TypeError, r"labels must be integers, got torch\.float32: number them with"),
        (torch.arange(5), ValueError, r"labels must have shape \(4,\), got \(5,\): one label for each track"),
        (
            torch.arange(4, device="meta"),
            ValueError,
            "labels must be on the device of the tracks, cpu, got meta",
        ),
    ):
        with pytest.raises(error, match=sentence) as caught:
            nearest_track(x, labels=labels)
        assert str(caught.value).endswith(".")
    with pytest.raises(ValueError, match="tracks must have at least 2 layers"):
        nearest_track(x[:1])


def test_takes_arrays():
    x = np.random.default_rng(0).normal(size=(3, 7, 6)).astype(np.float32)
    got = nearest_track(x, labels=np.arange(7) % 2)
    assert all(isinstance(field, np.ndarray) for field in got)
    assert torch.equal(torch.from_numpy(got.track), true_nearest(torch.from_numpy(x), torch.arange(7) % 2)[1])
