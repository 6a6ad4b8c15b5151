// SPDX-License-Identifier: MIT
// Tracks measured while their layers arrive: what is held of each, and what the kernels take and return.
#pragma once

#include "geometry_sums.h"

namespace geodesic_fast {

// The rows of `sums`, as in geodesic_fast/recording/accumulator.py.
enum SumRow : int {
  kSumPath = 0,
  kSumSquares,
  kSumMean,
  kSumScatter,
  kSumCosines,
  kSumAngles,
  kSumSteps,
  kSumZeros,
  kSumPairs,
  kSumRowLength,  // of the row that holds the last direction
  kSumUnit,       // of the lengths in the rows above; 0 before the first
  kSumRows
};

// Acc is float, or double for float64 tracks. The last direction is held for the next cosine alone, as any
// row along it and the length of that row. On the CPU a float row is held in 24 bits of fixed point, scaled
// to its largest feature: beside the rounding of a float32 sum that is nothing.
struct Accumulator {
  TracksView tracks;  // two points: x^(l-1) and x^(l) for an update, x^(0) and x^(n) at the end
  ZeroStep zero_step = ZeroStep::kSkip;
  void* direction_sum = nullptr;     // (m, d) Acc, u_1 + ... + u_l; the first step writes it unread
  void* direction = nullptr;         // (m, d) along the last direction; unread before there is one. Acc, or
                                     // int16 for the upper 16 of 24 bits
  uint8_t* direction_low = nullptr;  // (m, d) the lower 8
  double* sums = nullptr;            // (kSumRows, m)
  void* fields = nullptr;            // (kFieldCount, m) Acc, written at the end
  int64_t* zero_steps = nullptr;     // (m), written at the end
};

// One track's column of `sums`.
struct HeldSums {
  double* column;
  int64_t stride;

  GEODESIC_FAST_INLINE double& at(SumRow row) const { return column[row * stride]; }

  GEODESIC_FAST_INLINE GeometrySums load() const {
    GeometrySums sums;
    sums.path_length = at(kSumPath);
    sums.squares = at(kSumSquares);
    sums.mean_length = at(kSumMean);
    sums.length_scatter = at(kSumScatter);
    sums.unit = at(kSumUnit);
    sums.cosines = at(kSumCosines);
    sums.angles = at(kSumAngles);
    sums.steps = static_cast<int64_t>(at(kSumSteps));
    sums.zero_steps = static_cast<int64_t>(at(kSumZeros));
    sums.pairs = static_cast<int64_t>(at(kSumPairs));
    return sums;
  }

  GEODESIC_FAST_INLINE void store(const GeometrySums& sums) const {
    at(kSumPath) = sums.path_length;
    at(kSumSquares) = sums.squares;
    at(kSumMean) = sums.mean_length;
    at(kSumScatter) = sums.length_scatter;
    at(kSumUnit) = sums.unit;
    at(kSumCosines) = sums.cosines;
    at(kSumAngles) = sums.angles;
    at(kSumSteps) = static_cast<double>(sums.steps);
    at(kSumZeros) = static_cast<double>(sums.zero_steps);
    at(kSumPairs) = static_cast<double>(sums.pairs);
  }
};

// Whether an earlier step of these tracks had a direction.
GEODESIC_FAST_INLINE bool has_direction(const GeometrySums& sums, ZeroStep policy) {
  return policy == ZeroStep::kKeep ? sums.steps > 0 : sums.steps > sums.zero_steps;
}

}  // namespace geodesic_fast
