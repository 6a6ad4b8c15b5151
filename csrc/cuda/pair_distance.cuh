// SPDX-License-Identifier: MIT
// The distance of one pair of tracks by a warp, coordinate by coordinate, in float64: the last word on every
// pair whose distance cancels in products.
#pragma once

#include "track_distance.h"
#include "track_ring.cuh"

namespace geodesic_fast {
namespace cuda {

constexpr int kLookEvery = 512;         // features between two looks at whether the sum is too large already
constexpr double kBitMore = 1 + 1e-12;  // more than the rounding of a sum in float64 that is compared
constexpr int kPairSlice = 128;         // features at a time; longer runs of additions would round more

template <class Acc>
constexpr Acc kLeastPairSquare = sizeof(Acc) == 8 ? Acc(1e-280) : Acc(1e-26f);

// Bounds the rounding of |a|^2 + |b|^2 - 2 <a, b>, and of a and b, by this much of |a|^2 + |b|^2.
template <class Acc>
GEODESIC_FAST_INLINE Acc pair_rounding(int64_t features) {
  const Acc unit = sizeof(Acc) == 8 ? Acc(0x1p-52) : Acc(0x1p-23);
  return unit * Acc(kPairSlice + 16 + features / 16);  // tensor cores end their sums after 16 features
}

__device__ __forceinline__ double warp_sum(double value) {
#pragma unroll
  for (int lane = kWarp / 2; lane > 0; lane /= 2) value += __shfl_xor_sync(0xffffffffu, value, lane);
  return value;
}

__device__ __forceinline__ double largest_difference(const double* a, const double* b, double factor,
                                                     int64_t features) {
  double largest = 0;
#pragma unroll 1
  for (int64_t j = threadIdx.x % kWarp; j < features; j += kWarp) {
    largest = larger(largest, fabs(a[j] * factor - b[j] * factor));
  }
#pragma unroll
  for (int lane = kWarp / 2; lane > 0; lane /= 2) {
    largest = larger(largest, __shfl_xor_sync(0xffffffffu, largest, lane));
  }
  return largest;
}

// float64 coordinates whose squares leave the range.
__device__ __forceinline__ double scaled_distance(const double* a, const double* b, int64_t features) {
  double factor = 1, largest = largest_difference(a, b, factor, features), sum = 0;
  if (isinf(largest)) {  // a difference overflowed, of halves it does not
    factor = 0.5;
    largest = largest_difference(a, b, factor, features);
  }
  if (!(largest > 0) || isinf(largest)) return largest;
#pragma unroll 1
  for (int64_t j = threadIdx.x % kWarp; j < features; j += kWarp) {
    const double part = (a[j] * factor - b[j] * factor) / largest;
    sum += part * part;
  }
  return largest * sqrt(warp_sum(sum)) / factor;
}
template <class T>
__device__ __forceinline__ double scaled_distance(const T*, const T*, int64_t) {
  return NAN;  // squares of narrower types never leave the range of float64
}

// |a - b|, the same in every lane; infinity as soon as it is seen to be more than `limit`.
template <class T>
__device__ __forceinline__ double distance_within(const T* a, const T* b, int64_t features, double limit) {
  const double most = limit * limit * kBitMore;
  const bool limited = is_safe_square(most);
  double total = 0;
#pragma unroll 1
  for (int64_t begin = 0; begin < features; begin += kLookEvery) {
    double sum = 0;
#pragma unroll 4
    for (int64_t j = begin + threadIdx.x % kWarp; j < begin + kLookEvery; j += kWarp) {
      if (j >= features) continue;
      const double v = static_cast<double>(widen(a[j])) - static_cast<double>(widen(b[j]));
      sum += v * v;
    }
    total += warp_sum(sum);
    if (limited && total > most) return INFINITY;
  }
  if (sizeof(T) == sizeof(double) && !is_safe_square(total)) return scaled_distance(a, b, features);
  return sqrt(total);
}

struct ClosestLayer {
  double distance;
  int32_t layer;  // -1: none found within the distance
};

// Two tracks of a set, or of two.
template <class T>
struct TrackPair {
  const DeviceTracks &tracks, &other;
  int64_t offset, other_offset;

  __device__ __forceinline__ double distance(int64_t layer, double limit) const {
    return distance_within(reinterpret_cast<const T*>(tracks.row(layer, offset)),
                           reinterpret_cast<const T*>(other.row(layer, other_offset)), tracks.view.features,
                           limit);
  }

  // Where the two come closest, the lowest of equal layers, given one layer or a limit to begin with. With
  // `infinite` coordinates every layer is looked at to its end, as inf - inf makes the distance NaN.
  __device__ __forceinline__ ClosestLayer closest(ClosestLayer so_far, bool infinite) const {
#pragma unroll 1
    for (int32_t layer = 0; layer < tracks.view.points; ++layer) {
      const double found = distance(layer, infinite ? static_cast<double>(INFINITY) : so_far.distance);
      if (found != found) return {found, layer};
      const bool first = so_far.layer < 0 || layer < so_far.layer;
      if (found < so_far.distance || (found == so_far.distance && first)) so_far = {found, layer};
    }
    return so_far;
  }
};

// Distances of rows row_begin..row_end of x to all of y.
struct DistanceRows {
  TrackPairs pairs;
  bool mirrored = false;  // only pairs i <= j, each written twice
  int64_t row_begin = 0, row_end = 0;
  int64_t first_written = 0;  // which row `distance` and `layer` start with
  void* distance = nullptr;
  int32_t* layer = nullptr;
};
void distance_rows(const DistanceRows& work, int device, void* stream);
void tensor_distance_rows(const DistanceRows& work, int device, void* stream);

// Whether tensor cores can multiply the points: only as they are, so the preparation leaves the centre at
// zero where it finds it near enough to the origin.
bool tensor_tiles_fit(int device);  // into the shared memory of a block
inline bool may_use_tensor_cores(const TrackPairs& pairs, int device) {
  const TracksView& tracks = pairs.tracks;
  return tensor_tiles_fit(device) && bytes_of(tracks.dtype) == 2 && tracks.features >= kPairSlice &&
         tracks.points < (1 << 15) && rows_on_16_bytes(tracks) && rows_on_16_bytes(pairs.other);
}
__device__ __forceinline__ bool products_as_they_are(const TrackPairs& pairs) { return pairs.scale[1] != 0; }

}  // namespace cuda
}  // namespace geodesic_fast
