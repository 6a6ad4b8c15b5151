# SPDX-License-Identifier: MIT
"""How close a deep network's layers come to a geodesic of the Wasserstein space (arXiv:2102.09235)."""

from geodesic_fast import plot
from geodesic_fast.metrics.action import action, action_reference
from geodesic_fast.metrics.chord_deviation import chord_deviation, chord_deviation_reference
from geodesic_fast.metrics.displacement_interpolation import (
    displacement_interpolation,
    displacement_interpolation_reference,
)
from geodesic_fast.metrics.geodesic_bound import (
    GeodesicBoundSummary,
    geodesic_bound,
    geodesic_bound_reference,
    geodesic_bound_summary,
    geodesic_bound_summary_reference,
)
from geodesic_fast.metrics.geodesic_gap import GeodesicGap, geodesic_gap, geodesic_gap_reference
from geodesic_fast.metrics.line_deviation import line_deviation, line_deviation_reference
from geodesic_fast.metrics.lss import lss, lss_reference
from geodesic_fast.metrics.lss_shuffled import lss_shuffled, lss_shuffled_reference
from geodesic_fast.metrics.nearest_track import NearestTrack, nearest_track, nearest_track_reference
from geodesic_fast.metrics.neural_collapse import (
    NeuralCollapse,
    neural_collapse,
    neural_collapse_reference,
)
from geodesic_fast.metrics.ots import OTSBatchResult, OTSResult, ots, ots_reference
from geodesic_fast.metrics.ots_curve import OTSCurve, ots_curve, ots_curve_reference
from geodesic_fast.metrics.soft_ots import SoftOTSResult, soft_ots, soft_ots_reference
from geodesic_fast.metrics.step_geometry import (
    StepGeometry,
    StepProfile,
    step_geometry,
    step_geometry_reference,
)
from geodesic_fast.metrics.track_distance import track_distance, track_distance_reference
from geodesic_fast.metrics.track_geometry import TrackGeometry, track_geometry, track_geometry_reference
from geodesic_fast.metrics.wasserstein_curve import (
    WassersteinCurve,
    wasserstein_curve,
    wasserstein_curve_reference,
)
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
    "action_reference",
    "chord_deviation",
    "chord_deviation_reference",
    "displacement_interpolation",
    "displacement_interpolation_reference",
    "geodesic_bound",
    "geodesic_bound_reference",
    "geodesic_bound_summary",
    "geodesic_bound_summary_reference",
    "geodesic_gap",
    "geodesic_gap_reference",
    "line_deviation",
    "line_deviation_reference",
    "lss",
    "lss_reference",
    "lss_shuffled",
    "lss_shuffled_reference",
    "nearest_track",
    "nearest_track_reference",
    "neural_collapse",
    "neural_collapse_reference",
    "ots",
    "ots_curve",
    "ots_curve_reference",
    "ots_reference",
    "plot",
    "record",
    "soft_ots",
    "soft_ots_reference",
    "step_geometry",
    "step_geometry_reference",
    "track_distance",
    "track_distance_reference",
    "track_geometry",
    "track_geometry_reference",
    "wasserstein_curve",
    "wasserstein_curve_reference",
    "watch",
]
__version__ = "0.1.0"
