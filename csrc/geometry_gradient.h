// SPDX-License-Identifier: MIT
// The scalars of the backward pass: how a weighted sum of one track's fields changes with each step.
// With unit steps u_l, lengths s_l, S = sum u_l, R = |S| and C = x^(n) - x^(0), the gradient in step l is
//     own_l u_l + sum_weight / s_l S + (weight of the pair's cosine) / s_l (u_k - cos u_l)  for each
//     neighbour k
// and the chord adds dL/dc C / c at x^(n) and takes it at x^(0).
#pragma once

#include <cmath>

#include "lss_track_geometry.h"

namespace geodesic_fast {

// Totals over the lengths of one track, gathered before its features are read again.
struct LengthTotals {
  double path_length = 0, mean_length = 0, scatter = 0;
  int64_t steps = 0, zero_steps = 0;

  GEODESIC_FAST_INLINE void add(double length) {
    ++steps;
    zero_steps += length == 0;
    path_length += length;
    const double off = length - mean_length;
    mean_length += off / static_cast<double>(steps);
    scatter += off * (length - mean_length);
  }
};

struct GradientWeights {
  double resultant = 0;   // R
  double lss = 0;         // dL/dLSS n / R^3, times -(S - <u,S> u) / s
  double length = 0;      // of every s_l
  double per_length = 0;  // of every s_l^2 / 2
  double spread = 0;      // of s_l - mean
  double mean_length = 0;
  double cosine = 0, angle = 0;        // of each pair
  double chord = 0, chord_length = 0;  // dL/dc and c: two factors, since their ratio may overflow
  bool nothing = true;                 // every incoming gradient is zero: so is the outgoing one

  // `grads` holds the incoming gradients `stride` apart; resultant = |S|.
  template <class Acc>
  GEODESIC_FAST_INLINE void set(const Acc* grads, int64_t stride, bool only_lss, const LengthTotals& totals,
                                double resultant_length, double chord_reach, ZeroStep policy) {
    double g[kFieldCount];
    GEODESIC_FAST_UNROLL
    for (int field = 0; field < kFieldCount; ++field) {
      g[field] = field == 0 || !only_lss ? static_cast<double>(grads[field * stride]) : 0;
      nothing = nothing && g[field] == 0;
    }
    const double steps = static_cast<double>(totals.steps);
    const int64_t directions = totals.steps - totals.zero_steps;
    const bool undefined = policy == ZeroStep::kPropagate && totals.zero_steps > 0;
    const double n = policy == ZeroStep::kSkip ? static_cast<double>(directions) : steps;
    resultant = resultant_length;
    double on_lss = g[kLss];
    if (g[kLssNormalized] != 0) on_lss += g[kLssNormalized] / (std::sqrt(n) - 1);
    const bool constant = n == 1 && directions == 1;  // a single direction: LSS is 1 whatever it is
    lss = on_lss == 0 || constant ? 0
          : undefined || n == 0   ? double(NAN)
                                  : on_lss * n / resultant / resultant / resultant;
    if (only_lss) return;
    const double path = totals.path_length;
    length = g[kPathLength];
    double on_chord = g[kChord];
    if (g[kStraightness] != 0) {
      length -= g[kStraightness] * chord_reach / path / path;
      on_chord += g[kStraightness] / path;
    }
    chord = chord_reach > 0 ? on_chord : 0;
    chord_length = chord_reach;
    per_length = 2 * steps * g[kAction];
    mean_length = totals.mean_length;
    if (g[kStepCv] != 0) {
      const double deviation = std::sqrt(totals.scatter / steps);
      spread = deviation > 0 ? g[kStepCv] / (steps * deviation * mean_length) : 0;
      length -= g[kStepCv] * deviation / (steps * mean_length * mean_length);
    }
    const double pairs = undefined ? double(NAN) : n - 1;
    if (g[kAdjacentCosine] != 0) cosine = g[kAdjacentCosine] / pairs;
    if (g[kTurningAngle] != 0) angle = g[kTurningAngle] / pairs;
  }

  // What makes dL/dc times a unit vector of the chord.
  GEODESIC_FAST_INLINE double per_chord() const { return 1 / chord_length; }

  // The weight of u_l that its length alone brings; a step of length zero has none.
  GEODESIC_FAST_INLINE double own(double s) const {
    return length + per_length * s + spread * (s - mean_length);
  }

  // The weight of one pair's cosine; the arc cosine is flat beyond its clamp.
  GEODESIC_FAST_INLINE double of_pair(double cos) const {
    const double inside = 1 - cos * cos;
    return cosine - (angle != 0 && inside > 0 ? angle / std::sqrt(inside) : 0);
  }
};

}  // namespace geodesic_fast
