# SPDX-License-Identifier: MIT
"""Neural collapse: against scikit-learn's scores, closed forms, its memory, and wrong calls."""

import math

import numpy as np
import pytest
import torch
from known_tracks import DTYPES, LAYOUTS, laid_out
from peak_memory import peak_above_now
from sklearn.metrics import calinski_harabasz_score
from sklearn.neighbors import NearestCentroid

from geodesic_fast import neural_collapse, reference
from geodesic_fast.metrics import neural_collapse as module

BOTH = pytest.mark.parametrize("collapse", [neural_collapse, reference.neural_collapse])


def classes_on_their_way(m, d, dtype, device, count=4, layers=5):
    """Return tracks (n+1, m, d) whose classes draw together, and their labels, unequal in number."""
    labels = torch.randint(count, (m,), device=device) ** 2  # 0, 1, 4, 9
    means = 3 * torch.randn(10, d, device=device) + 50
    noise = torch.randn(m, d, device=device)
    tracks = torch.stack([means[labels] + noise * 3.0 ** (1 - layer) for layer in range(layers)])
    return tracks.to(dtype), labels


def scikit_learn(layer, labels):
    """Return what scikit-learn makes of one layer: the F ratio of all features, and its classifier."""
    x, y = layer.double().cpu().numpy(), labels.cpu().numpy()
    m, k = len(y), len(np.unique(y))
    ratio = (m - k) / ((k - 1) * calinski_harabasz_score(x, y))
    return ratio, 1 - NearestCentroid().fit(x, y).score(x, y)


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [1, 7, 300])
def test_matches_scikit_learn(collapse, d, dtype, device):
    tracks, labels = classes_on_their_way(211, d, dtype, device)
    found = collapse(tracks, labels=labels)
    assert found.variability.dtype == found.nearest_mean_error.dtype == torch.float64
    for at, layer in enumerate(tracks):
        ratio, error = scikit_learn(layer, labels)
        assert found.variability[at].item() == pytest.approx(ratio, rel=1e-9)
        assert found.nearest_mean_error[at].item() == pytest.approx(error, abs=1e-12)


@BOTH
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_batch(collapse, layout):
    tracks, labels = classes_on_their_way(60, 5, torch.float32, "cpu")
    arranged, dim = laid_out(tracks, layout)
    expected = collapse(tracks, labels=labels)
    batched = tracks.reshape(5, 6, 10, 5)
    for found in (
        collapse(arranged, labels=labels, dim=dim),
        collapse(batched, labels=labels.reshape(6, 10)),
        collapse(batched, labels=labels),
    ):
        torch.testing.assert_close(found.variability, expected.variability, rtol=1e-12, atol=0)
        assert torch.equal(found.nearest_mean_error, expected.nearest_mean_error)


def test_many_blocks_are_one(monkeypatch, device):
    tracks, labels = classes_on_their_way(101, 6, torch.float64, device)
    whole = neural_collapse(tracks, labels=labels)
    monkeypatch.setattr(module, "_BLOCK", 42)
    parts = neural_collapse(tracks, labels=labels)
    torch.testing.assert_close(parts.variability, whole.variability, rtol=1e-12, atol=0)
    assert torch.equal(parts.nearest_mean_error, whole.nearest_mean_error)


@BOTH
def test_two_pairs_on_a_line(collapse):
    """Deviations of 1 within, of 2 between: 1/4; then one point lies nearer to the other class's mean."""
    first = torch.tensor([[0.0], [2.0], [4.0], [6.0]])
    crossed = torch.tensor([[-9.0], [3.0], [2.0], [8.0]])  # means -3 and 5: 3 is nearer to 5
    found = collapse([first, crossed], labels=torch.tensor([7, 7, -2, -2]))
    assert found.variability.tolist() == [0.25, (36 + 9) / 2 / 16]
    assert found.nearest_mean_error.tolist() == [0.0, 0.25]


@BOTH
def test_along_the_line_to_the_class_means_it_falls_as_its_square(collapse):
    """x + t (mean - x) keeps the means and scales the deviations by 1 - t."""
    tracks, labels = classes_on_their_way(90, 12, torch.float64, "cpu")
    x = tracks[0]
    means = torch.stack([x[labels == label].mean(0) for label in labels])
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    found = collapse(torch.stack([x + t * (means - x) for t in times]), labels=labels).variability
    torch.testing.assert_close(found, found[0] * (1 - times) ** 2, rtol=1e-10, atol=1e-20)


