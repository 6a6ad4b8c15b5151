// SPDX-License-Identifier: MIT
// track_distance, backward.
// Memory: gradients, distances and layers once for each 128 features, and for each pair one row of either
//         track; writes the gradient once.
// Work:   two operations a pair and feature. Numbers: differences and sums in float32 (float64 for float64).
// Bound:  the cache that holds the tracks.
#include "kernels.h"
#include "step.cuh"
#include "track_distance.h"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kThreads = 128;      // features of a block, one for each thread
constexpr int kLayersAtOnce = 64;  // whose sums fit in shared memory

// The tracks whose gradient is written, the others, and where it goes.
struct GradientTracks {
  DeviceTracks own, against, gradient;
};

// Adds what a pair sends at one feature, if the row has it. All threads of the block come here with one pair.
template <class T, class Acc = typename AccOf<T>::type>
__device__ __forceinline__ void add(const PairGradient<Acc>& pair, const T* a, const T* b, int64_t j,
                                    int64_t d, WideTeam<Acc>& team, Acc& sum) {
  Step<T> step;
  step.now = a, step.before = b;
  if (pair.is_plain()) {
    if (j < d) sum = fma(step.difference(j), pair.weight(), sum);
  } else {
    step.length = KeptLength<Acc>::keep(team.length(step, d));
    if (j < d) sum = fma(step.unit(j), pair.grad, sum);
  }
}

template <class T, class Acc = typename AccOf<T>::type>
__global__ void __launch_bounds__(kThreads, 4)
    gradient_kernel(const __grid_constant__ GradientTracks tracks,
                    const __grid_constant__ TrackDistanceBackward args, int64_t slices) {
  extern __shared__ __align__(16) char shared[];
  __shared__ typename TeamSum<Acc, 2>::Buffer sum_buffer;
  __shared__ Acc max_buffer[kMaxWarps];
  WideTeam<Acc> team{{sum_buffer}, max_buffer};
  Acc(*sums)[kThreads] = reinterpret_cast<Acc(*)[kThreads]>(shared);
  const DeviceTracks &own = tracks.own, &against = tracks.against;
  const int64_t columns = args.other.tracks, d = own.view.features;
  for (int64_t work = blockIdx.x; work < own.view.tracks * slices; work += gridDim.x) {
    const int64_t i = work / slices, j = work % slices * kThreads + threadIdx.x;
    const int64_t offset = own.view.offset(i);
    for (int64_t first = 0; first < own.view.points; first += kLayersAtOnce) {
      for (int l = 0; l < kLayersAtOnce; ++l) sums[l][threadIdx.x] = 0;
#pragma unroll 1
      for (int64_t k = 0; k < against.view.tracks; ++k) {
        const int64_t at = args.of_other ? k * columns + i : i * columns + k;
        const PairGradient<Acc> pair(args, at);
        const int64_t layer = args.layer[at];
        if (!pair.counts || layer < first || layer >= first + kLayersAtOnce) continue;
        const T* a = reinterpret_cast<const T*>(own.row(layer, offset));
        const T* b = reinterpret_cast<const T*>(against.row(layer, against.view.offset(k)));
        add(pair, a, b, j, d, team, sums[layer - first][threadIdx.x]);
      }
      if (j >= d) continue;
      const int64_t to = tracks.gradient.view.offset(i);
      for (int64_t layer = first; layer < own.view.points && layer < first + kLayersAtOnce; ++layer) {
        narrow(sums[layer - first][threadIdx.x], reinterpret_cast<T*>(tracks.gradient.row(layer, to)) + j);
      }
    }
  }
}

}  // namespace

void track_distance_backward(const TrackDistanceBackward& args, const Place& place) {
  use_device(place.device);
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    const TracksView &own = args.of_other ? args.other : args.tracks,
                     &against = args.of_other ? args.tracks : args.other;
    const int64_t slices = (own.features + kThreads - 1) / kThreads;
    launch(gradient_kernel<T>, grid_of(own.tracks * slices), dim3(kThreads),
           sizeof(typename AccOf<T>::type) * kLayersAtOnce * kThreads, place.stream,
           GradientTracks{on_device(own), on_device(against), on_device(args.gradient)}, args, slices);
  });
}

}  // namespace cuda
}  // namespace geodesic_fast
