// SPDX-License-Identifier: MIT
// Steps read where they lie, one feature at a time, and their lengths by a whole block.
#pragma once

#include "kept_length.cuh"
#include "track_ring.cuh"

namespace geodesic_fast {
namespace cuda {

// One step of one track: where its two points lie, and what makes its difference a unit vector.
template <class T, class Acc = typename AccOf<T>::type>
struct Step {
  const T *now = nullptr, *before = nullptr;
  Acc length = 0;  // as it is kept: see KeptLength

  Step() = default;
  __device__ __forceinline__ Step(const DeviceTracks& tracks, int64_t layer, int64_t offset)
      : now(reinterpret_cast<const T*>(tracks.row(layer, offset))),
        before(reinterpret_cast<const T*>(tracks.row(layer - 1, offset))) {}

  __device__ __forceinline__ Acc difference(int64_t j) const { return widen(now[j]) - widen(before[j]); }
  __device__ __forceinline__ Acc half(int64_t j) const {
    return widen(now[j]) * Acc(0.5) - widen(before[j]) * Acc(0.5);
  }
  __device__ __forceinline__ Acc unit(int64_t j) const {
    if (is_plain_length(length)) return difference(j) / length;
    return scaled_direction(widen(now[j]), widen(before[j]), KeptLength<Acc>::of(length), length <= -1);
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
  __device__ __forceinline__ Length length(const Step<T>& step, int64_t d) {
    const Acc square = over_squares(d, [&](int64_t j) { return step.difference(j); });
    if (is_safe_square(square)) return Length(sqrt(static_cast<double>(square)));
    Acc largest = largest_of(d, [&](int64_t j) { return step.difference(j); });
    if (largest == 0) return Length();
    if (!isinf(largest)) return scaled_length(d, largest, 1, [&](int64_t j) { return step.difference(j); });
    largest = largest_of(d, [&](int64_t j) { return step.half(j); });  // differences overflow, halves do not
    return scaled_length(d, largest, 2, [&](int64_t j) { return step.half(j); });
  }

 private:
  template <class Value>
  __device__ __forceinline__ Acc largest_of(int64_t d, const Value& value) const {
    Acc largest = 0;
    for (int64_t j = threadIdx.x; j < d; j += blockDim.x) largest = larger(largest, fabs(value(j)));
    return team_max(largest, max_buffer);
  }

  // In a power of two, which costs no rounding.
  template <class Value>
  __device__ __forceinline__ Length scaled_length(int64_t d, Acc largest, double unit, const Value& value) {
    if (!isfinite(largest)) return Length(NAN);
    const int power = ilogb(largest);
    const Acc square = over_squares(d, [&](int64_t j) { return ldexp(value(j), -power); });
    return Length::product(ldexp(1.0, power), sqrt(static_cast<double>(square)), unit);
  }
};

}  // namespace cuda
}  // namespace geodesic_fast
