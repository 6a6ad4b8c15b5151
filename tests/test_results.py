# SPDX-License-Identifier: MIT
"""What holds for every result: compared by value, hashed, nobody's view, one break in a compiled graph."""

import copy
import dataclasses
import pickle

import pytest
import torch
from known_tracks import random_tracks
from torch._dynamo.testing import CompileCounter

import geodesic_fast as gf

RESULTS = {
    "track_geometry": gf.track_geometry,
    "step_geometry": gf.step_geometry,
    "nearest_track": gf.nearest_track,
    "neural_collapse": lambda x: gf.neural_collapse(x, labels=torch.arange(8) % 2),
    "geodesic_gap": gf.geodesic_gap,
    "geodesic_bound_summary": gf.geodesic_bound_summary,
    "wasserstein_curve": gf.wasserstein_curve,
    "ots": gf.ots,
    "ots_curve": lambda x: gf.ots_curve(x[0], x[-1], [4, 8]),
    "soft_ots": lambda x: gf.soft_ots(x[0], x[-1], blur=2.0),
}
SEARCHES = {  # of tracks, or of their first and last points
    "ots": (gf.ots, False, {}),
    "geodesic_gap": (gf.geodesic_gap, False, {}),
    "wasserstein_curve": (gf.wasserstein_curve, False, {}),
    "geodesic_bound_summary": (gf.geodesic_bound_summary, False, {}),
    "ots_curve": (gf.ots_curve, True, {"sizes": [4, 8]}),
    "soft_ots": (gf.soft_ots, True, {"blur": 2.0}),
    "displacement_interpolation": (gf.displacement_interpolation, True, {"t": [0.0, 0.5]}),
}


def tracks():
    return random_tracks((4, 8, 3), torch.float64)


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_compared_by_value_and_hashed(name):
    x = tracks()
    x[1, 0, 0] = x[0, 0, 0]
    one, same, other = (RESULTS[name](given) for given in (x, x.clone(), x.flip(0) * 1.5 + x * x))
    assert one == same
    assert (one != same) is False
    assert hash(one) == hash(same)
    assert one != other
    assert one != "a result"
    assert len({one, same, other}) == 2
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_frozen_and_hide_no_method_of_a_tuple(name):
    result = RESULTS[name](tracks())
    fields = getattr(result, "_fields", None) or [field.name for field in dataclasses.fields(result)]
    assert not set(fields) & set(dir(tuple))
    for field in fields:
        with pytest.raises(AttributeError):  # of which dataclasses.FrozenInstanceError is one
            setattr(result, field, getattr(result, field))


def test_values_that_are_undefined_are_equal():
    still = torch.zeros(3, 2, 4)
    assert torch.isnan(gf.track_geometry(still).lss).all()
    assert gf.track_geometry(still) == gf.track_geometry(still)
    assert hash(gf.geodesic_bound_summary(still)) == hash(gf.geodesic_bound_summary(still))
    assert gf.track_geometry(still) != gf.track_geometry(still.double())


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("name", ["track_geometry", "step_geometry", "nearest_track", "geodesic_gap",
                                  "wasserstein_curve"])  # fmt: skip
def test_a_kept_field_keeps_itself_alone(name, gradients):
    result = RESULTS[name](tracks().requires_grad_(gradients))
    fields = [field for field in result if isinstance(field, torch.Tensor)]
    assert len({field.untyped_storage().data_ptr() for field in fields}) == len(fields)
    for field in fields:
        assert field._base is None
        assert field.untyped_storage().nbytes() == field.numel() * field.element_size()


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_one_break_in_a_compiled_graph(name):
    torch.compiler.reset()
    counter = CompileCounter()
    search, of_ends, options = SEARCHES[name]

    def step(x):
        points = x * 2
        found = search(points[0], points[-1], **options) if of_ends else search(points, **options)
        return x + 1, found

    x = tracks().float()
    (moved, found), (_, expected) = torch.compile(step, backend=counter)(x), step(x)
    assert counter.frame_count == 2
    assert torch.equal(moved, x + 1)
    assert torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected


def test_shuffled_scores_are_part_of_a_compiled_graph():
    torch.compiler.reset()
    x = tracks().float()
    step = torch.compile(lambda x: gf.lss_shuffled(x * 2, shuffles=3) + 1, backend="eager", fullgraph=True)
    assert torch.equal(step(x), gf.lss_shuffled(x * 2, shuffles=3) + 1)


@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize("each", ["line_deviation", "lss", "track_geometry", "chord_deviation",
                                  "step_geometry", "action", "track_distance", "nearest_track"])  # fmt: skip
def test_a_track_that_is_masked_out_sends_no_nan(each, engine):
    x = tracks()
    x[2, 1, 0] = torch.nan
    x.requires_grad_()
    options = {"reduction": "none"} if each == "line_deviation" else {}
    result = getattr(gf if engine else gf.reference, each)(x, **options)
    good = torch.tensor([0, *range(2, 8)])
    if each == "line_deviation":
        loss = result[good].sum()
    elif each == "track_distance":
        loss = result[good][:, good].sum()
    elif each == "nearest_track":
        loss = result.distance[good].sum()
    else:
        fields = result if isinstance(result, tuple) else [result]
        loss = sum(field[..., good].sum() for field in fields if field.is_floating_point())
    loss.backward()
    assert x.grad.isfinite().all()
    assert (x.grad[:, 1] == 0).all()
