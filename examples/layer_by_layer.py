# SPDX-License-Identifier: MIT
"""Tracks that arrive layer by layer, from wherever they come."""

import torch

from geodesic_fast.recording import TrackAccumulator

tracks = TrackAccumulator()
state = torch.randn(64, 512)  # (*batch, d)
for _ in range(24):
    tracks.push(state)
    state = state + torch.randn(64, 512)
print(tracks.points, tracks.geometry.lss.mean())
