# SPDX-License-Identifier: MIT
"""What holds for every operation of the engine: layouts, transforms, results that are nobody's."""

import importlib

import pytest
import torch
from known_tracks import random_tracks
from torch._subclasses import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

import geodesic_fast
from geodesic_fast import (
    action,
    chord_deviation,
    geodesic_bound,
    line_deviation,
    lss,
    nearest_track,
    step_geometry,
    track_distance,
    track_geometry,
)
from geodesic_fast.engine import chord_deviation as chord_operation
from geodesic_fast.engine import line_deviation as line_operation
from geodesic_fast.engine import nearest_track as nearest_operation
from geodesic_fast.engine import step_geometry as step_operation
from geodesic_fast.engine import torch_internals as internals
from geodesic_fast.engine import track_distance as distance_operation
from geodesic_fast.engine import track_geometry as geometry_operation
from geodesic_fast.engine.operation import Operation

pytestmark = pytest.mark.engine

METRICS = {
    "lss": lss,
    "track_geometry": lambda x: torch.stack([f.nan_to_num() for f in track_geometry(x)[:-1]]),
    "action": action,
    "step_geometry": lambda x: torch.cat([f.nan_to_num() for f in step_geometry(x)]),
    "chord_deviation": chord_deviation,
    "line_deviation": line_deviation,
    "line_deviation of each": lambda x: line_deviation(x, reduction="none"),
    "track_distance": track_distance,
    "track_distance to others": lambda x: track_distance(x, [*(x.detach() * 2 + 1)]),
    "nearest_track": lambda x: nearest_track(x).distance,
    "geodesic_bound": geodesic_bound,
}


def tracks(*shape, dtype=torch.float64):
    return random_tracks(shape or (5, 3, 4, 6), dtype, "cpu")


def spread(x):
    """The same values with gaps between them."""
    wide = x.new_empty([*x.shape[:-1], 2 * x.shape[-1]] if x.ndim else [])
    return wide[..., ::2].copy_(x) if x.ndim else x


def offset(x):
    return x.new_empty(x.numel() + 3)[3:].copy_(x.flatten()).view(x.shape)


LAYOUTS = {
    "reversed strides": lambda x: (
        x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))
    ),
    "spread": spread,
    "offset": offset,
    "features first": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1) if x.ndim else x,
}


def gradient_of(metric, x):
    leaf = x.detach().requires_grad_()
    result = metric(leaf)
    weights = torch.linspace(0.5, 1.5, result.numel(), dtype=result.dtype).reshape(result.shape)
    return torch.autograd.grad((result * weights).sum(), leaf)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("listed", [False, True])
