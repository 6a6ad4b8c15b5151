// SPDX-License-Identifier: MIT
// From what one track adds up, step by step, to its fields: the same arithmetic on every device.
#pragma once

#include <cmath>

#include "length.h"
#include "lss_track_geometry.h"

namespace geodesic_fast {

// All sums are float64: a track has few steps and many features. Lengths are added up in a unit from which
// their squares keep their digits.
struct GeometrySums {
  double path_length = 0, squares = 0;         // sum s, sum s^2
  double mean_length = 0, length_scatter = 0;  // running mean of s and sum (s - mean)^2
  double unit = 0;                             // of all these; 0 before the first length
  double cosines = 0, angles = 0;
  int64_t steps = 0, zero_steps = 0, pairs = 0;

  GEODESIC_FAST_INLINE void add_length(Length given) {
    if (needs_unit(given, unit)) take_unit(unit_beside(given, unit));
    const double length = given.in(unit);
    ++steps;
    zero_steps += given.value == 0;
    path_length += length;
    squares += length * length;
    const double off = length - mean_length;
    mean_length += off / static_cast<double>(steps);
    length_scatter += off * (length - mean_length);
  }

  GEODESIC_FAST_INLINE void take_unit(double wanted) {
    const double change = unit == 0 ? 1 : unit / wanted;
    path_length *= change, mean_length *= change;
    squares = squares * change * change, length_scatter = length_scatter * change * change;
    unit = wanted;
  }

  // `apart`: |u - w| of the two directions, or |u + w| if they point apart; asked for where is_flat(cosine).
  GEODESIC_FAST_INLINE void add_cosine(double cosine, double apart) {
    ++pairs;
    cosines += cosine > 1 ? 1.0 : cosine < -1 ? -1.0 : cosine;
    angles += is_flat(cosine) ? flat_angle(cosine, apart) : std::acos(cosine);  // acos(NaN) is NaN
  }
};

// How many steps count as directions; NaN when a zero-length step is to make the track NaN.
GEODESIC_FAST_INLINE double direction_count(int64_t steps, int64_t zero_steps, ZeroStep policy) {
  if (policy == ZeroStep::kPropagate && zero_steps > 0) return NAN;
  return static_cast<double>(policy == ZeroStep::kSkip ? steps - zero_steps : steps);
}

// LSS from n counted directions and the length of their sum; a single direction is a straight line.
GEODESIC_FAST_INLINE double lss_of(double n, int64_t directions, double resultant) {
  if (n == 0 || resultant != resultant) return NAN;
  if (n == 1 && directions == 1) return 1.0;
  return resultant > n ? 1.0 : n / resultant;  // n directions are no longer than n but for rounding
}

// fields: kFieldCount values, `stride` apart.
template <class Acc>
GEODESIC_FAST_INLINE void write_fields(const GeometrySums& sums, double resultant, Length chord,
                                       ZeroStep policy, Acc* fields, int64_t stride) {
  const double n = direction_count(sums.steps, sums.zero_steps, policy);
  const double lss = lss_of(n, sums.steps - sums.zero_steps, resultant), all = sums.steps;
  const double path = sums.path_length, straightness = chord.in(sums.unit) / path;
  const bool broken = path != path || chord.value != chord.value;
  const double pairs = n == n && sums.pairs > 0 ? static_cast<double>(sums.pairs) : NAN;
  const double values[kFieldCount] = {
      lss,
      n >= 2 ? (lss - 1) / (std::sqrt(n) - 1) : NAN,
      path * sums.unit,
      chord.value * chord.unit,
      straightness > 1 ? 1.0 : straightness,
      sums.cosines / pairs,
      sums.angles / pairs,
      std::sqrt(sums.length_scatter / all) / sums.mean_length,
      all * sums.squares * sums.unit * sums.unit,
  };
  for (int field = 0; field < kFieldCount; ++field) {
    fields[field * stride] = static_cast<Acc>(broken ? double(NAN) : values[field]);
  }
}

}  // namespace geodesic_fast
