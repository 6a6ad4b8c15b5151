# SPDX-License-Identifier: MIT
"""The paper's figures redrawn, each with the published values beside ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from geodesic_fast import displacement_interpolation, lss, plot
from geodesic_fast._pictures import MARKERS, Theme, as_png, new_figure, reference_lines, titled
from geodesic_fast.reproduce import published, summary
from geodesic_fast.reproduce.experiments import Settings
from geodesic_fast.reproduce.summary import Network

LINE_STYLES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 3)))


def draw_all(
    networks: Sequence[Network],
    settings: Settings,
    tracks: Mapping[str, Tensor],
    classes: Tensor,
    theme: Theme,
) -> dict[str, bytes]:
    """Return the pictures as PNG, by name; `tracks` (moments, n+1, m, d) of one network of each kind."""
    figures = {
        "scores": scores_figure(networks, settings, theme),
        "learning": learning_figure(networks, settings, theme),
        "tracks": tracks_figure(tracks, settings, classes, theme),
        "training": training_figure(networks, settings, theme),
        "collapse": collapse_figure(networks, theme),
        "points": points_figure(networks, theme),
    }
    return {name: as_png(figure, theme) for name, figure in figures.items()}


def scores_figure(networks: Sequence[Network], settings: Settings, theme: Theme) -> Figure:
    """Draw LSS, OTS and test accuracy against gamma for both kinds, over seeds, beside the published ones."""
    figure = new_figure(9.6, 8.2, theme)
    (left, right), (lower, unused) = figure.subplots(2, 2)
    gammas = summary.gammas_of(networks)
    m, d = networks[0]["after"]["stages"][0]["m"], networks[0]["after"]["stages"][0]["d"]
    panels = ((left, "lss", "LSS (1: straight)"), (right, "ots", f"OTS, m {m}, d {d} (1: optimal)"),
              (lower, "test_accuracy", "test accuracy"))  # fmt: skip
    for axes, name, title in panels:
        for kind in summary.kinds_of(networks):
            _series(axes, networks, settings, kind, name, theme)
        titled(axes, title, theme)
        axes.set_xticks(range(len(gammas)), [f"{gamma:g}" for gamma in gammas])
        axes.set_xlim(-0.3, len(gammas) - 0.7)
        axes.set_xlabel("gamma", color=theme.ink)
    reference_lines(left, networks[0]["after"]["stages"][0]["n"], theme)
    left.set_ylim(bottom=0)
    right.set_ylim(-0.02, 1.04)
    unused.axis("off")
    unused.legend(
        *left.get_legend_handles_labels(), frameon=False, labelcolor=theme.ink, loc="upper left", fontsize=10
    )
    return figure


def _series(
    axes: Axes, networks: Sequence[Network], settings: Settings, kind: str, name: str, theme: Theme
) -> None:
    gammas = summary.gammas_of(networks)
    found = [summary.summarise(summary.of(networks, kind, gamma), name) for gamma in gammas]
    style: dict[str, Any] = {"color": theme.kinds[kind], "marker": MARKERS[kind], "capsize": 4}
    bars = [0.0 if math.isnan(f.std_over_seeds) else f.std_over_seeds for f in found]
    axes.errorbar(
        range(len(gammas)), [f.mean for f in found], bars, lw=2, ms=7, label=f"{kind}, here", **style
    )
    rows = [published.row(settings.experiment, kind, gamma).get(name) for gamma in gammas]
    places = [at for at, row in enumerate(rows) if row]
    told = [row for row in rows if row]
    if told:
        axes.errorbar(
            places, [v.mean for v in told], [v.std for v in told], lw=1.2, ls="--", ms=6, mfc="none",
            alpha=0.75, label=f"{kind}, published", **style,
        )  # fmt: skip
    for row in published.ROWS[settings.experiment]:
        if row.kind in (kind, None) and row.gamma is None and name in row.figures:
            axes.axhline(
                row.figures[name].mean, color=theme.kinds[kind], lw=1.2, ls=(0, (6, 2)), alpha=0.75,
                label=f"{kind}, published, gamma not stated",
            )  # fmt: skip


def learning_figure(networks: Sequence[Network], settings: Settings, theme: Theme) -> Figure:
    """Draw training accuracy against LSS, one point for each gamma."""
    figure = new_figure(9.6, 4.4, theme)
    axes = figure.subplots()
    for kind in summary.kinds_of(networks):
        points = [
            (summary.mean(networks, kind, g, "lss"), summary.mean(networks, kind, g, "train_accuracy"))
            for g in summary.gammas_of(networks)
        ]
        axes.plot(
            *zip(*points, strict=True), color=theme.kinds[kind], marker=MARKERS[kind], label=f"{kind}, here"
        )
        _name_points(axes, summary.gammas_of(networks), points, theme)
    rows = [row for row in published.ROWS[settings.experiment] if "train_accuracy" in row.figures]
    if rows:
        points = [(row.figures["lss"].mean, row.figures["train_accuracy"].mean) for row in rows]
        axes.plot(*zip(*points, strict=True), color=theme.ink, marker="^", mfc="none", ls="--", alpha=0.75,
                  label="published, kind not named")  # fmt: skip
        _name_points(axes, [row.gamma for row in rows], points, theme)
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
    axes.set_xlabel("LSS", color=theme.ink)
    titled(axes, "Training accuracy against LSS, one point for each gamma", theme)
    axes.legend(frameon=False, labelcolor=theme.ink)
    return figure


def _name_points(
    axes: Axes, gammas: Sequence[float | None], points: Sequence[tuple[float, float]], theme: Theme
) -> None:
    """Write each point's gamma above or below it in turn, so that neighbours leave each other room."""
    for at, (gamma, point) in enumerate(zip(gammas, points, strict=True)):
        axes.annotate(
            f"{gamma:g}", point, xytext=(0, -16 if at % 2 else 8), textcoords="offset points", ha="center",
            color=theme.ink, fontsize=8,
        )  # fmt: skip


