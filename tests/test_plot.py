# SPDX-License-Identifier: MIT
"""Pictures: what they show is what was measured."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist
from scipy.stats import norm

from geodesic_fast import displacement_interpolation, line_deviation, ots_curve, step_geometry, track_geometry
from geodesic_fast.plot import (
    plot_geometry,
    plot_line_deviation,
    plot_ots_curve,
    plot_steps,
    plot_tracks,
    project_tracks,
)


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(autouse=True)
def _no_windows():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def lines_of(ax):
    return np.array([path.vertices for path in ax.collections[0].get_paths()])


@pytest.mark.parametrize("features", [2, 5, 400])
def test_tracks_are_drawn_in_the_plane_of_scikit_learns_components(ax, features):
    decomposition = pytest.importorskip("sklearn.decomposition", reason="needs the package scikit-learn")
    tracks = torch.randn(6, 20, features).cumsum(0)
    assert plot_tracks(tracks, torch.arange(20) % 3, ax=ax) is ax
    cloud = tracks.flatten(0, 1).double().numpy()
    found = decomposition.PCA(2).fit(cloud)
    expected = found.transform(cloud).reshape(6, 20, 2).swapaxes(0, 1)
    drawn = lines_of(ax)
    np.testing.assert_allclose(np.abs(drawn), np.abs(expected), atol=1e-9)
    assert f"{found.explained_variance_ratio_[0]:.0%}" in ax.get_xlabel()
    assert f"{found.explained_variance_ratio_[1]:.0%}" in ax.get_ylabel()
    colors = ax.collections[0].get_colors()
    assert len({tuple(color) for color in colors}) == 3
    assert (colors[0] == colors[3]).all()
    assert [text.get_text() for text in ax.legend().get_texts()] == ["0", "1", "2"]


def test_a_plane_is_kept_exactly():
    flat = torch.randn(4, 30, 2, dtype=torch.float64)
    plane = torch.linalg.qr(torch.randn(9, 2, dtype=torch.float64)).Q
    points, shares, finite = project_tracks(flat @ plane.T + 100)
    assert sum(shares) == pytest.approx(1)
    assert finite.all()
    before = torch.cdist(flat[0], flat[3]).numpy()
    assert cdist(points[:, 0], points[:, 3]) == pytest.approx(before, abs=1e-9)


@pytest.mark.parametrize("unit", [1e200, 1e-200])
def test_the_unit_scales_the_plane_only(unit):
    tracks = torch.randn(5, 30, 4, dtype=torch.float64).cumsum(0)
    points, shares, _ = project_tracks(tracks)
    scaled, same_shares, _ = project_tracks(tracks * unit)
    np.testing.assert_allclose(scaled / unit, points, atol=1e-12)
    assert same_shares == pytest.approx(shares)


def test_tracks_that_are_not_finite_are_counted_not_drawn(ax):
    tracks = torch.randn(4, 30, 5)
    tracks[2, 7, 1] = torch.nan
    plot_tracks(tracks, torch.arange(30), ax=ax)
    assert len(lines_of(ax)) == 29
    assert "1 of 30 tracks hold NaN or inf" in ax.texts[0].get_text()
    plot_tracks(torch.full((3, 2, 2), torch.nan), ax=Figure().subplots())


@pytest.mark.parametrize(
    "make", [list, lambda x: x.movedim(0, 1), lambda x: x.numpy(), lambda x: x.bfloat16()]
)
def test_every_kind_of_tracks(make, ax):
    tracks = make(torch.randn(4, 7, 1))
    plot_tracks(tracks, dim=1 if getattr(tracks, "shape", ())[:1] == (7,) else 0, ax=ax)
    assert lines_of(ax).shape == (7, 4, 2)


@pytest.mark.parametrize("arrange", [lambda x: x[::-1], lambda x: x.astype(">i4")])
def test_every_kind_of_labels(arrange, ax):
    labels = arrange(np.arange(12) % 3)
    colors = plot_tracks(torch.randn(4, 12, 5).numpy(), labels, ax=ax).collections[0].get_colors()
    same = (colors[:, None] == colors).all(-1)
    np.testing.assert_array_equal(same, labels[:, None] == labels)


def test_a_band_over_more_tracks_than_torch_takes_quantiles_of(ax):
    plot_geometry([track_geometry(torch.randn(2, 17_000_000, 1))], "chord", ax=ax)
    low, high = norm.ppf([0.55, 0.95]) * np.sqrt(2)  # of |difference| of two normal numbers
    (band,) = ax.collections[0].get_paths()
    assert band.vertices[:, 1].min() == pytest.approx(low, abs=1e-3)
    assert band.vertices[:, 1].max() == pytest.approx(high, abs=3e-3)


def test_line_deviation_is_the_image(ax):
    deviation = line_deviation(torch.randn(9, 30, 16))
    deviation[2, 3] = torch.nan
    assert plot_line_deviation(deviation, ax=ax) is ax
    np.testing.assert_allclose(ax.images[0].get_array().filled(np.nan), deviation)
    assert ax.images[0].get_clim() == (0, 2)
    assert len(ax.figure.axes) == 2
    ax = plot_line_deviation(deviation.numpy(), colorbar=False)
    assert len(ax.figure.axes) == 1


def test_geometry_is_the_mean_and_a_band(ax):
    history = [track_geometry(torch.randn(9, 30, 16)) for _ in range(5)]
    assert plot_geometry(history, "straightness", steps=[0, 10, 20, 30, 40], label="plain", ax=ax) is ax
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xdata(), [0, 10, 20, 30, 40])
    np.testing.assert_allclose(line.get_ydata(), [g.straightness.mean() for g in history], rtol=1e-6)
    band = ax.collections[0].get_paths()[0].vertices
    quantiles = np.quantile(np.stack([g.straightness for g in history]), [0.1, 0.9], axis=1)
    for low, high, x in zip(*quantiles, [0, 10, 20, 30, 40], strict=True):
        inside = band[band[:, 0] == x][:, 1]
        assert (inside.min(), inside.max()) == pytest.approx((low, high), rel=1e-6)
    plot_geometry(history, "straightness", ax=ax, color="C3", ls="--")
    assert len(ax.lines) == 2


def test_undefined_numbers_are_counted(ax):
    tracks = torch.randn(4, 30, 5)
    tracks[2, 7, 1] = torch.nan
    plot_geometry([track_geometry(tracks)], ax=ax)
    assert ax.get_ylabel().startswith("lss (random steps ")
    assert ax.get_ylabel().endswith(" (up to 1 of 30 tracks undefined)")


def test_without_an_ax_there_is_a_new_figure():
    assert plot_tracks(torch.randn(4, 7, 3)).figure is not plot_tracks(torch.randn(4, 7, 3)).figure


def test_says_what_is_wrong():
    tracks = torch.randn(4, 7, 3)
    with pytest.raises(ValueError, match="labels must hold one class per track, 7 in all, got 3"):
        plot_tracks(tracks, [0, 1, 2])
    with pytest.raises(TypeError, match="labels must be integers"):
        plot_tracks(tracks, torch.rand(7))
    with pytest.raises(ValueError, match="colors must hold one colour per class, 7 in all, got 1"):
        plot_tracks(tracks, range(7), colors=["red"])
    with pytest.raises(ValueError, match="square matrix"):
        plot_line_deviation(line_deviation(tracks, reduction="none"))
    with pytest.raises(ValueError, match="field must be one of 'lss'"):
        plot_geometry([track_geometry(tracks)], "loss")
    with pytest.raises(TypeError, match="history must be a list"):
        plot_geometry(track_geometry(tracks))
    with pytest.raises(ValueError, match="at least 1 moment"):
        plot_geometry([])
    with pytest.raises(ValueError, match="as many as history holds, 1, got 2"):
        plot_geometry([track_geometry(tracks)], steps=[0, 1])


def test_an_iterator_is_no_history():
    moments = iter([track_geometry(torch.randn(4, 3, 2))])
    with pytest.raises(TypeError, match="history must be a list"):
        plot_geometry(moments)


def test_a_missing_matplotlib_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.collections", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'geodesic-fast\[plot\]'"):
        plot_tracks(torch.randn(4, 7, 3))


def test_tracks_beside_are_drawn_in_the_same_plane(ax):
    tracks = torch.randn(5, 12, 6).cumsum(0)
    geodesic = displacement_interpolation(tracks[0], tracks[-1], torch.linspace(0, 1, 9))
    plot_tracks(tracks, beside=geodesic, ax=ax)
    drawn = np.array([path.vertices for path in ax.collections[1].get_paths()])
    assert drawn.shape == (12, 9, 2)
    np.testing.assert_allclose(drawn[:, 0], lines_of(ax)[:, 0], atol=1e-6)
    ends = sorted(map(tuple, lines_of(ax)[:, -1].round(4).tolist()))
    np.testing.assert_allclose(sorted(map(tuple, drawn[:, -1].round(4).tolist())), ends, atol=2e-4)
    with pytest.raises(ValueError, match="beside must have the 6 features of tracks, got 5"):
        plot_tracks(tracks, beside=geodesic[..., :5], ax=ax)


def test_the_ots_curve_is_drawn_as_measured(ax):
    x = torch.randn(200, 4)
    curve = ots_curve(x, x + torch.randn(200, 4), [20, 50, 200])
    assert plot_ots_curve(curve, label="noise", ax=ax) is ax
    line = ax.lines[0]
    assert line.get_xdata().tolist() == [20, 50, 200]
    np.testing.assert_array_equal(line.get_ydata(), curve.mean.numpy())
    assert [len(dots.get_ydata()) for dots in ax.lines[1:]] == [8, 4, 1]
    assert ax.get_ylabel() == "OTS, d = 4"
    with pytest.raises(TypeError, match=r"curve must be what geodesic_fast\.ots_curve returns, got Tensor"):
        plot_ots_curve(curve.mean)


def test_the_steps_are_drawn_as_measured(ax):
    walk = torch.randn(9, 30, 16, generator=torch.Generator().manual_seed(0)).cumsum(0)
    walk[3, :4] = walk[2, :4]
    steps = step_geometry(walk)
    for given in (steps, steps.profile()):
        assert plot_steps(given, "update_cosine", label="walk", ax=ax) is ax
    for line in ax.lines:
        assert line.get_xdata().tolist() == list(range(1, 9))
        assert line.get_ydata() == pytest.approx(steps.update_cosine.double().nanmean(1).tolist(), rel=1e-6)
    assert ax.get_ylabel() == "update_cosine (up to 4 of 30 tracks undefined)"
    assert len(ax.collections) == 1  # means alone have no band
    assert len(plot_steps(steps, "turning_cosine").lines[0].get_xdata()) == 7
    with pytest.raises(TypeError, match=r"steps must be what geodesic_fast\.step_geometry returns"):
        plot_steps(walk)
    with pytest.raises(ValueError, match="field must be one of"):
        plot_steps(steps, "lss")


@pytest.mark.parametrize("n", [2, 5, 12, 47])
def test_a_line_shape_score_is_drawn_beside_what_chance_gives(n):
    history = [track_geometry(torch.randn(n + 1, 30, 16).cumsum(0)) for _ in range(2)]
    label = plot_geometry(history, "lss").get_ylabel()
    assert label == f"lss (random steps {n**0.5:.3g}, independent states {n})"
    assert plot_geometry(history, "action").get_ylabel() == "action"
    assert plot_geometry([track_geometry(torch.randn(2, 5, 4))], "lss").get_ylabel() == "lss"
