# SPDX-License-Identifier: MIT
"""The CUDA kernels at the edges of their shapes, beside what the other tests ask of every device.

Widths around the teams' and tiles' sizes, rows that start on 16 bytes or not, one tensor or a list, steps of
length zero under each policy, values that are no numbers, and batches of no and of one track.
"""

from functools import partial
from threading import Thread

import pytest
import torch
from assert_accurate import assert_accurate

from geodesic_fast import (
    chord_deviation,
    line_deviation,
    lss,
    nearest_track,
    reference,
    track_distance,
    track_geometry,
)

pytestmark = pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BLOCKS = (  # steps and features around the tiles of line_deviation
    *((1, 8), (7, 128), (8, 128), (15, 127), (16, 136), (17, 136), (32, 64), (33, 136), (63, 144), (65, 24)),
    *((79, 128), (80, 136), (81, 128), (129, 128)),
)
POLICIES = ("skip", "keep", "propagate")
WIDTHS = (1, 31, 33, 255, 256, 257, 511, 512, 513, 768, 1023, 1025, 2047, 2049, 4096, 4100, 8192, 8193)


def tracks_of(points, m, d, dtype, device, *, zero_steps=False, broken=False):
    x = (torch.randn(points, m, d, dtype=torch.float64) + 0.2).cumsum(0)
    if zero_steps:
        for layer in range(2, points, 3):
            x[layer, ::2] = x[layer - 1, ::2]
    if broken:
        x[points // 2, 0, 0], x[-1, m // 2, d // 2] = torch.nan, torch.inf
    return x.to(dtype).to(device)


def laid(x, layout):
    if layout == "list":
        return [layer.clone() for layer in x]
    if layout == "offset":  # rows of an odd stride that start one value past a multiple of 16 bytes
        room = x.new_zeros((*x.shape[:-1], x.shape[-1] + 1))
        room[..., 1:] = x
        return room[..., 1:]
    return x


def gradient(metric, x, weights):
    listed = isinstance(x, list)
    leaves = [layer.detach().requires_grad_() for layer in (x if listed else [x])]
    found = torch.autograd.grad((metric(leaves if listed else leaves[0]) * weights).sum(), leaves)
    return torch.stack(found) if listed else found[0]


def assert_accurate_gradient(metric, definition, arranged, x, weights):
    plain, truth = (gradient(definition, each, weights) for each in (x, x.double()))
    assert_accurate(gradient(metric, arranged, weights), plain, truth, condition=20)


@pytest.mark.parametrize("layout", ["stacked", "list", "offset"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", WIDTHS)
def test_lss_and_track_geometry(d, dtype, layout, device):
    x = tracks_of(6, 5, d, dtype, device)
    arranged, truth, plain = laid(x, layout), reference.lss(x.double()), reference.lss(x)
    assert_accurate(lss(arranged), plain, truth, condition=truth)
    got, plain, truth = (
        track_geometry(arranged),
        reference.track_geometry(x),
        reference.track_geometry(x.double()),
    )
    for name in got._fields[:-1]:
        values = (getattr(each, name) for each in (got, plain, truth))
        assert_accurate(*values, condition=20, name=name)
    assert torch.equal(got.zero_steps, truth.zero_steps)
    if d == 1:
        return  # on a line the turning angle has no derivative
    weights = torch.randn(5, dtype=torch.float64, device=device)
    assert_accurate_gradient(lss, reference.lss, arranged, x, weights)
    assert_accurate_gradient(mixed(track_geometry), mixed(reference.track_geometry), arranged, x, weights)


def mixed(geometry):
    """Every field, so that each term of the gradient is there."""

    def metric(x):
        g = geometry(x)
        scale = (1, 0.5, 0.01, 0.02, 1, 1, 1, 1, 1e-4)
        return sum(field.double() * factor for field, factor in zip(g[:-1], scale, strict=True))

    return metric


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [3, 40, 700, 2100, 8200])
@pytest.mark.parametrize("points", [2, 3, 9])
def test_steps_of_length_zero(points, d, dtype, policy, device):
    x = tracks_of(points, 4, d, dtype, device, zero_steps=True)
    truth, plain = (reference.lss(each, zero_step=policy) for each in (x.double(), x))
    assert_accurate(lss(x, zero_step=policy), plain, truth, condition=truth.nan_to_num(1))
    got, plain, truth = (
        f(each, zero_step=policy)
        for f, each in (
            (track_geometry, x),
            (reference.track_geometry, x),
            (reference.track_geometry, x.double()),
        )
    )
    for name in got._fields[:-1]:
        values = (getattr(each, name) for each in (got, plain, truth))
        assert_accurate(*values, condition=20, name=name)
    assert torch.equal(got.zero_steps, truth.zero_steps)


@pytest.mark.parametrize("d", [40, 700])
@pytest.mark.parametrize("points", [2, 3, 6, 70])
def test_steps_whose_squares_leave_the_range_among_others(points, d, device):
    x = torch.randn(points, 6, d, dtype=torch.float64).cumsum(0)
    x[:, 1] *= 1e-25
    x[:, 2] *= 1e25
    x[-1, 3] = x[-2, 3]
    x[-1, 3, 0] += 1e-20
    x[points // 2, 4] = x[points // 2 - 1, 4]  # of length zero, which is in the range
    x = x.float().to(device)
    truth = reference.track_geometry(x.double())
    got = track_geometry(x)
    for name in got._fields[:-1]:
        values = (getattr(each, name).float() for each in (got, truth))
        torch.testing.assert_close(*values, rtol=1e-5, atol=0, equal_nan=True, msg=name)
    assert torch.equal(got.zero_steps, truth.zero_steps)
    torch.testing.assert_close(lss(x).double(), truth.lss, rtol=1e-5, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [5, 600, 8200])
def test_what_is_no_number_stays_in_its_track(d, dtype, device):
    x = tracks_of(5, 6, d, dtype, device, broken=True)
    for got, truth in (
        (lss(x), reference.lss(x.double())),
        (chord_deviation(x), reference.chord_deviation(x.double())),
    ):
        assert torch.equal(got.isnan(), truth.isnan())
    for reduction in ("none", "mean"):
        got, truth = (
            line_deviation(x, reduction=reduction),
            reference.line_deviation(x.double(), reduction=reduction),
        )
        assert torch.equal(got.isnan(), truth.isnan())
    got, truth = track_distance(x), reference.track_distance(x.double())
    assert torch.equal(got.isnan(), truth.isnan())
    assert torch.equal(got.isinf(), truth.isinf())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("m", [0, 1])
def test_no_track_and_one(m, dtype, device):
    x = tracks_of(4, m, 130, dtype, device)
    assert lss(x).shape == (m,)
    assert track_geometry(x).lss.shape == (m,)
    assert chord_deviation(x).shape == (4, m)
    assert line_deviation(x, reduction="none").shape == (m, 3, 3)
    assert track_distance(x).shape == (m, m)
    assert nearest_track(x).track.tolist() == [-1] * m
    leaf = x.clone().requires_grad_()
    lss(leaf).sum().backward()
    assert leaf.grad.shape == x.shape


@pytest.mark.parametrize("layout", ["stacked", "list", "offset"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d"), BLOCKS)
def test_line_deviation(n, d, dtype, layout, device):
    x = tracks_of(n + 1, 7, d, dtype, device)
    arranged = laid(x, layout)
    for reduction in ("none", "mean"):
        truth, plain = (reference.line_deviation(each, reduction=reduction) for each in (x.double(), x))
        got = line_deviation(arranged, reduction=reduction)
        assert_accurate(got, plain, truth)
        assert torch.equal(got, got.mT)
        weights = torch.randn(got.shape, dtype=torch.float64, device=device)
        metric, definition = (
            partial(f, reduction=reduction) for f in (line_deviation, reference.line_deviation)
        )
        assert_accurate_gradient(metric, definition, arranged, x, weights)


@pytest.mark.parametrize("layout", ["stacked", "list", "offset"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("points", "d"), [(2, 1), (3, 31), (4, 512), (5, 513), (6, 520), (7, 2049), (40, 65)]
)
def test_chord_deviation(points, d, dtype, layout, device):
    x = tracks_of(points, 9, d, dtype, device)
    arranged = laid(x, layout)
    truth, plain = (reference.chord_deviation(each) for each in (x.double(), x))
    assert_accurate(chord_deviation(arranged), plain, truth)
    weights = torch.randn(truth.shape, dtype=torch.float64, device=device)
    assert_accurate_gradient(chord_deviation, reference.chord_deviation, arranged, x, weights)


@pytest.mark.parametrize("layout", ["stacked", "list", "offset"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("points", "m", "d"),
    [(2, 2, 1), (3, 63, 31), (2, 65, 128), (2, 128, 136), (2, 129, 130), (5, 20, 200), (70, 6, 33)],
)
def test_track_distance_and_nearest_track(points, m, d, dtype, layout, device):
    x = torch.randn(points, m, d, dtype=torch.float64).to(dtype).to(device)
    arranged = laid(x, layout)
    truth, plain = reference.track_distance(x.double()), reference.track_distance(x)
    assert_accurate(track_distance(arranged), plain, truth)
    weights = torch.randn(m, m, dtype=torch.float64, device=device)
    assert_accurate_gradient(track_distance, reference.track_distance, arranged, x, weights)
    labels = torch.arange(m, device=device) % 3
    for chosen in (None, labels):
        got, wanted = (
            nearest_track(arranged, labels=chosen),
            reference.nearest_track(x.double(), labels=chosen),
        )
        assert torch.equal(got.track, wanted.track)
        assert torch.equal(got.layer, wanted.layer)
        assert_accurate(got.distance, wanted.distance.to(got.distance.dtype), wanted.distance)


def test_host_threads_may_launch_at_different_widths(device):
    """A kernel's shared memory is a setting of the process: no thread may take it from another."""
    wide, wider = (tracks_of(2, 1, d, torch.float64, device) for d in (2048, 4096))
    refused = []

    def launch(x):
        for _ in range(150):
            try:
                lss(x)
            except RuntimeError as error:
                refused.append(str(error))

    threads = [Thread(target=launch, args=(x,)) for x in (wide, wider)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []


@pytest.mark.parametrize("d", [40, 700, 2049, 8193])
@pytest.mark.parametrize("points", [2, 9, 70])
def test_lss_is_that_of_track_geometry_to_the_last_bit(points, d, device):
    x = tracks_of(points, 4, d, torch.float64, device, zero_steps=True)
    assert torch.equal(track_geometry(x).lss, lss(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("points", "d"), [(64, 70), (65, 70), (66, 70), (129, 1100), (130, 8200), (900, 33)])
def test_the_gradient_of_deep_tracks(points, d, dtype, device):
    """A sum of many directions is taken in runs; their ends lie at multiples of 64."""
    x = torch.randn(points, 2, d, dtype=torch.float64).cumsum(0).to(dtype).to(device)
    truth, weights = reference.lss(x.double()), torch.ones(2, dtype=torch.float64, device=device)
    found, plain, exact = (
        gradient(metric, each, weights)
        for metric, each in ((lss, x), (reference.lss, x), (reference.lss, x.double()))
    )
    assert_accurate(found, plain, exact, condition=truth.max())
