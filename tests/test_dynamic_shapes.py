# SPDX-License-Identifier: MIT
"""Compiled and exported once, called with any number of tracks."""

import pytest
import torch
from known_tracks import random_tracks
from torch._dynamo.testing import CompileCounterWithBackend

import geodesic_fast as gf

pytestmark = pytest.mark.engine

METRICS = {
    "lss": gf.lss,
    "track_geometry": gf.track_geometry,
    "step_geometry": gf.step_geometry,
    "action": gf.action,
    "action at times": lambda x: gf.action(x, times=[0.0, 1.0, 3.0, 4.0]),
    "chord_deviation": gf.chord_deviation,
    "line_deviation": gf.line_deviation,
    "line_deviation, propagate": lambda x: gf.line_deviation(x, zero_step="propagate"),
    "line_deviation of each": lambda x: gf.line_deviation(x, reduction="none"),
    "track_distance": gf.track_distance,
    "track_distance to others": lambda x: gf.track_distance(x, x * 2),
    "nearest_track": gf.nearest_track,
    "geodesic_bound": gf.geodesic_bound,
}


def fields_of(name, x):
    result = METRICS[name](x)
    return tuple(result) if isinstance(result, tuple) else (result,)


def few_and_many():
    return random_tracks((3, 8, 5), torch.float32), random_tracks((3, 11, 5), torch.float32)


@pytest.mark.parametrize("name", METRICS)
def test_one_graph_serves_any_number_of_tracks(name):
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x: fields_of(name, x), fullgraph=True, backend=counter)
    for x in few_and_many():
        leaf, own = x.clone().requires_grad_(), x.clone().requires_grad_()
        torch._dynamo.mark_dynamic(leaf, 1)
        found, expected = compiled(leaf), fields_of(name, own)
        torch.testing.assert_close(found, expected, equal_nan=True)
        found[0].nan_to_num().sum().backward()
        expected[0].nan_to_num().sum().backward()
        torch.testing.assert_close(leaf.grad, own.grad)
    assert counter.frame_count == 1


class Metric(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        return fields_of(self.name, x)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", METRICS)
def test_exported_for_any_number_of_tracks(name, strict):
    few, many = few_and_many()
    shapes = ({1: torch.export.Dim("m", min=3, max=64)},)
    program = torch.export.export(Metric(name), (few,), dynamic_shapes=shapes, strict=strict)
    torch.testing.assert_close(program.module()(many), fields_of(name, many), equal_nan=True)


@pytest.mark.parametrize("name", ["track_distance", "nearest_track", "geodesic_bound"])
def test_compiled_ahead_of_time_for_any_number_of_tracks(name, tmp_path):
    few, many = few_and_many()
    shapes = ({1: torch.export.Dim("m", min=3, max=64)},)
    program = torch.export.export(Metric(name), (few,), dynamic_shapes=shapes)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "metric.pt2"))
    found = torch._inductor.aoti_load_package(package)(many)
    torch.testing.assert_close(tuple(found), fields_of(name, many))