@BOTH
def test_invariances(collapse):
    tracks, labels = classes_on_their_way(80, 6, torch.float64, "cpu")
    expected = collapse(tracks, labels=labels)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    order = torch.randperm(80)
    for moved, names in [
        (tracks @ rotation * 1e3 - 5, labels), (tracks[:, order], labels[order]), (tracks, 100 - labels),
    ]:  # fmt: skip
        found = collapse(moved, labels=names)
        torch.testing.assert_close(found.variability, expected.variability, rtol=1e-9, atol=0)
        torch.testing.assert_close(found.nearest_mean_error, expected.nearest_mean_error, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_units_whose_squares_leave_float64(scale):
    tracks, labels = classes_on_their_way(40, 3, torch.float64, "cpu")
    found, expected = (neural_collapse(x, labels=labels) for x in (tracks * scale, tracks))
    torch.testing.assert_close(found.variability, expected.variability, rtol=1e-9, atol=0)


@BOTH
def test_undefined_figures(collapse):
    spread, labels = torch.tensor([[1.0], [3.0], [1.0], [3.0]]), torch.tensor([0, 0, 1, 1])
    equal, broken = torch.ones(4, 1), torch.tensor([[1.0], [3.0], [math.inf], [5.0]])
    variability, error = collapse([spread, equal, broken, broken * torch.nan], labels=labels)
    assert variability[0] == math.inf
    assert variability[1:].isnan().all()
    assert error[:2].tolist() == [0.5, 0.5], "of equal means the lowest label's"
    assert error[2:].isnan().all()
    alone = collapse([spread, 2 * spread], labels=torch.zeros(4, dtype=torch.long))
    assert alone.variability.tolist() == [math.inf, math.inf]
    assert alone.nearest_mean_error.tolist() == [0, 0]


def test_memory_is_for_the_classes_alone():
    m, d = 40_000, 512  # 164 MB a layer in float64, in which the sums are
    tracks, labels = torch.randn(2, m, d), torch.arange(m) % 10
    neural_collapse(tracks[:, :100], labels=labels[:100])
    peak = peak_above_now(lambda: neural_collapse(tracks, labels=labels))
    assert peak is None or peak < 80e6


def test_memory_of_many_classes_is_for_the_classes_alone():
    m, classes = 40_000, 1000  # 320 MB, if each sample had a number for each class
    tracks, labels = torch.randn(2, m, 2), torch.arange(m) % classes
    neural_collapse(tracks[:, :2000], labels=labels[:2000])
    peak = peak_above_now(lambda: neural_collapse(tracks, labels=labels))
    assert peak is None or peak < 40e6


@BOTH
@pytest.mark.parametrize(
    ("tracks", "labels", "error", "words"),
    [
        (torch.randn(3, 4, 2), None, TypeError, "labels must be a torch.Tensor, got NoneType"),
        (torch.randn(3, 4, 2), [0, 1, 0, 1], TypeError, "labels must be a torch.Tensor, got list"),
        (torch.randn(3, 4, 2), torch.rand(4), TypeError, "labels must be integers, got torch.float32"),
        (torch.randn(3, 4, 2), torch.arange(3), ValueError, r"labels must have shape \(4,\), got \(3,\)"),
        (torch.randn(3, 0, 2), torch.arange(0), ValueError, "tracks must hold at least 1 track, got 0"),
        (torch.randn(1, 4, 2), torch.arange(4), ValueError, "tracks"),
    ],
)
def test_a_wrong_call_is_a_sentence(collapse, tracks, labels, error, words):
    with pytest.raises(error, match=words):
        collapse(tracks, labels=labels)


def test_arrays_in_arrays_out():
    tracks, labels = classes_on_their_way(50, 4, torch.float32, "cpu")
    found = neural_collapse(tracks.numpy(), labels=labels.numpy())
    assert isinstance(found.variability, np.ndarray)
    assert found.variability.tolist() == neural_collapse(tracks, labels=labels).variability.tolist()
