// SPDX-License-Identifier: MIT
// The scalars of the backward pass: how a weighted sum of one track's fields changes with each step.
// With unit steps u_l, lengths s_l, S = sum u_l, R = |S| and C = x^(n) - x^(0), the gradient in step l is
//     own_l u_l + sum_weight / s_l S + (weight of the pair's cosine) / s_l (u_k - cos u_l)  for each
//     neighbour k
// and the chord adds dL/dc C / c at x^(n) and takes it at x^(0).
#pragma once

#include <cmath>

#include "length.h"
#include "lss_track_geometry.h"

namespace geodesic_fast {

// Totals over the lengths of one track, gathered before its features are read again.
struct LengthTotals {
  double path_length = 0, mean_length = 0, scatter = 0;
  double unit = 0;  // of these; 0 before the first length
  int64_t steps = 0, zero_steps = 0;

  GEODESIC_FAST_INLINE void add(Length given) {
    if (needs_unit(given, unit)) {
      const double wanted = unit_beside(given, unit), change = unit == 0 ? 1 : unit / wanted;
      path_length *= change, mean_length *= change, scatter = scatter * change * change;
      unit = wanted;
    }
    const double length = given.in(unit);
    ++steps;
    zero_steps += given.value == 0;
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
  double spread = 0;      // of (s_l - mean) / mean, in units of `unit`
  double mean_length = 0, unit = 1;
  double cosine = 0, angle = 0;  // of each pair
  double chord = 0;              // dL/dc
  Length chord_length;           // c, apart, since their ratio may overflow
  bool nothing = true;           // every incoming gradient is zero: so is the outgoing one

  // `grads` holds the incoming gradients `stride` apart; resultant = |S|.
  template <class Acc>
  GEODESIC_FAST_INLINE void set(const Acc* grads, int64_t stride, bool only_lss, const LengthTotals& totals,
                                double resultant_length, Length chord_reach, ZeroStep policy) {
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
    unit = totals.unit == 0 ? 1 : totals.unit;
    length = g[kPathLength];
    double on_chord = g[kChord];
    if (g[kStraightness] != 0) {
      length -= g[kStraightness] * (chord_reach.in(unit) / path) / path / unit;
      on_chord += g[kStraightness] / path / unit;
    }
    chord = chord_reach.value > 0 ? on_chord : 0;
    chord_length = chord_reach;
    per_length = 2 * steps * g[kAction];
    mean_length = totals.mean_length;
    if (g[kStepCv] != 0) {
      const double deviation = std::sqrt(totals.scatter / steps);
      spread = deviation > 0 ? g[kStepCv] / (steps * deviation) : 0;
      length -= g[kStepCv] * (deviation / mean_length) / (steps * mean_length) / unit;
    }
    const double pairs = undefined ? double(NAN) : n - 1;
    if (g[kAdjacentCosine] != 0) cosine = g[kAdjacentCosine] / pairs;
    if (g[kTurningAngle] != 0) angle = g[kTurningAngle] / pairs;
  }

  // The weight of u_l that its length alone brings; a step of length zero has none.
  GEODESIC_FAST_INLINE double own(Length s) const {
    double own = length;
    if (per_length != 0) own += per_length * s.value * s.unit;
    if (spread != 0) own += spread * ((s.in(unit) - mean_length) / mean_length) / unit;
    return own;
  }

  // The weight of one pair's cosine, and `apart` as for GeometrySums; the angle has a kink at 0 and pi.
  GEODESIC_FAST_INLINE double of_pair(double cos, double apart) const {
    const double sin = angle != 0 ? sine(cos, apart) : 0;
    return cosine - (sin > 0 ? angle / sin : 0);
  }
  GEODESIC_FAST_INLINE bool needs_apart(double cos) const { return angle != 0 && is_flat(cos); }
};

}  // namespace geodesic_fast
