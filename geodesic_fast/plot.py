# SPDX-License-Identifier: MIT
"""Pictures of tracks and of what is measured on them; each takes and returns a matplotlib `ax`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from geodesic_fast._arrays import as_tensors
from geodesic_fast._tracks import Tracks
from geodesic_fast._validation import check_choice
from geodesic_fast._validation_plot import (
    check_colors,
    check_history,
    check_square,
    check_steps,
    check_width,
    classes_of,
)
from geodesic_fast.integrations._packages import need
from geodesic_fast.metrics.ots_curve import OTSCurve
from geodesic_fast.metrics.step_geometry import StepGeometry, StepProfile
from geodesic_fast.metrics.track_geometry import TrackGeometry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAND = (0.1, 0.9)  # quantiles over tracks


def plot_tracks(
    tracks: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[int] | None = None,
    *,
    dim: int = 0,
    colors: Sequence[Any] | None = None,
    beside: Tensor | Sequence[Tensor] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw every track as a line in the plane of the two main directions of all states.

    The projection is a principal component analysis of the states of all layers together, so that no layer
    is favoured. Circles are first states, dots last ones. The axes say which share of the variance each
    direction keeps; what two directions cannot show is missing.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d). Tracks that hold NaN or inf are not drawn, and
            a note says how many those are.
        labels: one integer per track, its class: tracks of one class share a colour.
        dim: the layer axis of a tensor; must be 0 for a list.
        colors: one colour per class, in the order of the sorted classes; default: those of matplotlib.
        beside: other tracks, with their layers first, drawn as thin dashed lines in the same plane: for
            example `displacement_interpolation` of the ends, the geodesic that the tracks are to follow.
        ax: where to draw; default: a new figure.

    Returns:
        The ax.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`; labels that are not one integer per track; tracks
            beside of another width.
        ImportError: matplotlib is missing.

    Example:
        >>> import torch
        >>> from geodesic_fast.plot import plot_tracks
        >>> ax = plot_tracks(torch.randn(9, 30, 16).cumsum(0), torch.arange(30) % 3)
    """
    x = _stacked("tracks", tracks, dim)
    other = None if beside is None else check_width(_stacked("beside", beside, 0), x)
    plane = _Plane(x)
    points, shares, finite = plane.place(x), plane.shares, plane.finite
    classes = classes_of(labels, x.shape[1])
    names, indices = np.unique(classes, return_inverse=True)
    colors = check_colors(colors, len(names)) or [f"C{index % 10}" for index in range(len(names))]
    chosen = [colors[index] for index in indices[finite]]
    ax = _new_axes() if ax is None else ax
    lines = need("matplotlib.collections", "a picture", "plot").LineCollection
    ax.add_collection(lines(list(points), colors=chosen, linewidths=0.6, alpha=0.45))
    if other is not None:
        ax.add_collection(
            lines(list(plane.place(other)), colors="0.35", linewidths=0.4, linestyles=(0, (4, 3)), zorder=2)
        )
    ax.scatter(points[:, 0, 0], points[:, 0, 1], s=7, facecolors="none", edgecolors=chosen, lw=0.5, zorder=3)
    ax.scatter(points[:, -1, 0], points[:, -1, 1], s=9, color=chosen, lw=0, zorder=4)
    ax.autoscale_view()
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel(f"first main direction, {shares[0]:.0%} of the variance")
    ax.set_ylabel(f"second, {shares[1]:.0%}")
    if not finite.all():
        note = f"{(~finite).sum()} of {len(finite)} tracks hold NaN or inf and are not drawn"
        ax.text(0.5, 0.02, note, transform=ax.transAxes, ha="center")
    if labels is not None:
        for name, color in zip(names, colors, strict=True):
            ax.plot([], [], color=color, lw=2, label=str(name))
    return ax


def project_tracks(tracks: Tensor) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
    """Project tracks (n+1, m, d) on the two main directions of the states of all layers.

    Returns the points (m', n+1, 2), the share of the variance that each direction keeps, and which of the m
    tracks these are (m): the finite ones.
    """
    plane = _Plane(tracks)
    return plane.place(tracks), plane.shares, plane.finite


class _Plane:
    """The two main directions of the finite tracks among (n+1, m, d)."""

    def __init__(self, tracks: Tensor) -> None:
        finite = torch.isfinite(tracks).all(dim=-1).all(dim=0)
        self.finite, self.shares = finite.numpy(), (math.nan, math.nan)
        states = tracks[:, finite].double()
        self.empty = states.numel() == 0
        if self.empty:
            return
        self.unit = states.abs().max().clamp(min=1e-300)  # squares in it neither overflow nor vanish
        cloud = states.flatten(0, 1) / self.unit
        self.centre = cloud.mean(dim=0)
        cloud = cloud - self.centre  # ((n+1) m', d)
        variances, directions = _main_directions(cloud)
        largest = directions.abs().argmax(dim=0)
        self.directions = directions * directions.gather(0, largest[None]).sign()  # arbitrary: fix it
        total = float(cloud.square().sum())
        kept = [float(v) / total if total > 0 else math.nan for v in variances]
        self.shares = (kept[0], kept[1] if len(kept) > 1 else 0.0 if total > 0 else math.nan)

    def place(self, tracks: Tensor) -> np.ndarray:
        """Return the points (m', k, 2) of tracks (k, m, d), without those that are not finite."""
        states = tracks[:, torch.isfinite(tracks).all(dim=-1).all(dim=0)].double()
        if self.empty:
            return np.empty((0, len(tracks), 2))
        points = ((states / self.unit - self.centre) @ self.directions).mul_(self.unit).transpose(0, 1)
        if points.shape[-1] == 1:
            points = torch.cat([points, torch.zeros_like(points)], dim=-1)
        return points.numpy()


