# SPDX-License-Identifier: MIT
"""What lies between tracks and between layers: the geodesic gap, margins, and pictures of both."""

from __future__ import annotations

import argparse

import matplotlib.pyplot as plt
import torch
from spirals import ResNet, spirals

from geodesic_fast import geodesic_bound_summary, geodesic_gap, line_deviation, nearest_track
from geodesic_fast.plot import plot_line_deviation, plot_tracks

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--picture", default="spirals.png", help="where the picture goes")
arguments = parser.parse_args()
torch.manual_seed(0)
points, labels = spirals()
with torch.no_grad():
    _, states = ResNet()(points)  # x^(0), ..., x^(n), (m, d) each

found = geodesic_gap(states)
print(f"gap {found.gap:.3f} = bending {found.bending:.3f} x detour {found.detour:.3f} - 1")
margins = nearest_track(states, labels=labels).distance  # (m): the nearest track of another class
print(f"least margin {margins.min():.4f}, pairs that keep {geodesic_bound_summary(states).share_kept:.3f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
plot_tracks(states, labels, ax=left)
plot_line_deviation(line_deviation(states), ax=right)
figure.savefig(arguments.picture)
