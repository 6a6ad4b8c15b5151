// SPDX-License-Identifier: MIT
// Lengths and angles at the edges of float64, the same on every device.
#pragma once

#include <cmath>

#include "tracks_view.h"

namespace geodesic_fast {

constexpr double kLargestDouble = 1.7976931348623157e308;
constexpr double kLongUnit = 0x1p600, kShortUnit = 0x1p-600;

// A length of value * unit, which may be beyond the largest float64, or so small that float64 has few digits.
struct Length {
  double value = 0, unit = 1;

  GEODESIC_FAST_INLINE constexpr Length() {}
  GEODESIC_FAST_INLINE constexpr Length(double length) : value(length) {}
  // a * b * c; neither of them is NaN alone, and a * c is finite
  static GEODESIC_FAST_INLINE Length product(double a, double b, double c) {
    Length length(a * b * c);
    if (length.value > kLargestDouble && a <= kLargestDouble) {
      length.value = a * kShortUnit * b * c;
      length.unit = kLongUnit;
    } else if (length.value < 0x1p-960 && a > 0) {
      length.value = a * kLongUnit * b * c;
      length.unit = kShortUnit;
    }
    return length;
  }

  GEODESIC_FAST_INLINE double in(double other_unit) const {
    return unit == other_unit ? value : value * (unit / other_unit);
  }
};

// Whether sums in `unit` have to take another one, since the square of this length would leave the range.
GEODESIC_FAST_INLINE bool needs_unit(Length length, double unit) {
  return unit == 0 || (length.unit != unit && unit != kLongUnit) || (unit == 1 && length.value > 0x1p400);
}

// One of three units: that of the longest length so far.
GEODESIC_FAST_INLINE double unit_beside(Length length, double unit) {
  const bool huge = length.unit == kLongUnit || length.value > 0x1p400;
  const bool tiny = length.unit == kShortUnit || length.value < 0x1p-300;
  const double own = huge ? kLongUnit : tiny ? kShortUnit : 1;
  return own > unit ? own : unit;
}

// Near 0 and pi the arc cosine keeps half of the digits only, and the angle is taken from half of the chord
// between the two directions.
GEODESIC_FAST_INLINE bool is_flat(double cosine) { return cosine > 0.9 || cosine < -0.9; }
GEODESIC_FAST_INLINE double flat_angle(double cosine, double apart) {
  const double angle = 2 * std::asin(apart < 2 ? apart / 2 : 1.0);
  return cosine > 0 ? angle : 3.141592653589793 - angle;
}
GEODESIC_FAST_INLINE double sine(double cosine, double apart) {
  const double square = is_flat(cosine) ? apart * apart * (1 - apart * apart / 4) : 1 - cosine * cosine;
  return square > 0 ? std::sqrt(square) : 0;
}

}  // namespace geodesic_fast
