// SPDX-License-Identifier: MIT
// Chord deviation: what its kernels take and return, on either device.
// With the chord C = x^(n) - x^(0), c = |C|, e = C / c and w_l = x^(l) - x^(0): along_l = <w_l, e> / c, and
// the deviation is |w_l - <w_l, e> e| / c.
#pragma once

#include <cmath>

#include "length.h"
#include "tracks_view.h"

namespace geodesic_fast {

// Acc is float, or double for float64 tracks.
struct ChordDeviation {
  TracksView tracks;
  void* deviation = nullptr;  // (n+1, m) Acc, out
  void* along = nullptr;      // (2, n+1, m) Acc, out, kept for backward; may be null: <w_l, e>, rounded, and
                              // what rounding left of the rest along e; times the chord's scale; NaN in the
                              // second: not to be had in these units
};

// The deviation is of w_l without either part along e: on a nearly straight track most of the first rest may
// be rounding. The gradient of x^(l), 0 < l < n, is g_l r_l / c with r_l the direction of w_l - <w_l, e> e;
// that of x^(n) is -sum along_l g_l r_l / c - (sum g_l deviation_l) e / c, and that of x^(0) makes their sum
// zero.
struct ChordDeviationBackward {
  const void* grad = nullptr;  // (n+1, m) Acc: g
  TracksView tracks;
  const void* deviation = nullptr;  // (n+1, m) Acc
  const void* along = nullptr;      // (2, n+1, m) Acc
  TracksView gradient;
};

// The chord in units that no square of it leaves: c = length / scale, scale a power of two, so that
// (x - y) * scale is as exact as x - y.
template <class Acc>
struct Chord {
  static constexpr double kWide = sizeof(Acc) == 4 ? 1e38 : 1e308;
  Acc scale = 0, length = 0;
  Length true_length;

  Chord() = default;
  GEODESIC_FAST_INLINE explicit Chord(Length c) : true_length(c) {
    constexpr int kSmallest = sizeof(Acc) == 4 ? -126 : -1022;
    const int beyond = c.unit == kLongUnit ? -kSmallest : kSmallest;
    const int exponent = !defined() ? 0 : c.unit == 1 ? ilogb(c.value) : beyond;
    const int power = exponent < kSmallest ? kSmallest : exponent;
    const double factor = ldexp(1.0, -(power < -kSmallest ? power : -kSmallest));
    scale = static_cast<Acc>(factor);
    length = static_cast<Acc>(c.value * factor * c.unit);
  }
  // Whether differences of the two ends may leave the range of Acc, so that they are taken of halves.
  GEODESIC_FAST_INLINE bool wide() const {
    return true_length.unit == kLongUnit || true_length.value > kWide;
  }
  // A track that comes back to its start has no chord to deviate from.
  GEODESIC_FAST_INLINE bool defined() const { return true_length.value > 0; }  // not NaN
};

}  // namespace geodesic_fast
