// SPDX-License-Identifier: MIT
// Distance of pairs of tracks: what its kernels take and return, on either device.
// d_ij = min over layers l of |x_i^(l) - y_j^(l)|; y is x where the pairs are those of one set of tracks.
#pragma once

#include "tracks_view.h"

namespace geodesic_fast {

constexpr uint8_t kFiniteTrack = 0, kInfiniteTrack = 1, kNaNTrack = 2;

// The two sets of tracks and what a first pass over them finds out (`track_pairs_prepare`), so that products
// lose few digits and leave no range: points are taken as scale * x - centre. Python allocates all of it.
struct TrackPairs {
  TracksView tracks;        // x, m tracks
  TracksView other;         // y, m' tracks; the same view as `tracks` where symmetric
  bool symmetric = true;    // y is x: d_ij = d_ji and d_ii = 0 exactly
  double* scale = nullptr;  // (2): a power of two, about 1 / the largest finite coordinate; on a GPU, whether
                            // the centre is left at zero for tensor cores
  void* centre = nullptr;   // (n+1, d), accumulation type: mean of scale * x and scale * y, finite ones
  void* squares =
      nullptr;  // (n+1, m), accumulation type: |scale x - centre|^2, < 0 where a track is not finite
  void* other_squares = nullptr;   // (n+1, m'); `squares` where symmetric
  uint8_t* kinds = nullptr;        // (m): kFiniteTrack, kInfiniteTrack (no NaN), kNaNTrack
  uint8_t* other_kinds = nullptr;  // (m'); `kinds` where symmetric
};

// NaN where either track holds NaN; inf - inf is NaN as well.
struct TrackDistance {
  TrackPairs pairs;
  int64_t row_begin = 0, row_end = -1;  // rows of this call, -1: to the last; symmetric: columns from there
                                        // on, and their mirror images
  void* distance = nullptr;             // (m, m'), out, accumulation type
  int32_t* layer = nullptr;  // (m, m'), out: the minimising layer, the lowest of equal ones; null: not asked
};

// Gradient of the tracks x, or, where `of_other`, of y:
// sum over j of grad_ij (x_i^(l) - y_j^(l)) / d_ij at l = layer_ij.
struct TrackDistanceBackward {
  const void* grad = nullptr;      // (m, m'), accumulation type; where y is x its transpose has been added
  const void* distance = nullptr;  // (m, m'), accumulation type
  const int32_t* layer = nullptr;  // (m, m')
  TracksView tracks, other;
  bool of_other = false;
  TracksView gradient;
};

// What one pair sends: grad (x - y) / d. A pair that nothing is asked of, or at distance 0 or inf, sends
// nothing.
template <class Acc>
struct PairGradient {
  Acc grad, distance;
  bool counts;

  GEODESIC_FAST_INLINE PairGradient(const TrackDistanceBackward& args, int64_t at)
      : grad(static_cast<const Acc*>(args.grad)[at]), distance(static_cast<const Acc*>(args.distance)[at]) {
    counts = grad != 0 && distance != 0 && !(distance > kMost) && args.layer[at] >= 0;
  }
  GEODESIC_FAST_INLINE Acc weight() const { return grad / distance; }
  // Whether the weight has all its digits; else the direction has to be taken anew from the coordinates.
  GEODESIC_FAST_INLINE bool is_plain() const { return is_normal(weight()) && is_normal(distance); }

 private:
  static constexpr Acc kMost = sizeof(Acc) == 4 ? Acc(0x1.fffffep127) : Acc(0x1.fffffffffffffp1023);
  static GEODESIC_FAST_INLINE bool is_normal(Acc x) {
    constexpr Acc least = sizeof(Acc) == 4 ? Acc(0x1p-126) : Acc(0x1p-1022);
    return (x >= least && x <= kMost) || (x <= -least && x >= -kMost);
  }
};

}  // namespace geodesic_fast
