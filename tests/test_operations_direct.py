# SPDX-License-Identifier: MIT
"""Operations without torch's dispatcher: only where it would do nothing else, and with the same answers."""

from typing import ClassVar

import pytest
import torch
from known_tracks import random_tracks
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from geodesic_fast import line_deviation, lss, track_geometry
from geodesic_fast.engine.torch_internals import goes_direct

pytestmark = pytest.mark.engine
OPERATION = "geodesic_fast::track_geometry"


class Wrapped(torch.Tensor):
    """A tensor that holds another and sees every operation on it."""

    seen: ClassVar[list[str]] = []

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, strides=inner.stride()
        )

    def __init__(self, inner):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, _, args=(), kwargs=None):
        cls.seen.append(function.name())
        args, kwargs = tree_map(lambda x: x.inner if isinstance(x, Wrapped) else x, (args, kwargs or {}))
        return function(*args, **kwargs)


class Named(torch.Tensor):
    """A subclass that changes nothing."""


class SeesOperations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, _, args=(), kwargs=None):
        self.seen.append(function.name())
        return function(*args, **(kwargs or {}))


class SeesFunctions(TorchFunctionMode):
    def __torch_function__(self, function, _, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def tracks_of(dtype, device="cpu"):
    return random_tracks((5, 3, 8), dtype, device)


def test_plain_tensors_go_direct(device):
    tracks = tracks_of(torch.float32, device)
    parameter = torch.nn.Parameter(tracks)
    assert goes_direct([tracks])
    assert goes_direct([tracks.mT, tracks[1:], tracks.detach()])
    assert not goes_direct([parameter])
    assert not goes_direct([tracks, parameter])
    with torch.no_grad():
        assert goes_direct([parameter])
    with torch.inference_mode():
        assert goes_direct([tracks, parameter, tracks + 1])
        inference = tracks + 1
    assert goes_direct([inference])
    with torch.autocast(device.type, torch.bfloat16):
        assert goes_direct([tracks])


@pytest.mark.parametrize("metric", [lss, track_geometry, line_deviation])
@pytest.mark.parametrize("listed", [False, True])
def test_gives_the_same_as_the_operation(metric, listed, device):
    tracks = tracks_of(torch.bfloat16, device)
    layers = list(tracks) if listed else tracks
    direct = metric(layers)
    with SeesOperations() as mode:
        dispatched = metric(layers)
    assert any(name.startswith("geodesic_fast::") for name in mode.seen)
    torch.testing.assert_close(direct, dispatched, rtol=0, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(metric(layers), direct, rtol=0, atol=0)


@pytest.mark.parametrize("metric", [lss, line_deviation])
def test_the_backward_goes_direct_and_gives_the_same(metric, device):
    tracks = tracks_of(torch.float32, device).requires_grad_()
    (direct,) = torch.autograd.grad(metric(tracks).sum(), tracks)
    (dispatched,) = torch.autograd.grad(metric(tracks).sum(), tracks, create_graph=True)
    assert torch.equal(direct, dispatched)
    assert dispatched.requires_grad


def test_fake_tensors_have_shapes_and_no_values(device):
    tracks = tracks_of(torch.float32, device)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert not goes_direct([tracks])
        fake = mode.from_tensor(tracks)
        score = lss(fake)
        assert lss(tracks).shape == (3,)
    assert not goes_direct([fake])
    assert type(score) is type(fake)
    assert score.shape == (3,)


@pytest.mark.parametrize("tracing", ["real", "fake", "symbolic"])
def test_traces_hold_the_operation(tracing, device):
    tracks = tracks_of(torch.float32, device)
    graph = make_fx(lambda x: lss(x), tracing_mode=tracing)(tracks)
    assert any("geodesic_fast.track_geometry" in str(node.target) for node in graph.graph.nodes)
    other = tracks_of(torch.float32, device) * 2 + tracks.flip(0)
    assert torch.equal(graph(other), lss(other))
    script = torch.jit.trace(lambda x: lss(x), (tracks,))
    assert OPERATION in str(script.inlined_graph)
    assert torch.equal(script(other), lss(other))


@pytest.mark.parametrize("metric", [lss, line_deviation])
def test_compiles_to_one_graph_without_gradients(metric, device):
    tracks = tracks_of(torch.float32, device)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(metric, fullgraph=True, backend=backend)
        assert torch.equal(compiled(tracks), metric(tracks))
    assert "geodesic_fast" in str(graphs[0].graph)


def test_exported_programs_hold_the_operation(device):
    class Score(torch.nn.Module):
        def forward(self, tracks):
            return lss(tracks)

    tracks = tracks_of(torch.float32, device)
    for strict in (False, True):
        program = torch.export.export(Score(), (tracks,), strict=strict)
        assert "geodesic_fast.track_geometry" in str(program.graph)
        assert torch.equal(program.module()(tracks), lss(tracks))


def test_transforms_are_dispatched(device):
    tracks = tracks_of(torch.float64, device)
    found = []

    def score(x):
        found.append(goes_direct([x]) or goes_direct([tracks]))
        return lss(x)

    assert torch.equal(torch.func.functionalize(score)(tracks), lss(tracks))
    torch.testing.assert_close(torch.func.vmap(score, in_dims=1)(tracks), lss(tracks))
    leaf = tracks.clone().requires_grad_()
    (expected,) = torch.autograd.grad(lss(leaf).sum(), leaf)
    assert torch.equal(torch.func.grad(lambda x: score(x).sum())(tracks), expected)
    assert found == [False] * 3


def test_subclasses_and_modes_are_dispatched():
    tracks = tracks_of(torch.float32)
    Wrapped.seen.clear()
    wrapped = Wrapped(tracks)
    assert not goes_direct([wrapped])
    assert torch.equal(lss(wrapped), lss(tracks))
    assert OPERATION in Wrapped.seen
    named = tracks.as_subclass(Named)
    assert not goes_direct([named])
    assert torch.equal(lss(named), lss(tracks))
    for mode in (SeesFunctions(), SeesOperations(), torch.device("cpu")):
        with mode:
            assert not goes_direct([tracks])


def test_lazy_views_are_resolved_first():
    tracks = tracks_of(torch.float32)
    negative = torch.complex(tracks, tracks).conj().imag  # minus tracks, but for a sign still to be applied
    assert negative.is_neg()
    assert not goes_direct([negative])
    assert torch.equal(lss([tracks[0], *negative]), lss([tracks[0], *-tracks]))
    lazy = torch._neg_view(tracks)
    assert not goes_direct([lazy])
    assert torch.equal(lss([tracks[0], *lazy]), lss([tracks[0], *-tracks]))
    assert not goes_direct([torch._efficientzerotensor(3, 4)])


def test_the_profiler_sees_the_operation():
    tracks = tracks_of(torch.float32)
    with torch.autograd.profiler.profile() as profile:
        lss(tracks)
    assert any(event.key == OPERATION for event in profile.key_averages())


def test_dual_levels_are_dispatched():
    tracks = tracks_of(torch.float32)
    with torch.autograd.forward_ad.dual_level():
        assert not goes_direct([tracks])
        assert lss(tracks).shape == (3,)
