# SPDX-License-Identifier: MIT
"""Every call that a message names is made on what was refused, and then the function answers."""

import re
from collections import deque

import numpy as np
import pytest
import torch

import geodesic_fast as gf

METRICS = {name: getattr(gf, name) for name in (
    "lss", "track_geometry", "step_geometry", "action", "chord_deviation", "line_deviation", "track_distance",
    "nearest_track", "geodesic_bound", "geodesic_bound_summary", "geodesic_gap", "wasserstein_curve",
)}  # fmt: skip


def steps():
    return torch.arange(60.0).reshape(3, 5, 4).square() % 17


def quantized():
    return torch.quantize_per_tensor(steps(), 0.5, 0, torch.qint32)


def frame(package):
    module = pytest.importorskip(package)
    return module.DataFrame(steps()[:, 0].numpy())


TRACKS = {
    "integers": lambda: steps().long(),
    "NumPy integers": lambda: steps().long().numpy(),
    "NumPy booleans": lambda: steps().numpy() > 3,
    "complex": lambda: torch.complex(steps(), steps().flip(0)),
    "NumPy complex": lambda: torch.complex(steps(), steps().flip(0)).numpy(),
    "quantised": quantized,
    "sparse": lambda: steps().to_sparse(),
    "CSR": lambda: steps()[:, 0].to_sparse_csr(),
    "deque": lambda: deque(steps()),
    "generator": lambda: (layer for layer in steps()),
    "dict": lambda: dict(enumerate(steps())),
    "dict of arrays": lambda: dict(enumerate(steps().numpy())),
    "pandas": lambda: frame("pandas"),
    "polars": lambda: frame("polars"),
    "xarray": lambda: pytest.importorskip("xarray").DataArray(steps().numpy()),
    "masked": lambda: torch.masked.masked_tensor(steps(), steps() >= 0),
    "scalars": lambda: steps()[:, 0, 0],
    "NumPy scalars": lambda: steps()[:, 0, 0].numpy(),
    "layers of two dtypes": lambda: [steps()[0], *steps()[1:].double()],
    "arrays of two dtypes": lambda: [steps()[0].numpy(), *steps()[1:].double().numpy()],
    "many layers": lambda: list(torch.randn(1100, 2, 3)),
    "NumPy text": lambda: steps()[:, 0].numpy().astype(str),
    "long double": lambda: steps().numpy().astype(np.longdouble),
}


def followed(message, name, value):
    """Return what the code at the end of a message makes of `value`."""
    remedy = re.split(": |; ", message)[-1].partition(", and ")[0].rstrip(".")
    for lead in (
        "convert it with ", "convert them with ", "use ", "give a track of scalars a feature axis with ",
        "give points on a line a feature axis with ", "stack longer tracks with ",
        "pass the rows that count of ",
    ):  # fmt: skip
        remedy = remedy.removeprefix(lead)
    return eval(remedy, {"torch": torch, "numpy": np, name: value, "array": value, "float": float})


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", TRACKS)
def test_a_followed_remedy_works(metric, kind):
    if (metric, kind) == ("wasserstein_curve", "generator"):
        METRICS[metric](TRACKS[kind]())  # it takes them
        return
    with pytest.raises((TypeError, ValueError)) as caught:
        METRICS[metric](TRACKS[kind]())
    again = followed(str(caught.value), "tracks", TRACKS[kind]())
    if metric != "wasserstein_curve" or again[0].ndim > 1:  # which is of several tracks
        METRICS[metric](again)


@pytest.mark.parametrize("metric", ["lss", "track_geometry", "step_geometry", "chord_deviation",
                                    "line_deviation", "track_distance", "nearest_track"])  # fmt: skip
def test_a_definition_takes_tensors_and_says_how_an_array_becomes_one(metric):
    definition, array = getattr(gf.reference, metric), steps().numpy()
    with pytest.raises(TypeError, match="got ndarray") as caught:
        definition(array)
    definition(followed(str(caught.value), "tracks", array))


@pytest.mark.parametrize("kind", ["integers", "NumPy integers", "complex", "quantised", "sparse", "deque",
                                  "generator", "dict", "pandas", "polars", "xarray", "masked"])  # fmt: skip
def test_a_followed_remedy_works_for_points(kind):
    def points():
        value = TRACKS[kind]()
        return value if kind in ("deque", "generator", "dict", "pandas", "polars") else value[0]

    with pytest.raises(TypeError) as caught:
        gf.ots(points(), points())
    x = followed(str(caught.value), "x", points())
    gf.ots(x, x)


def test_nested_tensors_are_measured_one_by_one():
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.nested_tensor([torch.randn(3, 4), torch.randn(5, 4)], layout=layout)
        with pytest.raises(TypeError, match=r"measure each of tracks\.unbind\(\) on its own"):
            gf.lss(nested)
        assert len([gf.lss(each) for each in nested.unbind()]) == 2


LABELS = [
    [0, 1, 0, 1, 1], ("a", "b", "a", "a", "b"), deque([0, 1, 0, 1, 1]), torch.tensor([0.5, 1, 0.5, 1, 1]),
    np.array([0.5, 1, 0.5, 1, 1]), np.array(["a", "b", "a", "a", "b"]),
    torch.tensor([0, 1, 0, 1, 1]).to_sparse(),
]  # fmt: skip


@pytest.mark.parametrize("labels", LABELS)
def test_labels_are_numbered(labels):
    with pytest.raises(TypeError) as caught:
        gf.nearest_track(steps(), labels=labels)
    message = str(caught.value)
    remedy = message.rpartition(": ")[2].rpartition(" labels with ")[2].rstrip(".")
    remedy = remedy.removeprefix("number them with ").removeprefix("use ")
    numbered = eval(remedy, {"numpy": np, "labels": labels})
    assert gf.nearest_track(steps(), labels=numbered).track.shape == (5,)


def test_the_reference_named_for_second_derivatives_has_them():
    x = steps().double().requires_grad_()
    for name in (
        "lss",
        "track_geometry",
        "chord_deviation",
        "line_deviation",
        "track_distance",
        "step_geometry",
    ):

        def loss(x, name=name):
            result = getattr(gf.reference, name)(x)
            return sum(
                f.nan_to_num().square().sum() for f in (result if isinstance(result, tuple) else [result])
            )

        (first,) = torch.autograd.grad(loss(x), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        assert second.isfinite().all(), name


@pytest.mark.parametrize("dim", [np.int64(1), np.int32(-2), torch.tensor(1).item()])
def test_any_integer_names_the_layer_axis(dim):
    stacked = steps()
    by_track = stacked.transpose(0, int(dim)).contiguous()  # the layers of a track lie together
    exactly = {"rtol": 0, "atol": 0, "equal_nan": True}
    for name in METRICS:
        for metric in (getattr(gf, name), getattr(gf.reference, name)):
            for tracks in (stacked, by_track):
                found = metric(tracks, dim=dim)
                torch.testing.assert_close(found, metric(tracks, dim=int(dim)), **exactly)
                torch.testing.assert_close(found, metric(tracks.movedim(int(dim), 0)), **exactly)
