# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch

import geodesic_fast
from geodesic_fast import _arrays
from geodesic_fast._arrays import takes_arrays

lss, track_geometry = geodesic_fast.lss, geodesic_fast.track_geometry
ots = takes_arrays(geodesic_fast.ots)


def tracks(dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 7, 6)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_in_gives_numpy_out(dtype):
    x = tracks(dtype)
    score = lss(x)
    assert isinstance(score, np.ndarray)
    assert score.dtype == (np.float64 if dtype == np.float64 else np.float32)
    np.testing.assert_array_equal(score, geodesic_fast.lss(torch.from_numpy(x)).numpy())
    np.testing.assert_array_equal(lss(tracks=np.moveaxis(x, 0, 1), dim=1), score)
    np.testing.assert_array_equal(lss(list(x)), score)
    geometry = track_geometry(x)
    assert type(geometry) is geodesic_fast.TrackGeometry
    assert all(isinstance(field, np.ndarray) for field in geometry)
    result = ots(x[0], x[-1])
    assert isinstance(result.permutation, np.ndarray)
    assert result.score == geodesic_fast.ots(torch.from_numpy(x)).score


def points(requires_grad=False) -> torch.Tensor:
    return torch.from_numpy(tracks()).clone().requires_grad_(requires_grad)


MIXED = {  # of a tensor and an array, NumPy's or, to compare with, torch's
    "labels": lambda x, _: geodesic_fast.nearest_track(x, labels=np.arange(7)).distance,
    "a layer": lambda x, y: lss([x[0], y[1], x[2]]),
    "the first layer": lambda x, y: track_geometry([y[0], *x]).action,
    "other": lambda x, y: geodesic_fast.track_distance(x, y + 1),
    "tracks": lambda x, y: geodesic_fast.track_distance(y + 1, x),
    "other by name": lambda x, y: geodesic_fast.track_distance(x, other=list(y + 1)),
    "the ends of a gap": lambda x, y: geodesic_fast.geodesic_gap([y[0], x[-1]]).action,
    "a bound": lambda x, y: geodesic_fast.geodesic_bound([x[0], y[1]]),
    "a deviation": lambda x, y: geodesic_fast.line_deviation([x[0], y[1], x[2]]),
    "a chord": lambda x, y: geodesic_fast.chord_deviation([x[0], y[1], x[2]]),
    "an action": lambda x, y: geodesic_fast.action([x[0], y[1], x[2]]),
}


@pytest.mark.parametrize("what", MIXED)
def test_numpy_beside_a_tensor_does_not_cut_the_graph(what):
    x, plain = points(requires_grad=True), points(requires_grad=True)
    found = MIXED[what](x, tracks())
    assert isinstance(found, torch.Tensor)
    (found.sum() + np.float32(0)).backward()  # torch adds a NumPy scalar without a word
    MIXED[what](plain, torch.from_numpy(tracks())).sum().backward()
    assert x.grad.abs().sum() > 0
    assert torch.equal(x.grad, plain.grad)


def test_labels_decide_nothing():
    labels = [0, 1, 0, 1, 0, 1, 1]
    for given in (np.array(labels), torch.tensor(labels)):
        assert isinstance(geodesic_fast.nearest_track(tracks(), labels=given).distance, np.ndarray)
        assert isinstance(geodesic_fast.nearest_track(points(), labels=given).distance, torch.Tensor)


def test_numpy_is_not_copied():
    x = tracks()
    assert _arrays.as_tensors(x).data_ptr() == x.__array_interface__["data"][0]
    fixed = tracks()
    fixed.flags.writeable = False
    assert _arrays.as_tensors(fixed).data_ptr() == fixed.__array_interface__["data"][0]


def test_layouts_that_torch_does_not_know():
    x = tracks()
    expected = lss(x)
    np.testing.assert_array_equal(lss(x[::-1].copy()[::-1]), expected)
    np.testing.assert_array_equal(lss(x.astype(">f4")), expected)
    record = np.zeros(x.shape, dtype=[("before", "u1"), ("x", "f4")])
    record["x"] = x
    np.testing.assert_array_equal(lss(record["x"]), expected)


def test_tensors_pass_untouched():
    x = torch.from_numpy(tracks()).requires_grad_()
    score = lss(x)
    assert isinstance(score, torch.Tensor)
    score.mean().backward()
    assert x.grad is not None


def test_jax_arrays():
    jnp = pytest.importorskip("jax.numpy", reason="needs the package jax")
    x = jnp.asarray(tracks())
    score = lss(x)
    assert isinstance(score, torch.Tensor)
    np.testing.assert_array_equal(score.numpy(), lss(tracks()))
    np.testing.assert_array_equal(lss([x[i] for i in range(5)]).numpy(), lss(tracks()))
    half = x.astype(jnp.bfloat16)
    expected = lss(torch.from_numpy(tracks()).bfloat16())
    assert torch.equal(lss(half), expected)
    np.testing.assert_array_equal(lss(np.asarray(half)), expected.numpy())
    assert jnp.from_dlpack(score).shape == (7,)


def test_jax_tracers_are_told_where_to_call_from():
    jax = pytest.importorskip("jax", reason="needs the package jax")
    x = jax.numpy.asarray(tracks())
    for traced in (jax.jit(lss), jax.grad(lambda x: lss(x).sum()), jax.vmap(lss)):
        with pytest.raises(TypeError, match=r"got \w*Tracer, .*: call this outside of jax\.jit"):
            traced(x)


def test_cupy_arrays():
    cupy = pytest.importorskip("cupy", reason="needs the package cupy and an NVIDIA GPU")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    score = lss(cupy.asarray(tracks()))
    assert score.device.type == "cuda"
    np.testing.assert_allclose(score.cpu().numpy(), lss(tracks()), rtol=1e-6)


def test_anything_that_speaks_dlpack():
    class Exporter:
        def __init__(self, tensor):
            self.tensor = tensor

        def __dlpack__(self, **options):
            return self.tensor.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    x = torch.from_numpy(tracks())
    assert torch.equal(lss(Exporter(x)), geodesic_fast.lss(x))


def test_says_what_is_wrong():
    with pytest.raises(TypeError, match=r"got numpy.ma.MaskedArray, whose mask would be lost"):
        lss(np.ma.masked_array(tracks(), tracks() > 0))
    with pytest.raises(TypeError, match="tracks must be float16"):
        lss(tracks().astype(np.int64))
    with pytest.raises(TypeError, match=r"tracks must be a torch\.Tensor"):
        lss("tracks")


def test_ots_takes_arrays_and_gives_them_back():
    x = np.random.default_rng(0).normal(size=(30, 3))
    result = geodesic_fast.ots(x, 2 * x)
    assert result.score == 1.0
    assert isinstance(result.permutation, np.ndarray)
    assert (result.permutation == np.arange(30)).all()


def test_each_metric_has_a_frame_of_its_own():
    """torch.compile counts recompilations by code object: a shared one runs into its limit of 8."""
    metrics = [
        geodesic_fast.lss, geodesic_fast.track_geometry, geodesic_fast.line_deviation,
        geodesic_fast.chord_deviation, geodesic_fast.track_distance, geodesic_fast.nearest_track,
        geodesic_fast.geodesic_bound,
    ]  # fmt: skip
    assert len({metric.__code__ for metric in metrics}) == len(metrics)
    assert geodesic_fast.lss.__code__.co_name == "lss"
    torch._dynamo.reset()
    for tracks in (torch.randn(5, 6, 4), torch.randn(5, 6, 4, dtype=torch.float64)):
        for metric in metrics:
            torch.compile(metric, fullgraph=True, backend="eager")(tracks)