def tracks_figure(tracks: Mapping[str, Tensor], settings: Settings, classes: Tensor, theme: Theme) -> Figure:
    """Draw the tracks at the marked epochs, and below the geodesic between the same ends."""
    epochs = settings.marked_epochs
    figure = new_figure(max(9.6, 1.92 * len(epochs)), 2.2 * 2 * len(tracks), theme)
    figure.set_dpi(100)  # many thin lines: what is sharper only makes a larger file
    grid = figure.subplots(2 * len(tracks), len(epochs), squeeze=False)
    present = classes.unique()
    colors = [theme.classes[int(k) % len(theme.classes)] for k in present]
    for place, (kind, moments) in enumerate(tracks.items()):
        for column, (epoch, states) in enumerate(zip(epochs, moments, strict=True)):
            n = len(states) - 1
            upper, lower = grid[2 * place][column], grid[2 * place + 1][column]
            if not bool(torch.isfinite(states).all()):
                continue
            geodesic = displacement_interpolation(states[0], states[-1], torch.linspace(0, 1, n + 1))
            plot.plot_tracks(states, classes, colors=colors, ax=upper)
            plot.plot_tracks(geodesic, classes, colors=colors, ax=lower)
            upper.set_title(
                f"{kind}, epoch {epoch}\nLSS {lss(states).mean():.2f}",
                color=theme.ink,
                fontsize=9,
                loc="left",
            )
            lower.set_title("its geodesic", color=theme.ink, fontsize=9, loc="left")
    for axes in grid.flat:
        axes.set(xlabel="", ylabel="", xticks=[], yticks=[])
    return figure


