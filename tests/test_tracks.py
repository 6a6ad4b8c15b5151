# SPDX-License-Identifier: MIT
"""What a caller gives as tracks is parsed once, in whichever form, and mistakes are told by its own name."""

import pytest
import torch

import geodesic_fast as gf
from geodesic_fast._tracks import Tracks


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("dim", [0, -2, "list"])
def test_every_form_says_the_same(batch, dim):
    x = torch.randn(4, *batch, 5, dtype=torch.bfloat16)
    given = list(x) if dim == "list" else x.movedim(0, dim) if batch else x
    tracks = Tracks.of(given, 0 if dim == "list" or not batch else dim)
    assert (tracks.points, tracks.steps, tuple(tracks.batch), tracks.d) == (4, 3, batch, 5)
    assert tracks.m == x[0, ..., 0].numel()
    assert (tracks.dtype, tracks.sums_dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(tracks.stacked(), x)
    assert torch.equal(tracks.in_sums_dtype(), x.float())
    assert all(map(torch.equal, tracks.states(), x))
    assert all(map(torch.equal, tracks.ends(), (x[0], x[-1])))
    assert torch.equal(tracks.flat().stacked(), x.reshape(4, tracks.m, 5))
    again = tracks.map(torch.neg).as_given()
    assert isinstance(again, list) == (dim == "list")
    assert torch.equal(torch.stack(list(again)), -x)


def test_nothing_is_copied():
    x = torch.randn(3, 4, 5)
    for tracks in (Tracks.of(x), Tracks.of(list(x)), Tracks.of(x.movedim(0, 1), 1)):
        held = {layer.untyped_storage().data_ptr() for layer in (*tracks.layers, *tracks.ends())}
        assert held == {x.untyped_storage().data_ptr()}


def test_mistakes_are_told_by_the_name_of_the_argument():
    x, other = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    mixed = [other[0], other[1].double(), other[2]]
    with pytest.raises(ValueError, match=r"other must be layers of equal dtype: .* for layer in other\]"):
        gf.track_distance(x, mixed)
    with pytest.raises(ValueError, match="x must have at least 2 layers along dim 0"):
        gf.ots(x[:1])
    states = iter([x[0], x[1], x[2, :, :4]])
    with pytest.raises(ValueError, match=r"tracks\[0\] has \(4, 5\), tracks\[2\] has \(4, 4\)"):
        gf.wasserstein_curve(states)
    states = iter([x[0], x[1], None])
    with pytest.raises(TypeError, match=r"tracks\[2\] must be a torch\.Tensor, got NoneType"):
        gf.wasserstein_curve(states)


@pytest.mark.engine
def test_a_tangent_is_told_by_the_name_of_the_argument():
    x = torch.randn(3, 4, 5)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.randn(3, 4, 5), torch.ones_like(x))
        with pytest.raises(NotImplementedError, match="other must not carry forward-mode tangents"):
            gf.track_distance(x, dual)
