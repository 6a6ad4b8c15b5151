// SPDX-License-Identifier: MIT
// Chord deviation: what its kernels take and return, on either device.
// With the chord C = x^(n) - x^(0), c = |C|, e = C / c and w_l = x^(l) - x^(0): along_l = <w_l, e> / c, and
// the deviation is |w_l - <w_l, e> e| / c.
#pragma once

#include <cmath>

#include "tracks_view.h"

namespace geodesic_fast {

// Acc is float, or double for float64 tracks.
struct ChordDeviation {
  TracksView tracks;
  void* deviation = nullptr;  // (n+1, m) Acc, out
  void* along = nullptr;      // (n+1, m) Acc, out, kept for backward; may be null
};

// The gradient of x^(l), 0 < l < n, is g_l r_l / c with r_l the direction of w_l - <w_l, e> e; that of x^(n)
// is -sum along_l g_l r_l / c - (sum g_l deviation_l) e / c, and that of x^(0) makes their sum zero.
struct ChordDeviationBackward {
  TracksView tracks, gradient;
  const void* grad = nullptr;       // (n+1, m) Acc: g
  const void* deviation = nullptr;  // (n+1, m) Acc
  const void* along = nullptr;      // (n+1, m) Acc
};

// The chord in units that no square of it leaves: c = length / scale, scale a power of two, so that
// (x - y) * scale is as exact as x - y.
template <class Acc>
struct Chord {
  Acc scale = 0, length = 0;
  double true_length = 0;

  Chord() = default;
  GEODESIC_FAST_INLINE explicit Chord(double c) : true_length(c) {
    constexpr int kSmallest = sizeof(Acc) == 4 ? -126 : -1022;
    const int exponent = c > 0 && c < INFINITY ? ilogb(c) : 0;
    const int power = exponent < kSmallest ? kSmallest : exponent;
    scale = static_cast<Acc>(ldexp(1.0, -(power < -kSmallest ? power : -kSmallest)));
    length = static_cast<Acc>(c * static_cast<double>(scale));
  }
  // A track that comes back to its start has no chord to deviate from.
  GEODESIC_FAST_INLINE bool defined() const { return true_length > 0 && true_length < INFINITY; }
};

}  // namespace geodesic_fast
