# SPDX-License-Identifier: MIT
"""Distance of pairs of tracks: values and wrong calls. Gradients: test_track_distance_gradients.py."""

import math

import numpy as np
import pytest
import torch
from assert_accurate import assert_accurate
from hypothesis import given, settings
from hypothesis import strategies as st
from known_tracks import DTYPES, LAYOUTS, SHAPES, laid_out, random_tracks
from peak_memory import peak_above_now
from scipy.spatial.distance import cdist

from geodesic_fast import reference, track_distance


def true_distance(tracks, other=None):
    """Return (m, m') by SciPy's distances of each layer."""
    x, y = (
        t.detach().double().cpu().numpy().reshape(len(t), -1, t.shape[-1])
        for t in (tracks, tracks if other is None else other)
    )
    return torch.as_tensor(np.minimum.reduce([cdist(a, b) for a, b in zip(x, y, strict=True)]))


def relative_error(got, truth):
    return ((got.double().cpu() - truth).abs() / truth.where(truth != 0, 1.0)).max().item()


def assert_near_ones_right(got, truth, units=4, plain=None):
    """Hold each distance, the smallest too, to a few units in its last place or twice the error of `plain`.

    float64 distances are held to 1e-13: the truth they are compared with is itself rounded.
    """
    assert torch.equal(got == 0, truth.to(got.device) == 0)
    allowed = 1e-13 if got.dtype == torch.float64 else units * torch.finfo(got.dtype).eps
    if plain is not None:
        allowed = max(allowed, 2 * relative_error(plain, truth))
    assert relative_error(got, truth) <= allowed


MORE_SHAPES = ((520, 3, 9), (3, 210, 40), (2, 100, 1), (4, 50, 300), (1, 12, 60_000))
CASES = [(shape, "layer-major") for shape in (*SHAPES, *MORE_SHAPES)] + [
    (shape, layout) for shape in ((5, 33, 17), (3, 2, 1, 60, 9), (2, 40, 1111)) for layout in LAYOUTS[1:]
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "layout"), CASES, ids=str)
def test_matches_scipy_and_the_float64_reference(shape, layout, dtype, device):
    tracks = random_tracks(shape, dtype, device)
    others = random_tracks((shape[0], 5, shape[-1]), dtype, device)
    arranged, dim = laid_out(tracks, layout)
    got, truth = track_distance(arranged, dim=dim), true_distance(tracks)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert got.device == tracks.device
    assert torch.equal(got, got.mT)
    assert (got.diagonal() == 0).all()
    plain = reference.track_distance(tracks)
    assert_accurate(got, plain, truth)
    assert_near_ones_right(got, truth, plain=plain)
    if layout in ("layer-major", "list"):
        second = laid_out(others, layout)[0]
        got, truth = track_distance(arranged, second), true_distance(tracks, others)
        plain = reference.track_distance(tracks, others)
        assert_accurate(got, plain, truth)
        assert_near_ones_right(got, truth, plain=plain)


