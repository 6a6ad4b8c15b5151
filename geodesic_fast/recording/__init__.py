# SPDX-License-Identifier: MIT
"""Tracks out of real models: stored (`record`), or measured layer by layer and never stored (`watch`)."""

from geodesic_fast.recording.record import TrackGroup, record

__all__ = ["TrackGroup", "record"]
