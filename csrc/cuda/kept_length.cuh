// SPDX-License-Identifier: MIT
// How the length of a step is kept between kernels, in the type of the sums: as it is, or, where that type
// has few digits for it or none, below zero and in a unit of its own.
#pragma once

#include <type_traits>

#include "geometry_sums.h"
#include "track_ring.cuh"

namespace geodesic_fast {
namespace cuda {

template <class Acc>
struct KeptLength;

template <>
struct KeptLength<double> {
  static __device__ __forceinline__ double keep(Length length) {
    return length.unit == 1 ? length.value : -length.value;  // above 1 in long units, below 1 in short ones
  }
  static __device__ __forceinline__ Length of(double kept) {
    Length length(fabs(kept));
    if (kept < 0) length.unit = kept <= -1 ? kLongUnit : kShortUnit;
    return length;
  }
};

template <>
struct KeptLength<float> {
  static __device__ __forceinline__ float keep(Length length) {
    const double value = length.value;
    if (value > 0x1p127) return static_cast<float>(value * -0x1p-64);
    if (value < 0x1p-100 && value > 0) return static_cast<float>(value * -0x1p64);
    return static_cast<float>(value);
  }
  static __device__ __forceinline__ Length of(float kept) {
    return Length(kept <= -1 ? kept * -0x1p64 : kept < 0 ? kept * -0x1p-64 : static_cast<double>(kept));
  }
};

// Whether a kept length is one by which a difference may be divided as it is.
template <class Acc>
__device__ __forceinline__ bool is_plain_length(Acc kept) {
  return kept > 0 && is_safe_square(kept * kept);
}

// 1 / length is value times two to a power that takes what would leave the range although the gradient need
// not.
template <class Acc>
struct InverseLength {
  Acc value;
  int power = 0;

  __device__ __forceinline__ explicit InverseLength(Acc kept) : value(1 / kept) {
    if (is_plain_length(kept)) return;
    constexpr int most = sizeof(Acc) == 8 ? 1000 : 126;
    const Length length = KeptLength<Acc>::of(kept);
    const int exponent = length.unit == kLongUnit ? most : length.unit == 1 ? ilogb(length.value) : -most;
    power = exponent > most ? -most : exponent < -most ? most : -exponent;
    value = static_cast<Acc>(1 / (length.value * factor()) / length.unit);
  }
  __device__ __forceinline__ Acc factor() const { return power_of_two(power); }
  __device__ __forceinline__ Acc one_over_factor() const { return power_of_two(-power); }

 private:
  // Made of its bits: ldexp takes registers that some kernels do not have.
  __device__ __forceinline__ static Acc power_of_two(int power) {
    using Bits = typename std::conditional<sizeof(Acc) == 8, int64_t, int32_t>::type;
    const Bits bits = static_cast<Bits>(power + (sizeof(Acc) == 8 ? 1023 : 127))
                      << (sizeof(Acc) == 8 ? 52 : 23);
    Acc found;
    memcpy(&found, &bits, sizeof(bits));
    return found;
  }
};

// One feature of a direction whose length is not plain.
template <class Acc>
__device__ __forceinline__ Acc scaled_direction(Acc now, Acc before, Length length, bool is_long) {
  const double a = now, b = before;
  const double v = is_long ? a * 0.5 - b * 0.5 : a - b;
  return static_cast<Acc>(v / length.unit / (is_long ? length.value * 0.5 : length.value));
}

}  // namespace cuda
}  // namespace geodesic_fast