def test_known_answers(device):
    there = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]], device=device)
    back = torch.tensor([[6.0, 8.0], [5.0, 4.0], [4.0, 3.0]], device=device)
    expected = torch.tensor([[0.0, 3.0], [3.0, 0.0]], device=device)
    assert torch.equal(track_distance(torch.stack((there, back), 1)), expected)
    assert torch.equal(track_distance(there.unsqueeze(1), back.unsqueeze(1)), expected[:1, 1:])
    assert torch.equal(track_distance(there, back), expected[:1, 1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("features", [3, 200])
def test_near_tracks_far_from_the_origin(features, dtype, device):
    spread = torch.randn(6, 1, features, dtype=torch.float64) * 5
    tracks = 1e4 + spread + 1e-2 * torch.randn(6, 150, features, dtype=torch.float64)
    tracks[:, ::2] += 30  # two bundles, so that centring alone does not help
    tracks = tracks.to(dtype).to(device)
    assert_near_ones_right(track_distance(tracks), true_distance(tracks))


def test_layers_that_products_cannot_tell_apart(device):
    """The nearest layer is among several whose distances agree to a millionth of the points' norms."""
    centre = torch.randn(8, 40, 1, 64, dtype=torch.float64)
    close = centre + 1e-4 * torch.randn(8, 40, 5, 64, dtype=torch.float64)
    tracks = close.flatten(1, 2).float().to(device)
    assert_near_ones_right(track_distance(tracks), true_distance(tracks))
    turned = torch.linalg.qr(torch.randn(9, 64, 64, dtype=torch.float64)).Q
    moving = (tracks[:1].cpu().double() @ turned).float().to(device)  # every layer at the same distance
    assert_near_ones_right(track_distance(moving), true_distance(moving))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shift", [0.0, 3.0])
@pytest.mark.parametrize(("points", "m", "features"), [(4, 40, 128), (3, 300, 200), (2, 130, 4096)])
def test_halves_about_the_origin_and_away_from_it(points, m, features, shift, dtype, device):
    """Where tensor cores multiply points as they are, and where their common centre keeps them from it."""
    tracks = (torch.randn(points, m, features) + shift).to(dtype)
    tracks[1, m // 2] = tracks[1, 3]
    tracks = tracks.to(device)
    got, truth = track_distance(tracks), true_distance(tracks)
    assert torch.equal(got, got.mT)
    assert_near_ones_right(got, truth)
    assert_near_ones_right(track_distance(tracks, tracks[:, 5:27]), truth[:, 5:27])


def test_duplicates_are_at_distance_zero(device):
    tracks = random_tracks((5, 30, 40), torch.float32, device)
    tracks[:, 11] = tracks[:, 3]
    tracks[2, 20] = tracks[2, 4]  # these two meet once
    got = track_distance(tracks)
    zero = (got == 0).nonzero().tolist()
    assert [pair for pair in zero if pair[0] < pair[1]] == [[3, 11], [4, 20]]
    assert torch.equal(got[3], got[11])


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1.5e38, 1e-38])
def test_huge_and_tiny_coordinates_in_float32(scale, device):
    tracks = (torch.rand(4, 40, 30, dtype=torch.float64) * 2 - 1).mul(scale).float()
    truth = true_distance(tracks)
    finite = truth <= torch.finfo(torch.float32).max
    got = track_distance(tracks.to(device))
    plain = reference.track_distance(tracks)
    assert_accurate(got, plain, truth.where(finite, torch.inf))
    mixed = tracks * torch.tensor([1.0, 1e-20, 1e-30, 1.0]).view(-1, 1, 1)  # layers of unlike scales
    truth = reference.track_distance(mixed.double())
    assert_accurate(track_distance(mixed.to(device)), reference.track_distance(mixed), truth)


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e308, 1e-308])
def test_huge_and_tiny_coordinates_in_float64(scale, device):
    tracks = (torch.rand(4, 20, 30, dtype=torch.float64) * 2 - 1) * scale
    unit = 2.0 ** math.floor(math.log2(scale))
    truth = true_distance(tracks / unit) * unit
    torch.testing.assert_close(track_distance(tracks.to(device)).cpu(), truth, rtol=1e-12, atol=0)


def test_nan_and_inf(device):
    tracks = random_tracks((4, 9, 20), torch.float32, device)
    clean = track_distance(tracks)
    broken = tracks.clone()
    broken[3, 2, 17] = math.nan
    broken[1, 4, 3] = math.inf
    broken[:, 5, 0] = -math.inf
    got = track_distance(broken)
    truth = reference.track_distance(broken.double())
    assert torch.equal(got.nan_to_num(-1.0), got.mT.nan_to_num(-1.0))
    assert got[2].isnan().all()
    assert torch.isinf(got[5, [0, 1, 3, 4, 6]]).all()  # infinite at every layer
    assert got[4, 4].isnan()  # inf - inf
    assert got[4, 0].isfinite()  # other layers remain
    assert torch.equal(got.isnan(), truth.isnan())
    torch.testing.assert_close(got.double(), truth, equal_nan=True, rtol=1e-6, atol=0)
    fine = torch.tensor([0, 1, 3, 6, 7, 8], device=device)
    torch.testing.assert_close(got[fine][:, fine], clean[fine][:, fine], rtol=1e-6, atol=0)
    assert track_distance(torch.full((3, 4, 5), math.nan, device=device)).isnan().all()


