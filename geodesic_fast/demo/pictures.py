# SPDX-License-Identifier: MIT
"""The demo's pictures, each for a light and a dark page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from geodesic_fast import line_deviation, plot
from geodesic_fast._pictures import MARKERS, Theme, as_png, new_figure, reference_lines, titled
from geodesic_fast.demo import measuring
from geodesic_fast.demo.digits import CLASSES
from geodesic_fast.demo.networks import KINDS
from geodesic_fast.demo.training import Outcome

LINE_STYLES = ("-", "--", ":", "-.")


def draw_all(outcomes: Sequence[Outcome], classes: Tensor, theme: Theme) -> dict[str, bytes]:
    """Return the pictures as PNG, by name."""
    figures = {
        "tracks": tracks_figure(outcomes, classes, theme),
        "scores": scores_figure(outcomes, theme),
        "deviation": deviation_figure(outcomes, theme),
        "margins": margins_figure(outcomes, classes, theme),
        "training": training_figure(outcomes, theme),
    }
    return {name: as_png(figure, theme) for name, figure in figures.items()}


def tracks_figure(outcomes: Sequence[Outcome], classes: Tensor, theme: Theme) -> Figure:
    """Draw the tracks before and after training, for the strongest L2 of each kind."""
    figure = new_figure(9.6, 9.0, theme)
    grid = figure.subplots(2, 2)
    for row, kind in zip(grid, KINDS, strict=True):
        outcome = _strongest(outcomes, kind)
        moments = (
            ("before training", outcome.tracks_before, outcome.before),
            (f"after training, L2 {outcome.l2:g}", outcome.tracks_after, outcome.after),
        )
        for axes, (moment, tracks, measured) in zip(row, moments, strict=True):
            kept = _draw_tracks(axes, tracks, classes, theme)
            score = f"{measured.ots.score:.2f}" if measured.ots else "undefined"
            axes.set_title(
                f"{kind}, {moment}", color=theme.ink, fontsize=12, fontweight="bold", loc="left", pad=34
            )
            n, m, d = len(tracks) - 1, measured.ots.samples if measured.ots else 0, tracks.shape[-1]
            note = (
                f"LSS {measured.lss.mean:.2f} (√n {n**0.5:.2f}, n {n})   OTS {score} (m {m}, d {d})\n"
                f"{kept:.0%} of the variance shown"
            )
            axes.text(0, 1.025, note, transform=axes.transAxes, color=theme.ink, fontsize=9.5)
    handles = [
        Line2D([], [], color=colour, lw=2.5, label=f"{digit}") for digit, colour in enumerate(theme.classes)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=CLASSES, frameon=False, labelcolor=theme.ink,
        title="one line per test image, coloured by digit; ○ first state, ● last state",
        handlelength=1.2, columnspacing=1.4,
    ).get_title().set_color(theme.ink)  # fmt: skip
    return figure


def _draw_tracks(axes: Axes, tracks: Tensor, classes: Tensor, theme: Theme) -> float:
    """Draw the tracks, and return the share of the variance that the picture keeps."""
    present = classes.unique()
    plot.plot_tracks(tracks, classes, colors=[theme.classes[digit] for digit in present], ax=axes)
    axes.set(xlabel="", ylabel="")
    for note in axes.texts:
        note.set_color(theme.ink)
    return sum(plot.project_tracks(tracks)[1])


def deviation_figure(outcomes: Sequence[Outcome], theme: Theme) -> Figure:
    """Draw which pairs of layers bend against each other, for the strongest L2 of each kind."""
    figure = new_figure(9.6, 4.4, theme)
    for axes, kind in zip(figure.subplots(1, 2), KINDS, strict=True):
        outcome = _strongest(outcomes, kind)
        plot.plot_line_deviation(line_deviation(outcome.tracks_after), colorbar=kind == KINDS[-1], ax=axes)
        titled(axes, f"{kind}, after training, L2 {outcome.l2:g}", theme)
        axes.grid(visible=False)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(theme.ink)
    return figure


def margins_figure(outcomes: Sequence[Outcome], classes: Tensor, theme: Theme) -> Figure:
    """Draw which share of the samples keeps at least how far from other classes, before and after."""
    figure = new_figure(9.6, 4.2, theme)
    axes = figure.subplots()
    for kind in KINDS:
        outcome = _strongest(outcomes, kind)
        moments = (("before training", ":", outcome.tracks_before), ("after", "-", outcome.tracks_after))
        for moment, style, tracks in moments:
            found = measuring.margins(tracks, classes.cpu())
            share = 1 - torch.arange(len(found)) / len(found)
            found, share = found.sort().values, share - found.isnan().double().mean()  # NaN sorts last
            found, share = found[found.isfinite()], share[found.isfinite()]
            label = f"{kind}, {moment}" + (f", L2 {outcome.l2:g}" if moment == "after" else "")
            axes.step(found, share, where="pre", color=theme.kinds[kind], ls=style, lw=2, label=label)
    axes.set(xlim=(0, None), ylim=(0, 1.02))
    axes.set_xlabel("margin, in root mean squared distances of two first states", color=theme.ink)
    titled(axes, "Share of test samples whose track keeps at least this far from every other class", theme)
    axes.legend(frameon=False, labelcolor=theme.ink)
    return figure


def scores_figure(outcomes: Sequence[Outcome], theme: Theme) -> Figure:
    """Draw LSS and OTS against the L2 strength, both kinds."""
    figure = new_figure(9.6, 4.2, theme)
    left, right = figure.subplots(1, 2)
    for kind in KINDS:
        rows = [outcome for outcome in outcomes if outcome.kind == kind]
        place = range(len(rows))
        style: dict[str, Any] = {
            "color": theme.kinds[kind],
            "marker": MARKERS[kind],
            "lw": 2,
            "ms": 7,
            "label": kind,
        }
        means, spreads = zip(*((o.after.lss.mean, o.after.lss.std) for o in rows), strict=True)
        left.errorbar(place, means, yerr=spreads, capsize=4, **style)
        right.plot(
            place, [o.after.ots.score if o.after.ots else math.nan for o in rows], clip_on=False, **style
        )
    steps = len(outcomes[0].tracks_after) - 1
    reference_lines(left, steps, theme)
    left.set_ylim(bottom=0)
    right.set_ylim(0, 1.02)
    titled(left, "LSS after training (1: straight line)", theme)
    points = {outcome.after.ots.samples for outcome in outcomes if outcome.after.ots}
    sizes = f"m {points.pop()}, d {outcomes[0].tracks_after.shape[-1]}" if points else "none"
    titled(right, f"OTS after training, {sizes} (1: optimal)", theme)
    for axes in (left, right):
        axes.set_xticks(range(len(rows)), [f"{outcome.l2:g}" for outcome in rows])
        axes.set_xlim(-0.3, len(rows) - 0.7)
        axes.set_xlabel("L2 regularisation (weight decay)", color=theme.ink)
        axes.legend(frameon=False, labelcolor=theme.ink, loc="center right" if axes is right else "best")
    return figure


def training_figure(outcomes: Sequence[Outcome], theme: Theme) -> Figure:
    """Draw the mean LSS of every network after each epoch."""
    figure = new_figure(9.6, 4.6, theme)
    axes = figure.subplots()
    strengths = sorted({outcome.l2 for outcome in outcomes})
    for outcome in outcomes:
        style = LINE_STYLES[strengths.index(outcome.l2) % len(LINE_STYLES)]
        plot.plot_geometry(
            outcome.geometries, color=theme.kinds[outcome.kind], ls=style, lw=1.8, ax=axes,
            label=f"{outcome.kind}, L2 {outcome.l2:g}",
        )  # fmt: skip
    steps = len(outcomes[0].tracks_after) - 1
    reference_lines(axes, steps, theme)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("")
    axes.set_xlabel("epoch (0: before training)", color=theme.ink)
    titled(axes, "Mean LSS over the test samples during training (1: straight line)", theme)
    axes.legend(frameon=False, labelcolor=theme.ink, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _strongest(outcomes: Sequence[Outcome], kind: str) -> Outcome:
    return max((outcome for outcome in outcomes if outcome.kind == kind), key=lambda outcome: outcome.l2)