def _stacked(name: str, tracks: Tensor | Sequence[Tensor], dim: int) -> Tensor:
    """Return tracks as (n+1, m, d) on the CPU."""
    return Tracks.of(as_tensors(tracks), dim, name).flat().stacked().detach().cpu()


def _main_directions(cloud: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variances and directions (d, 2) of the two widest axes of (points, d)."""
    if cloud.shape[1] <= len(cloud):
        variances, directions = torch.linalg.eigh(cloud.T @ cloud)  # ascending
        return variances.flip(0)[:2], directions.flip(1)[:, :2]
    _, sizes, directions = torch.linalg.svd(cloud, full_matrices=False)
    return sizes[:2].square(), directions[:2].T


def plot_line_deviation(deviation: Tensor, *, colorbar: bool = True, ax: Axes | None = None) -> Axes:
    """Draw which pairs of steps bend against each other, as a heat map.

    Args:
        deviation: (n, n), what `geodesic_fast.line_deviation` gives: 0 parallel, 1 orthogonal, 2 opposite.
            Pairs that are NaN stay blank.
        colorbar: draw the scale beside it.
        ax: where to draw; default: a new figure.

    Returns:
        The ax.

    Raises:
        TypeError, ValueError: deviation is no square matrix.
        ImportError: matplotlib is missing.

    Example:
        >>> import torch, geodesic_fast
        >>> from geodesic_fast.plot import plot_line_deviation
        >>> ax = plot_line_deviation(geodesic_fast.line_deviation(torch.randn(9, 30, 16).cumsum(0)))
    """
    values = check_square("deviation", as_tensors(deviation)).detach().cpu().double().numpy()
    ax = _new_axes() if ax is None else ax
    edges = (0.5, len(values) + 0.5)
    picture = ax.imshow(values, cmap="RdBu_r", vmin=0, vmax=2, extent=(*edges, *edges[::-1]))
    ax.set_xlabel("step")
    ax.set_ylabel("step")
    if len(values) <= 16:
        ax.set_xticks(range(1, len(values) + 1))
        ax.set_yticks(range(1, len(values) + 1))
    if colorbar:
        bar = ax.figure.colorbar(picture, ax=ax, ticks=[0, 1, 2])
        bar.ax.set_yticklabels(["0 parallel", "1 orthogonal", "2 opposite"])
    return ax


def plot_geometry(
    history: Sequence[TrackGeometry],
    field: str = "lss",
    *,
    steps: Sequence[float] | None = None,
    label: str | None = None,
    ax: Axes | None = None,
    **style: Any,
) -> Axes:
    """Draw one per-track number along training: its mean over tracks, and the band that holds most of them.

    Args:
        history: one `geodesic_fast.TrackGeometry` per moment, from `track_geometry` or `watch`.
        field: which of its numbers.
        steps: where each moment lies on the horizontal axis; default: 0, 1, 2, ...
        label: name of the line, for a legend.
        ax: where to draw; default: a new figure. Call again with the same ax to compare networks.
        style: of the line, for example color="C1" or ls="--".

    Returns:
        The ax. The band runs from the 10th to the 90th percentile. Tracks whose number is NaN or inf are left
        out of both, and the axis label says how many those are at most.

    Raises:
        TypeError, ValueError: history holds something else, or steps are not as many; an unknown field.
        ImportError: matplotlib is missing.

    Example:
        >>> import torch, geodesic_fast
        >>> from geodesic_fast.plot import plot_geometry
        >>> history = [geodesic_fast.track_geometry(torch.randn(9, 30, 16)) for _ in range(5)]
        >>> ax = plot_geometry(history, "straightness")
    """
    check_choice("field", field, TrackGeometry._fields)
    places = check_history(history, steps)
    values = [as_tensors(getattr(moment, field)).detach().cpu().double().flatten() for moment in history]
    defined = [value[value.isfinite()] for value in values]
    mean = [value.mean().item() for value in defined]
    low, high = ([_quantile(value, share) for value in defined] for share in BAND)
    ax = _new_axes() if ax is None else ax
    (line,) = ax.plot(places, mean, label=label, marker="o" if len(places) == 1 else None, **style)
    ax.fill_between(places, low, high, color=line.get_color(), alpha=0.15, lw=0)
    left_out = max(len(all_) - len(some) for all_, some in zip(values, defined, strict=True))
    note = f" (up to {left_out} of {len(values[0])} tracks undefined)" if left_out else ""
    if note or not ax.get_ylabel():
        ax.set_ylabel(field + _to_compare_with(field, history) + note)
    return ax


def _to_compare_with(field: str, history: Sequence[TrackGeometry]) -> str:
    """What a line-shape score is to be seen beside; the number of steps follows from the normalised one."""
    if field != "lss":
        return ""
    score, normalised = (as_tensors(part).detach().cpu().double().flatten() for part in history[-1][:2])
    known = normalised.isfinite() & (normalised > 0.01) & score.isfinite()
    if not known.any():
        return ""
    n = round(float((((score - 1) / normalised)[known] + 1).square().median()))
    return f" (random steps {n**0.5:.3g}, independent states {n})"


def plot_steps(
    steps: StepGeometry | StepProfile,
    field: str = "state_cosine",
    *,
    label: str | None = None,
    ax: Axes | None = None,
    **style: Any,
) -> Axes:
    """Draw one number of `step_geometry` layer by layer, as its mean over tracks with a band.

    Args:
        steps: what `geodesic_fast.step_geometry` gives, or its `.profile()`, as `watch(...).profile` is.
        field: which of its fields.
        label: name of the line, for a legend.
        ax: where to draw; default: a new figure. Call again with the same ax to compare networks.
        style: of the line, for example color="C1" or ls="--".

    Returns:
        The ax. The band holds the middle 80 % of the tracks; a profile, which is means alone, has none. A
        note says how many tracks at most have no such number at a step; they are left out.

    Raises:
        TypeError, ValueError: steps is something else; an unknown field.
        ImportError: matplotlib is missing.

    Example:
        >>> import torch, geodesic_fast
        >>> from geodesic_fast.plot import plot_steps
        >>> steps = geodesic_fast.step_geometry(torch.randn(9, 30, 16).cumsum(0))
        >>> ax = plot_steps(steps, "turning_cosine")
    """
    check_choice("field", field, StepGeometry._fields)
    profile = check_steps(steps)
    mean, lost = (getattr(part, field).cpu() for part in (profile.mean, profile.undefined))
    places = range(1, len(mean) + 1)
    ax = _new_axes() if ax is None else ax
    (line,) = ax.plot(places, mean.tolist(), label=label, marker="o", ms=4, **style)
    if isinstance(steps, StepGeometry):
        values = as_tensors(getattr(steps, field)).detach().cpu().double().flatten(1)
        defined = [row[row.isfinite()] for row in values]
        low, high = ([_quantile(row, share) for row in defined] for share in BAND)
        ax.fill_between(places, low, high, color=line.get_color(), alpha=0.15, lw=0)
    note = f" (up to {int(lost.max())} of {profile.tracks} tracks undefined)" if lost.any() else ""
    if note or not ax.get_ylabel():
        ax.set_ylabel(field + note)
    ax.set_xlabel("step")
    return ax


def _quantile(values: Tensor, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else math.nan


def plot_ots_curve(
    curve: OTSCurve, *, label: str | None = None, ax: Axes | None = None, **style: Any
) -> Axes:
    """Draw the optimal transport score of random subsets against their number of points.

    Args:
        curve: what `geodesic_fast.ots_curve` gives.
        label: name of the line, for a legend.
        ax: where to draw; default: a new figure. Call again with the same ax to compare maps.
        style: of the line, for example color="C1" or ls="--".

    Returns:
        The ax. Dots are the subsets, the line is their mean, the band its 95 % confidence interval; a single
        subset, such as that of all points, has none.

    Raises:
        TypeError: curve is something else.
        ImportError: matplotlib is missing.

    Example:
        >>> import torch, geodesic_fast
        >>> from geodesic_fast.plot import plot_ots_curve
        >>> x = torch.randn(256, 8)
        >>> ax = plot_ots_curve(geodesic_fast.ots_curve(x, x + 0.5 * torch.randn(256, 8)))
    """
    if not isinstance(curve, OTSCurve):
        raise TypeError(
            f"curve must be what geodesic_fast.ots_curve returns, got {type(curve).__name__}: "
            "call ots_curve(x, y) first."
        )
    sizes, mean, low, high = (
        as_tensors(value).numpy() for value in (curve.sizes, curve.mean, curve.low, curve.high)
    )
    ax = _new_axes() if ax is None else ax
    (line,) = ax.plot(sizes, mean, label=label, marker="o", ms=4, **style)
    ax.fill_between(sizes, low, high, color=line.get_color(), alpha=0.15, lw=0)
    for size, scores in zip(sizes, curve.scores, strict=True):
        ax.plot([size] * len(scores), scores, ".", color=line.get_color(), alpha=0.4, ms=3)
    ax.set_xscale("log")
    ax.set_xlabel("number of points m")
    ax.set_ylabel(f"OTS, d = {curve.d}")
    return ax


def _new_axes() -> Axes:
    return need("matplotlib.pyplot", "a picture", "plot").subplots()[1]