def test_invariances(device):
    tracks = random_tracks((6, 12, 5), torch.float64, device)
    expected = track_distance(tracks)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q.to(device)
    for same in (tracks + 1e3, tracks @ rotation, tracks.flip(0), tracks * -1):
        torch.testing.assert_close(track_distance(same), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(track_distance(tracks * 7.5), expected * 7.5, rtol=1e-12, atol=0)
    torch.testing.assert_close(track_distance(tracks, tracks), expected, rtol=1e-12, atol=0)
    order = torch.randperm(12)
    torch.testing.assert_close(
        track_distance(tracks[:, order]), expected[order][:, order], rtol=1e-12, atol=0
    )


def test_the_same_numbers_from_any_number_of_threads():
    tracks = random_tracks((6, 500, 70), torch.float32)
    tracks[:, 1::2] = tracks[:, ::2] + 1e-3 * torch.randn(7, 250, 70)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3, before):
        torch.set_num_threads(threads)
        found += [track_distance(tracks), track_distance(tracks[:, :77], tracks)]
    torch.set_num_threads(before)
    assert all(torch.equal(got, found[k % 2]) for k, got in enumerate(found))


@pytest.mark.engine
def test_takes_memory_for_the_answer_alone():
    points, m, d = 12, 1500, 96
    tracks = torch.randn(points, m, d)
    track_distance(tracks[:, :300])
    peak = peak_above_now(lambda: track_distance(tracks))
    assert peak is None or peak < 2 * m * m * 4


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9), st.integers(0, 60), st.integers(0, 40), st.integers(1, 150), st.integers(0, 2**31),
    st.sampled_from(LAYOUTS),
)  # fmt: skip
def test_any_shape_and_stride(steps, m, others, features, seed, layout):
    torch.manual_seed(seed)
    tracks = random_tracks((steps, m, features), torch.float32)
    other = random_tracks((steps, others, features), torch.float32)
    arranged, dim = laid_out(tracks, layout)
    assert_near_ones_right_or_empty(track_distance(arranged, dim=dim), true_distance(tracks))
    if dim == 0:
        assert_near_ones_right_or_empty(track_distance(arranged, other), true_distance(tracks, other))


def assert_near_ones_right_or_empty(got, truth):
    assert got.shape == truth.shape
    if truth.numel():
        assert_near_ones_right(got, truth, units=6)


def test_says_what_is_wrong():
    x = torch.randn(3, 4, 5)
    for wrong, sentence in (
        ((x, x[:2]), "other must have the same number of layers as tracks, got 2, expected 3"),
        ((x, x[..., :2]), "other must have the same number of features as tracks, got 2, expected 5"),
        ((x, x.double()), "other must have the same dtype as tracks, got torch.float64"),
        ((x, x.to("meta")), "other must have the same device as tracks, got meta"),
        ((x, x[:1]), "other must have at least 2 layers along dim 0"),
        ((x[:1],), "tracks must have at least 2 layers along dim 0"),
    ):
        with pytest.raises(ValueError, match=sentence) as caught:
            track_distance(*wrong)
        assert str(caught.value).endswith(".")
    with pytest.raises(TypeError, match=r"other must be a torch\.Tensor with a layer axis"):
        track_distance(x, "tracks")


def test_takes_arrays():
    x = np.random.default_rng(0).normal(size=(3, 7, 6)).astype(np.float32)
    got = track_distance(x)
    assert isinstance(got, np.ndarray)
    np.testing.assert_array_equal(got, track_distance(list(torch.from_numpy(x))).numpy())
    np.testing.assert_allclose(track_distance(x, x[:, :2]), got[:, :2], rtol=1e-6)