def training_figure(networks: Sequence[Network], settings: Settings, theme: Theme) -> Figure:
    """Draw the mean LSS before training and at the marked epochs, over stages and seeds."""
    figure = new_figure(9.6, 4.6, theme)
    axes = figure.subplots()
    gammas = summary.gammas_of(networks)
    for kind in summary.kinds_of(networks):
        untrained = [n for n in networks if n["kind"] == kind and n["before"]]
        start = summary.values(untrained, "lss", "before").mean()
        for gamma, style in zip(gammas, _cycled(len(gammas)), strict=True):
            group = summary.of(networks, kind, gamma)
            rows = [[_mean(moment["lss"]) for moment in network["history"]] for network in group]
            means = [sum(column) / len(column) for column in zip(*rows, strict=True)]
            axes.plot(
                [0, *settings.marked_epochs], [start, *means], color=theme.kinds[kind], ls=style, lw=1.7,
                marker=MARKERS[kind], ms=4, label=f"{kind}, gamma {gamma:g}",
            )  # fmt: skip
    reference_lines(axes, networks[0]["after"]["stages"][0]["n"], theme)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch (0: before training)", color=theme.ink)
    titled(axes, "Mean LSS of the test samples during training", theme)
    axes.legend(frameon=False, labelcolor=theme.ink, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return figure


def collapse_figure(networks: Sequence[Network], theme: Theme) -> Figure:
    """Draw variability and nearest-mean error layer by layer, at the least and the largest gamma."""
    figure = new_figure(9.6, 4.4, theme)
    left, right = figure.subplots(1, 2)
    gammas = summary.gammas_of(networks)
    for kind in summary.kinds_of(networks):
        for gamma, style in zip(dict.fromkeys((gammas[0], gammas[-1])), ("-", "--"), strict=False):
            group = summary.of(networks, kind, gamma)
            for axes, name in ((left, "variability"), (right, "nearest_mean_error")):
                rows = [
                    [
                        summary.number(value)
                        for stage in network["after"]["stages"]
                        for value in stage["collapse"][name]
                    ]
                    for network in group
                ]
                means = [sum(column) / len(column) for column in zip(*rows, strict=True)]
                axes.plot(range(len(means)), means, color=theme.kinds[kind], ls=style, marker=MARKERS[kind],
                          label=f"{kind}, gamma {gamma:g}")  # fmt: skip
    left.set_yscale("log")
    titled(left, "Within-class over between-class variability", theme)
    titled(right, "Nearest-class-mean error", theme)
    for axes in (left, right):
        axes.set_xlabel("layer, stage after stage", color=theme.ink)
    left.legend(frameon=False, labelcolor=theme.ink, fontsize=9)
    return figure


def points_figure(networks: Sequence[Network], theme: Theme) -> Figure:
    """Draw OTS against the number of points, over seeds and gammas, trained and untrained."""
    figure = new_figure(9.6, 4.0, theme)
    axes = figure.subplots()
    for kind in summary.kinds_of(networks):
        for moment, style in (("before", ":"), ("after", "-")):
            measured = [n[moment] for n in networks if n["kind"] == kind and n[moment]]
            transports = [stage["transport"] for each in measured for stage in each["stages"]]
            rows = [row for transport in transports if transport for row in transport["ots"]]
            sizes = sorted({row["m"] for row in rows})
            means = [_mean([row["mean"] for row in rows if row["m"] == size]) for size in sizes]
            label = f"{kind}, " + ("untrained" if moment == "before" else "trained, all gammas")
            axes.plot(sizes, means, color=theme.kinds[kind], ls=style, marker=MARKERS[kind], label=label)
    axes.set_xscale("log")
    axes.set_ylim(-0.02, 1.04)
    axes.set_xlabel("number of points m", color=theme.ink)
    titled(axes, f"OTS against m, d = {networks[0]['after']['stages'][-1]['d']} in the last stage", theme)
    axes.legend(frameon=False, labelcolor=theme.ink)
    return figure


def _cycled(count: int) -> list[Any]:
    return [LINE_STYLES[k % len(LINE_STYLES)] for k in range(count)]


def _mean(values: Sequence[Any]) -> float:
    numbers = [summary.number(value) for value in values]
    return sum(numbers) / len(numbers)
