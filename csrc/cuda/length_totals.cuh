// SPDX-License-Identifier: MIT
// Totals over the kept lengths of one track, by its team.
#pragma once

#include "geometry_gradient.h"
#include "kept_length.cuh"

namespace geodesic_fast {
namespace cuda {

// `lengths`: those of the track, `stride` apart. Totals of the scatter only if `scattered`.
template <class Acc>
__device__ __forceinline__ LengthTotals totals_of_lengths(const Acc* lengths, int64_t stride, int64_t steps,
                                                          bool scattered, TeamSum<double, 2>& sum) {
  const auto for_each = [&](const auto& body) {
    for (int64_t step = threadIdx.x; step < steps; step += blockDim.x) {
      body(KeptLength<Acc>::of(lengths[step * stride]));
    }
  };
  LengthTotals totals;
  totals.steps = steps;
  totals.unit = 1;
  if constexpr (sizeof(Acc) == 8) {  // squares of narrower types never leave the range
    if (scattered) {
      double sizes[2] = {};  // how many are long, and how many not short
      for_each([&](Length length) {
        const double unit = length.value == 0 ? kShortUnit : unit_beside(length, 0);
        sizes[0] += unit == kLongUnit;
        sizes[1] += unit == 1;
      });
      sum(sizes);
      totals.unit = sizes[0] > 0 ? kLongUnit : sizes[1] > 0 ? 1 : kShortUnit;
    }
  }
  double sums[2] = {};
  for_each([&](Length length) {
    sums[0] += length.in(totals.unit);
    sums[1] += length.value == 0;
  });
  sum(sums);
  totals.path_length = sums[0];
  totals.zero_steps = static_cast<int64_t>(sums[1]);
  totals.mean_length = sums[0] / static_cast<double>(steps);
  if (!scattered) return totals;
  double scatter[2] = {};
  for_each([&](Length length) {
    const double off = length.in(totals.unit) - totals.mean_length;
    scatter[0] += off * off;
  });
  sum(scatter);
  totals.scatter = scatter[0];
  return totals;
}

}  // namespace cuda
}  // namespace geodesic_fast
