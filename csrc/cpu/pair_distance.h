// SPDX-License-Identifier: MIT
// The distance of one pair of tracks, coordinate by coordinate, in float64: the last word on every pair whose
// distance cancels in products.
#pragma once

#include <cmath>

#include "track_blocks.h"
#include "track_rows.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {

constexpr int64_t kLookEvery = 128;     // features between two looks at whether the sum is too large already
constexpr double kBitMore = 1 + 1e-12;  // more than the rounding of a sum in float64 that is compared

typedef float HalfVector __attribute__((vector_size(kVectorBytes / 2)));

GEODESIC_FAST_INLINE void add_squares(Vector<float> a, Vector<float> b, Vector<double> (&sums)[2]) {
  HalfVector x[2], y[2];
  std::memcpy(x, &a, sizeof(a));
  std::memcpy(y, &b, sizeof(b));
  for (int half = 0; half < 2; ++half) {
    const Vector<double> v =
        __builtin_convertvector(x[half], Vector<double>) - __builtin_convertvector(y[half], Vector<double>);
    sums[half] += v * v;
  }
}
GEODESIC_FAST_INLINE void add_squares(Vector<double> a, Vector<double> b, Vector<double> (&sums)[2]) {
  const Vector<double> v = a - b;
  sums[0] += v * v;
}

// float64 coordinates whose squares leave the range.
static inline double scaled_distance(const double* a, const double* b, int64_t features) {
  double factor = 1, largest = largest_difference(a, b, factor, features);
  if (largest > kLargestDouble) {  // a difference overflowed, of halves it does not
    factor = 0.5;
    largest = largest_difference(a, b, factor, features);
  }
  if (!(largest > 0) || largest > kLargestDouble) return largest;
  const double sum = sum_one_by_one(features, [=](int64_t j) {
    const double part = (a[j] * factor - b[j] * factor) / largest;
    return part * part;
  });
  return largest * std::sqrt(sum) / factor;
}
template <class T>
static inline double scaled_distance(const T*, const T*, int64_t) {
  return NAN;  // squares of narrower types never leave the range of float64
}

// |a - b|; infinity as soon as it is seen to be more than `limit`.
template <class T>
static inline double distance_within(const T* a, const T* b, int64_t features, double limit) {
  using Acc = typename AccOf<T>::type;
  const double most = limit * limit * kBitMore;
  const bool limited = is_safe_square(most);
  double total = 0;
  for (int64_t begin = 0; begin < features; begin += kLookEvery) {
    const int64_t count = features - begin < kLookEvery ? features - begin : kLookEvery;
    Vector<double> sums[kUnroll][2] = {};
    for_vectors<Acc>(count, [&](int64_t j, int group, int64_t lanes) {
      add_squares(load_row(a + begin, j, lanes), load_row(b + begin, j, lanes), sums[group]);
    });
    Vector<double> sum = sums[0][0] + sums[0][1];
    for (int group = 1; group < kUnroll; ++group) sum += sums[group][0] + sums[group][1];
    total += sum_lanes<double>(sum);
    if (limited && total > most) return INFINITY;
  }
  if (sizeof(T) == sizeof(double) && !is_safe_square(total)) return scaled_distance(a, b, features);
  return std::sqrt(total);
}

struct ClosestLayer {
  double distance = INFINITY;
  int32_t layer = -1;  // -1: none found within the distance
};

// Where two tracks come closest, the lowest of equal layers, given one layer or a limit to begin with. With
// `infinite` coordinates every layer is looked at to its end, as inf - inf makes the distance NaN.
template <class T>
static inline ClosestLayer closest_layer(const TracksView& tracks, int64_t offset, const TracksView& other,
                                         int64_t other_offset, ClosestLayer closest, bool infinite) {
  for (int64_t layer = 0; layer < tracks.points; ++layer) {
    const double distance =
        distance_within(row_of<T>(tracks, layer, offset), row_of<T>(other, layer, other_offset),
                        tracks.features, infinite ? double(INFINITY) : closest.distance);
    const int32_t at = static_cast<int32_t>(layer);
    if (distance != distance) return {distance, at};
    const bool first = closest.layer < 0 || at < closest.layer;
    if (distance < closest.distance || (distance == closest.distance && first)) closest = {distance, at};
  }
  return closest;
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
