# SPDX-License-Identifier: MIT
"""What the pictures of the reports share: colours for light and dark pages, titles, small PNG files."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

DOTS_PER_INCH = 160
MARKERS = {"residual": "o", "plain": "s"}


@dataclass(frozen=True)
class Theme:
    """Colours of one page: light or dark."""

    name: str
    background: str
    ink: str
    faint: str
    kinds: dict[str, str]
    classes: tuple[str, ...]


LIGHT = Theme(
    "light", "#ffffff", "#1f2430", "#d5d9e0", {"residual": "#1d5fbf", "plain": "#d1590a"},
    ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd",
     "#8c564b", "#e377c2", "#6f7680", "#a8a916", "#12a9bd"),
)  # fmt: skip
DARK = Theme(
    "dark", "#14171c", "#e4e7ec", "#3a404b", {"residual": "#6aa9ff", "plain": "#ff9d5c"},
    ("#5fb0ea", "#ffa657", "#5fce5f", "#ff7b7c", "#bb9be6",
     "#c08b7c", "#f3a4dc", "#aab0ba", "#d8d94e", "#4fd6e6"),
)  # fmt: skip
THEMES = (LIGHT, DARK)


def reference_lines(axes: Axes, steps: int, theme: Theme) -> None:
    """Draw the line-shape scores of tracks that follow no path."""
    style: dict[str, Any] = {"color": theme.ink, "lw": 1, "alpha": 0.7}
    axes.axhline(math.sqrt(steps), ls=(0, (1, 3)), label=f"random steps, √{steps}", **style)
    axes.axhline(steps, ls=(0, (4, 4)), label=f"independent states, {steps}", **style)


def titled(axes: Axes, title: str, theme: Theme) -> None:
    """Give axes their title and a faint grid."""
    axes.set_title(title, color=theme.ink, fontsize=10.5, fontweight="bold", loc="left")
    axes.grid(axis="y", color=theme.faint, lw=0.7)
    axes.set_axisbelow(True)


def new_figure(width: float, height: float, theme: Theme) -> Figure:
    """Return an empty figure of this size in inches."""
    figure = Figure(
        figsize=(width, height),
        dpi=DOTS_PER_INCH,
        facecolor=theme.background,
        layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12),
    )
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Figure, theme: Theme) -> bytes:
    """Return the figure as a small PNG in the colours of the theme."""
    for axes in figure.axes:
        axes.set_facecolor(theme.background)
        axes.tick_params(colors=theme.ink)
        for spine in axes.spines.values():
            spine.set_color(theme.faint)
    stored = io.BytesIO()
    figure.savefig(stored, format="png", facecolor=theme.background, metadata={"Software": None})
    # 256 colours are enough here and make the file three times smaller.
    small = io.BytesIO()
    Image.open(stored).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        small, "png", optimize=True
    )
    return small.getvalue()
