# SPDX-License-Identifier: MIT
"""The definition of every metric, in plain torch: `reference.lss` is what `lss` is held against.

Each has the signature of the fast function and reads like its formula. It is written beside that function, is
differentiable as often as you like, and answers where the compiled engine cannot.
"""

from geodesic_fast.metrics.action import action_reference as action
from geodesic_fast.metrics.chord_deviation import chord_deviation_reference as chord_deviation
from geodesic_fast.metrics.displacement_interpolation import (
    displacement_interpolation_reference as displacement_interpolation,
)
from geodesic_fast.metrics.geodesic_bound import geodesic_bound_reference as geodesic_bound
from geodesic_fast.metrics.geodesic_bound import geodesic_bound_summary_reference as geodesic_bound_summary
from geodesic_fast.metrics.geodesic_gap import geodesic_gap_reference as geodesic_gap
from geodesic_fast.metrics.line_deviation import line_deviation_reference as line_deviation
from geodesic_fast.metrics.lss import lss_reference as lss
from geodesic_fast.metrics.lss_shuffled import lss_shuffled_reference as lss_shuffled
from geodesic_fast.metrics.nearest_track import nearest_track_reference as nearest_track
from geodesic_fast.metrics.neural_collapse import neural_collapse_reference as neural_collapse
from geodesic_fast.metrics.ots import ots_reference as ots
from geodesic_fast.metrics.ots_curve import ots_curve_reference as ots_curve
from geodesic_fast.metrics.soft_ots import soft_ots_reference as soft_ots
from geodesic_fast.metrics.step_geometry import step_geometry_reference as step_geometry
from geodesic_fast.metrics.track_distance import track_distance_reference as track_distance
from geodesic_fast.metrics.track_geometry import track_geometry_reference as track_geometry
from geodesic_fast.metrics.wasserstein_curve import wasserstein_curve_reference as wasserstein_curve

__all__ = [
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
    "soft_ots",
    "step_geometry",
    "track_distance",
    "track_geometry",
    "wasserstein_curve",
]
