# SPDX-License-Identifier: MIT
"""The means of every step over tracks, stored or streamed, against torch's own cosines in float64."""

import copy

import pytest
import torch
from small_networks import Net
from torch.nn.functional import cosine_similarity

from geodesic_fast import StepGeometry, StepProfile, step_geometry
from geodesic_fast.recording import TrackAccumulator, record, watch

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def expected(states, counts):
    """Sums and counts by torch in float64: a cosine with a zero vector is left out."""
    x = torch.stack([state.double() for state in states])[:, counts]  # (n+1, m, d)
    v = x.diff(dim=0)
    length, size = v.norm(dim=-1), x.norm(dim=-1)
    ok = length > 0
    numbers = StepGeometry(
        (length, torch.ones_like(ok)),
        (length / size[:-1], size[:-1] > 0),
        (cosine_similarity(x[:-1], x[1:], dim=-1), (size[:-1] > 0) & (size[1:] > 0)),
        (cosine_similarity(v, x[:-1], dim=-1), ok & (size[:-1] > 0)),
        (cosine_similarity(v[:-1], v[1:], dim=-1), ok[:-1] & ok[1:]),
    )
    means = [[row[some].mean() for row, some in zip(*number, strict=True)] for number in numbers]
    return [torch.stack(mean) for mean in means], [(~some).sum(-1) for _, some in numbers]


def assert_profile(got, states, counts, rtol):
    means, undefined = expected(states, counts)
    assert got.tracks == int(counts.sum())
    for name, mean, want, missing, lost in zip(
        StepGeometry._fields, got.mean, means, got.undefined, undefined, strict=True
    ):
        torch.testing.assert_close(
            mean, want, rtol=rtol, atol=rtol, equal_nan=True, msg=lambda m, n=name: n + m
        )
        assert torch.equal(missing, lost), name


def walk(dtype, zeros=True):
    states = torch.randn(7, 3, 9, 16, generator=torch.Generator().manual_seed(0)).cumsum(0)
    states[4, 1, :4] = states[3, 1, :4]  # steps of length zero
    states[0, 2, 5] = 0 if zeros else 1  # a state at zero: no relative length that is finite
    return states.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kept", [True, False])
def test_is_the_mean_of_torchs_cosines(dtype, masked, kept):
    states = walk(dtype, zeros=False)
    counts = torch.ones(3, 9, dtype=torch.bool)
    counts[1, 3:] = not masked
    tracks = TrackAccumulator(mask=counts if masked else None, copy=kept, profile=True)
    for state in states:
        tracks.push(state)
    assert_profile(tracks.profile, list(states), counts, 1e-6 if dtype != torch.float64 else 1e-12)
    stored = step_geometry(states).profile(counts if masked else None)
    for a, b in zip(
        (*tracks.profile.mean, *tracks.profile.undefined), (*stored.mean, *stored.undefined), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
    without = TrackAccumulator(mask=counts if masked else None)
    for state in states:
        without.push(state)
    assert all(map(torch.equal, tracks.geometry, without.geometry))


def test_what_is_undefined_is_counted_and_left_out():
    states = walk(torch.float32)
    tracks = TrackAccumulator(profile=True)
    for state in states:
        tracks.push(state)
    lost = tracks.profile.undefined
    assert lost.length.tolist() == [0] * 6
    assert lost.state_cosine.tolist() == [1, 0, 0, 0, 0, 0]
    assert lost.update_cosine.tolist() == [1, 0, 0, 4, 0, 0]
    assert lost.turning_cosine.tolist() == [0, 0, 4, 4, 0]
    assert tracks.profile.mean.relative_length[0] == torch.inf  # a step from zero
    assert tracks.profile.mean.state_cosine.isfinite().all()
    still = TrackAccumulator(profile=True)
    for _ in range(3):
        still.push(torch.zeros(4, 8))
    assert still.profile.mean.length.tolist() == [0, 0]
    assert still.profile.mean.turning_cosine.isnan().all()
    assert still.profile.undefined.turning_cosine.tolist() == [4]


def test_profiles_of_parts_join_to_that_of_all():
    states = walk(torch.float32)
    parts = [step_geometry(states[:, rows]).profile() for rows in (slice(0, 1), slice(1, 2), slice(2, 3))]
    whole, joined = step_geometry(states).profile(), StepProfile.joined(parts)
    assert joined.tracks == whole.tracks == 27
    for a, b in zip((*joined.mean, *joined.undefined), (*whole.mean, *whole.undefined), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


@pytest.mark.parametrize("options", [{}, {"copy": True}, {"mask": torch.arange(20).reshape(4, 5) % 3 > 0}])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_watch_measures_every_step(options, mode):
    net, x = Net(depth=5), torch.randn(4, 5, 8)
    with (
        mode(),
        watch(net, "blocks.*", profile=True, ends=True, **options) as w,
        record(net, "blocks.*") as r,
    ):
        net(x)
    counts = options.get("mask", torch.ones(4, 5, dtype=torch.bool))
    assert_profile(w.profile, [state.detach() for state in r.tracks], counts, 1e-6)
    assert len(w.profile.mean.length) == len(w.names) - 1
    with mode(), watch(net, "blocks.*", profile=True, passes="all", **options) as w:
        net(x)
        net(x * 2)
    with record(net, "blocks.*", passes="all") as r:
        net(x)
        net(x * 2)
    assert_profile(
        w.profile, [state.detach() for state in r.tracks], torch.cat([counts, counts]).flatten(), 1e-6
    )
    with mode(), watch(net, "blocks.*") as w:
        net(x)
    with pytest.raises(RuntimeError, match="pass profile=True to watch or TrackAccumulator"):
        _ = w.profile


def test_a_state_that_changes_in_place_is_refused_and_a_copy_goes_on():
    states = [torch.randn(6, 8) for _ in range(5)]
    tracks = TrackAccumulator(copy=False, profile=True)
    for state in states[:3]:
        tracks.push(state)
    states[1].mul_(2)  # no longer the last, and still needed
    with pytest.raises(RuntimeError, match="changed in place"):
        tracks.push(states[3])
    whole, half = (TrackAccumulator(profile=True) for _ in range(2))
    for state in states:
        whole.push(state)
    for state in states[:3]:
        half.push(state.clone())
    other = copy.deepcopy(half)
    for state in states[3:]:
        half.push(state.clone())
        other.push(state.clone())
    for tracks in (half, other):
        assert all(map(torch.equal, tracks.profile.mean, whole.profile.mean))
    half.reset()
    for state in states:
        half.push(state)
    assert all(map(torch.equal, half.profile.mean, whole.profile.mean))