def test_backward_reads_saved_tensors_of_any_layout(name, layout, listed):
    x = tracks()
    metric = (lambda x: METRICS[name](list(x))) if listed and "others" not in name else METRICS[name]
    expected = gradient_of(metric, x)
    with saved_tensors_hooks(lambda t: t, LAYOUTS[layout]):
        torch.testing.assert_close(gradient_of(metric, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_backward_reads_expanded_gradients(name):
    leaf = tracks().requires_grad_()
    result = METRICS[name](leaf)
    (expected,) = torch.autograd.grad(result, leaf, torch.ones_like(result), retain_graph=True)
    one = torch.ones((), dtype=result.dtype).expand(result.shape)
    assert torch.equal(torch.autograd.grad(result, leaf, one)[0], expected)


def args_of(layers, other):
    """Every operation, forward and backward, with arguments for it."""
    first = layers[0]
    listed = len(layers) > 1
    n, batch = (len(layers) - 1, first.shape[:-1]) if listed else (len(first) - 1, first.shape[1:-1])
    m, d = batch.numel(), first.shape[-1]

    def new(*shape):
        return torch.rand(shape, dtype=torch.float64)

    of_pairs = torch.zeros((m, m), dtype=torch.int32)
    yield geometry_operation.track_geometry, (layers, "skip", True, True)
    yield geometry_operation.track_geometry, (layers, "skip", False, False)
    for fields in ((), (9,)):
        given = (new(*fields, *batch), layers, new(*batch, d), new(n, *batch), "skip", not fields)
        yield geometry_operation.track_geometry_backward, given
    yield chord_operation.chord_deviation, (layers, True)
    kept = chord_operation.chord_deviation(layers, True)
    yield chord_operation.chord_deviation_backward, (new(n + 1, *batch), layers, *kept)
    for keep in (False, True):
        yield step_operation.step_geometry, (layers, keep)
    fields, kept = step_operation.step_geometry(layers, True)
    yield step_operation.step_geometry_backward, (torch.rand_like(fields), layers, fields, kept)
    for each in (False, True):
        yield line_operation.line_deviation, (layers, "skip", each)
        yield line_operation.line_deviation_backward, (new(*batch if each else (), n, n), layers, each)
    for keep in (False, True):
        yield distance_operation.track_distance, (layers, other, keep)
        given = (new(m, m), new(m, m), of_pairs, layers, other, keep and bool(other))
        yield distance_operation.track_distance_backward, given
    yield nearest_operation.nearest_track, (layers, torch.arange(m))


def layouts_of(x):
    yield [x]
    yield [x.movedim(0, 1).contiguous().movedim(1, 0)]  # track-major
    yield [x.movedim(-1, 1).contiguous().movedim(1, -1)]  # images: features before places
    yield [x.mT.contiguous().mT]
    yield [x[..., ::2]]
    yield [x[:, :1].expand_as(x)]
    yield [spread(x)]
    yield list(x)
    yield [x[0].movedim(0, -1).contiguous().movedim(-1, 0), *x[1:]]
    yield [layer.movedim(-1, 0).contiguous().movedim(0, -1) for layer in x]
    yield [x[..., :1]]
    yield [x.movedim(-1, 0).contiguous().movedim(0, -1)[..., :1]]


def strides_of(outputs):
    return [(tuple(t.shape), t.stride(), t.dtype) for t in outputs]


def test_fakes_and_kernels_agree_on_strides():
    seen = set()
    for shape in ((4, 3, 6), (4, 2, 3, 6), (4, 1, 3, 1, 6), (3, 2, 2, 2, 2, 2, 2), (4, 6)):
        for layers in layouts_of(tracks(*shape)):
            for other in (None, layers):
                for operation, args in args_of(layers, other):
                    seen.add(operation)
                    real = operation.registered(*args)
                    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                        fakes = torch.utils._pytree.tree_map_only(torch.Tensor, mode.from_tensor, args)
                        fake = operation.registered(*fakes)
                    assert strides_of(fake) == strides_of(real), (operation.registered, shape)
    modules = [chord_operation, line_operation, nearest_operation, distance_operation, geometry_operation]
    modules.append(step_operation)
    every = {o for module in modules for o in vars(module).values() if isinstance(o, Operation)}
    assert seen == every


CONVOLUTIONAL = {  # features that are not last in memory: (n+1, m, d) of x (n+1, d, m)
    "permute": lambda x: x.permute(0, 2, 1),
    "mT": lambda x: x.mT,
    "a list": lambda x: [layer.movedim(0, -1) for layer in x],
}


@pytest.mark.parametrize("view", CONVOLUTIONAL)
def test_compiled_gradients_of_features_that_are_not_last(view):
    def loss(x):
        given = CONVOLUTIONAL[view](x * 1.5)
        found = [lss(given), chord_deviation(given), track_geometry(given).turning_angle]
        found += [line_deviation(given), track_distance(given), geodesic_bound(given)]
        return sum(f.sum() for f in found)

    x = tracks(4, 6, 5).requires_grad_()
    (expected,) = torch.autograd.grad(loss(x), x)
    torch.compiler.reset()
    (found,) = torch.autograd.grad(torch.compile(loss, fullgraph=True)(x), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", METRICS)
def test_transforms(name):
    metric, x = METRICS[name], tracks(4, 2, 3, 5)
    leaf = x.clone().requires_grad_()

    def loss(x):
        return metric(x).sin().sum()

    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
    each = [x[:, i] for i in range(2)]
    torch.testing.assert_close(torch.func.vmap(metric, in_dims=1)(x), torch.stack([*map(metric, each)]))
    batched = torch.func.vmap(torch.func.grad(loss), in_dims=1)(x)
    torch.testing.assert_close(batched, torch.stack([*map(torch.func.grad(loss), each)]))
    result = metric(leaf)
    rows = [torch.autograd.grad(y, leaf, retain_graph=True)[0] for y in result.flatten()]
    expected = torch.stack(rows).reshape(*result.shape, *x.shape)
    torch.testing.assert_close(torch.func.jacrev(metric)(x), expected)
    found = torch.autograd.functional.jacobian(metric, x, vectorize=True)  # batched gradients
    torch.testing.assert_close(found, expected)
    _, pull = torch.func.vjp(metric, x)
    torch.testing.assert_close(pull(torch.ones_like(result))[0], expected.sum([*range(result.ndim)]))


def test_transforms_of_lists_with_layers_that_are_not_batched():
    x = tracks(3, 4, 6)

    def of_list(a, b):
        return lss([a, b, 2 * b])

    found = torch.func.vmap(of_list, in_dims=(0, None))(x[0], x[1, 0])
    torch.testing.assert_close(found, torch.stack([of_list(row, x[1, 0]) for row in x[0]]))


@pytest.mark.parametrize("name", ["lss", "chord_deviation", "line_deviation", "track_distance"])
def test_second_derivatives_by_transforms_are_refused(name):
    def loss(x):
        return METRICS[name](x).sum()

    with pytest.raises(
        NotImplementedError,
        match=rf"reference\.{name}, which autograd can differentiate twice",
    ):
        torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(tracks())


@pytest.mark.parametrize("name", METRICS)
def test_results_may_be_changed_in_place(name):
    x = tracks()
    leaf = x.clone().requires_grad_()
    result = METRICS[name](leaf)
    (2 * result).sum().backward()
    other = x.clone().requires_grad_()
    changed = METRICS[name](other)
    assert changed._base is None
    changed.mul_(2).sum().backward()
    torch.testing.assert_close(other.grad, leaf.grad)


def test_an_operation_of_a_single_tensor_is_refused_where_it_is_made():
    with pytest.raises(ValueError, match="single must give two tensors or more, or one list of gradients"):
        Operation("single(Tensor[] layers) -> Tensor", lambda layers: (layers[0],))


def test_fields_of_a_geometry_are_nobodys_views():
    leaf = tracks().requires_grad_()
    for given in (leaf, leaf.detach()):
        geometry = track_geometry(given)
        assert len({field.untyped_storage().data_ptr() for field in geometry}) == len(geometry)
        assert all(field._base is None for field in geometry)
    geometry = track_geometry(leaf)
    geometry.lss.clamp_(max=2)
    geometry.lss.sum().backward()
    distance = track_distance(leaf)
    distance.fill_diagonal_(torch.inf).amin().backward()


PRIVATE = ["_dispatch_keys", "_dispatch_tls_local_include_set", "DispatchKeySet", "DispatchKey",
           "_current_graph_task_id", "_vmapmode_increment_nesting"]  # fmt: skip


@pytest.mark.parametrize("name", PRIVATE)
def test_a_torch_without_a_private_name_takes_the_plain_route(name, monkeypatch):
    x = tracks().requires_grad_()
    expected = gradient_of(lss, x)
    try:
        with monkeypatch.context() as patch:
            patch.delattr(torch._C, name)
            importlib.reload(internals)
            if name in PRIVATE[:4]:
                assert not internals.goes_direct([x.detach()])
                assert internals.is_plain(x)
            assert not internals.in_backward()
        patched = {key: getattr(internals, key) for key in ("goes_direct", "in_transform", "is_batched")}
        for key, value in patched.items():
            monkeypatch.setattr(geodesic_fast.engine.operation, key, value)
        assert torch.equal(gradient_of(lss, x), expected)
    finally:
        importlib.reload(internals)
