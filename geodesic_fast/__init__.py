# SPDX-License-Identifier: MIT
"""How close a deep network's layers come to a geodesic of the Wasserstein space (arXiv:2102.09235)."""

from geodesic_fast import plot, reference
from geodesic_fast.metrics.action import action
from geodesic_fast.metrics.chord_deviation import chord_deviation
from geodesic_fast.metrics.displacement_interpolation import displacement_interpolation
from geodesic_fast.metrics.geodesic_bound import GeodesicBoundSummary, geodesic_bound, geodesic_bound_summary
from geodesic_fast.metrics.geodesic_gap import GeodesicGap, geodesic_gap
from geodesic_fast.metrics.line_deviation import line_deviation
from geodesic_fast.metrics.lss import lss
from geodesic_fast.metrics.lss_shuffled import lss_shuffled
from geodesic_fast.metrics.nearest_track import NearestTrack, nearest_track
from geodesic_fast.metrics.neural_collapse import NeuralCollapse, neural_collapse
from geodesic_fast.metrics.ots import OTSBatchResult, OTSResult, ots
from geodesic_fast.metrics.ots_curve import OTSCurve, ots_curve
from geodesic_fast.metrics.soft_ots import SoftOTSResult, soft_ots
from geodesic_fast.metrics.step_geometry import StepGeometry, StepProfile, step_geometry
from geodesic_fast.metrics.track_distance import track_distance
from geodesic_fast.metrics.track_geometry import TrackGeometry, track_geometry
from geodesic_fast.metrics.wasserstein_curve import WassersteinCurve, wasserstein_curve
from geodesic_fast.recording import TrackAccumulator, record, watch

__all__ = [
    "GeodesicBoundSummary",
    "GeodesicGap",
    "NearestTrack",
    "NeuralCollapse",
    "OTSBatchResult",
    "OTSCurve",
    "OTSResult",
    "SoftOTSResult",
    "StepGeometry",
    "StepProfile",
    "TrackAccumulator",
    "TrackGeometry",
    "WassersteinCurve",
    "action",
    "chord_deviation",
    "displacement_interpolation",
    "geodesic_bound",
    "geodesic_bound_summary",
    "geodesic_gap",
    "line_deviation",
    "lss",
    "lss_shuffled",
    "nearest_track",
    "neural_collapse",
    "ots",
    "ots_curve",
    "plot",
    "record",
    "reference",
    "soft_ots",
    "step_geometry",
    "track_distance",
    "track_geometry",
    "wasserstein_curve",
    "watch",
]
__version__ = "0.1.0"
