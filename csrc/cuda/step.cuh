// SPDX-License-Identifier: MIT
// Steps read where they lie, one feature at a time, and their lengths by a whole block.
#pragma once

#include "track_ring.cuh"

namespace geodesic_fast {
namespace cuda {

// One step of one track: where its two points lie, and what makes its difference a unit vector.
template <class T, class Acc = typename AccOf<T>::type>
struct Step {
  const T *now = nullptr, *before = nullptr;
  Acc length = 0;

  Step() = default;
  __device__ __forceinline__ Step(const DeviceTracks& tracks, int64_t layer, int64_t offset)
      : now(reinterpret_cast<const T*>(tracks.row(layer, offset))),
        before(reinterpret_cast<const T*>(tracks.row(layer - 1, offset))) {}

  __device__ __forceinline__ Acc difference(int64_t j) const { return widen(now[j]) - widen(before[j]); }
  __device__ __forceinline__ Acc half(int64_t j) const {
    return widen(now[j]) * Acc(0.5) - widen(before[j]) * Acc(0.5);
  }
  __device__ __forceinline__ Acc unit(int64_t j) const {
    return is_safe_square(length * length) ? difference(j) / length : half(j) / (length * Acc(0.5));
  }
};

template <class Acc>
struct WideTeam {
  TeamSum<Acc, 2> sum;
  Acc* max_buffer;

  // Sums body(j) over the features j of the block's track.
  template <class Body>
  __device__ __forceinline__ Acc over_features(int64_t d, const Body& body) {
    Acc totals[2] = {};
    for (int64_t j = threadIdx.x; j < d; j += blockDim.x) totals[0] += body(j);
    sum(totals);
    return totals[0];
  }

  // Sums the square of value(j), fused by name: whoever asks for the same squares gets the same bits.
  template <class Value>
  __device__ __forceinline__ Acc over_squares(int64_t d, const Value& value) {
    Acc totals[2] = {};
    for (int64_t j = threadIdx.x; j < d; j += blockDim.x) {
      const Acc v = value(j);
      totals[0] = fma(v, v, totals[0]);
    }
    sum(totals);
    return totals[0];
  }

  // |x^(now) - x^(before)|, any magnitude.
  template <class T>
  __device__ __forceinline__ double length(const Step<T>& step, int64_t d) {
    const Acc square = over_squares(d, [&](int64_t j) { return step.difference(j); });
    if (is_safe_square(square)) return sqrt(square);
    Acc largest = 0;
    for (int64_t j = threadIdx.x; j < d; j += blockDim.x) largest = larger(largest, fabs(step.difference(j)));
    largest = team_max(largest, max_buffer);
    if (largest == 0) return 0;
    if (!isinf(largest)) {
      return static_cast<double>(largest) *
             sqrt(over_squares(d, [&](int64_t j) { return step.difference(j) / largest; }));
    }
    largest = 0;  // the differences overflow, their halves do not
    for (int64_t j = threadIdx.x; j < d; j += blockDim.x) largest = larger(largest, fabs(step.half(j)));
    largest = team_max(largest, max_buffer);
    return 2.0 * largest * sqrt(over_squares(d, [&](int64_t j) { return step.half(j) / largest; }));
  }
};

}  // namespace cuda
}  // namespace geodesic_fast
