// SPDX-License-Identifier: MIT
// Points of small transport problems, read in float64.
#pragma once

#include "cpu/simd.h"
#include "ots.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {

using D = Vector<double>;
typedef int64_t I64 __attribute__((vector_size(kVectorBytes)));
constexpr int64_t kLane = kLanes<double>;

GEODESIC_FAST_INLINE D load(const double* from) { return load_unaligned<D>(from); }
GEODESIC_FAST_INLINE void store(double* to, D v) { std::memcpy(to, &v, sizeof(v)); }
GEODESIC_FAST_INLINE I64 load(const int64_t* from) { return load_unaligned<I64>(from); }
GEODESIC_FAST_INLINE void store(int64_t* to, I64 v) { std::memcpy(to, &v, sizeof(v)); }

// The next `count` values, at most a vector of them, and zeros behind.
template <class T>
GEODESIC_FAST_INLINE D widened(const T* from, int64_t count) {
  typedef T Narrow __attribute__((vector_size(kLanes<double> * sizeof(T))));
  if (count == kLane) return __builtin_convertvector(load_unaligned<Narrow>(from), D);
  T padded[kLane] = {};
  std::memcpy(padded, from, count * sizeof(T));
  return __builtin_convertvector(load_unaligned<Narrow>(padded), D);
}

template <class T>
GEODESIC_FAST_INLINE const T* points_of(const DenseProblems& args, int side, int64_t problem) {
  return static_cast<const T*>(side == 0 ? args.x : args.y) + problem * args.m * args.d;
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
