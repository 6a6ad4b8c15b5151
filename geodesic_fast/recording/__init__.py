# SPDX-License-Identifier: MIT
"""Tracks out of real models: stored (`record`), or measured layer by layer and never stored (`watch`)."""

from geodesic_fast.recording.accumulator import TrackAccumulator
from geodesic_fast.recording.record import TrackGroup, record
from geodesic_fast.recording.watch import MeasuredGroup, watch

__all__ = ["MeasuredGroup", "TrackAccumulator", "TrackGroup", "record", "watch"]
