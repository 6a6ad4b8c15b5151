// SPDX-License-Identifier: MIT
#include "kernels.h"

#include "cpu/parallel.h"
#include "cpu/simd.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

using D = Vector<double>;
constexpr int64_t kLane = kLanes<double>;

template <class T>
GEODESIC_FAST_INLINE D widened(const T* from) {
  typedef T Narrow __attribute__((vector_size(kLanes<double> * sizeof(T))));
  return __builtin_convertvector(load_unaligned<Narrow>(from), D);
}

template <class T>
double squared_distance(const T* x, const T* y, const double* x_shift, const double* y_shift, int64_t d) {
  D sum[2] = {};
  int64_t k = 0;
  for (; k + 2 * kLane <= d; k += 2 * kLane) {
    for (int half = 0; half < 2; ++half) {
      const int64_t at = k + half * kLane;
      const D step = (widened(x + at) - load_unaligned<D>(x_shift + at)) -
                     (widened(y + at) - load_unaligned<D>(y_shift + at));
      sum[half] += step * step;
    }
  }
  double rest = 0.0;
  for (; k < d; ++k) {
    const double step = (static_cast<double>(x[k]) - x_shift[k]) - (static_cast<double>(y[k]) - y_shift[k]);
    rest += step * step;
  }
  return sum_lanes<double>(sum[0] + sum[1]) + rest;
}

template <class T>
void edge_costs_of(const EdgeArgs& args, int threads) {
  parallel_for(args.edges, 256, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t e = begin; e < end; ++e) {
      const T* x = static_cast<const T*>(args.x) + args.row[e] * args.x_stride;
      const T* y = static_cast<const T*>(args.y) + args.col[e] * args.y_stride;
      args.cost[e] = squared_distance(x, y, args.x_shift, args.y_shift, args.d);
    }
  });
}

}  // namespace

// Memory: two points of d values a listed pair, the row's own stays in cache. Work: 3 d a listed pair.
// Numbers: float64 differences of the given values, relative error about d/2 units in the last place.
// Bound: memory; the pairs listed are a few for each point, never all of them.
void ots_edge_costs(const EdgeArgs& args, const Place& place) {
  if (args.is_double) {
    edge_costs_of<double>(args, place.threads);
  } else {
    edge_costs_of<float>(args, place.threads);
  }
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
