// SPDX-License-Identifier: MIT
// A square of lanes on its side.
#pragma once

#include "simd.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define GEODESIC_FAST_SHUFFLES
#endif
#endif

// Turns a square of lanes on its side: lane k of row r goes to lane r of row k.
#if defined(GEODESIC_FAST_SHUFFLES)
template <int... kLane>
struct LaneList {};
template <int kCount, int... kLane>
struct LanesUpTo : LanesUpTo<kCount - 1, kCount - 1, kLane...> {};
template <int... kLane>
struct LanesUpTo<0, kLane...> {
  using type = LaneList<kLane...>;
};
template <int kStep, class V, int... kLane>
GEODESIC_FAST_INLINE void swap_corners(V& a, V& b, LaneList<kLane...>) {
  constexpr int lanes = sizeof...(kLane);
  const V low = __builtin_shufflevector(a, b, ((kLane & kStep) ? lanes + kLane - kStep : kLane)...);
  b = __builtin_shufflevector(a, b, ((kLane & kStep) ? lanes + kLane : kLane + kStep)...);
  a = low;
}
template <class Acc, int kStep>
GEODESIC_FAST_INLINE void transpose_stage(Vector<Acc> (&rows)[kLanes<Acc>]) {
#pragma GCC unroll 16
  for (int r = 0; r < kLanes<Acc>; ++r) {
    if ((r & kStep) == 0)
      swap_corners<kStep>(rows[r], rows[r + kStep], typename LanesUpTo<kLanes<Acc>>::type{});
  }
}
template <class Acc>
GEODESIC_FAST_INLINE void transpose(Vector<Acc> (&rows)[kLanes<Acc>]) {
  if constexpr (kLanes<Acc> > 8) transpose_stage<Acc, 8>(rows);
  if constexpr (kLanes<Acc> > 4) transpose_stage<Acc, 4>(rows);
  if constexpr (kLanes<Acc> > 2) transpose_stage<Acc, 2>(rows);
  transpose_stage<Acc, 1>(rows);
}
#else
template <class Acc>
GEODESIC_FAST_INLINE void transpose(Vector<Acc> (&rows)[kLanes<Acc>]) {
  for (int r = 0; r < kLanes<Acc>; ++r) {
    for (int k = 0; k < r; ++k) {
      const Acc value = rows[r][k];
      rows[r][k] = rows[k][r];
      rows[k][r] = value;
    }
  }
}
#endif

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
