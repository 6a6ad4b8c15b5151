// SPDX-License-Identifier: MIT
// step_geometry, backward.
// Memory: reads the tracks once and writes the gradient once; what neighbouring points share comes from the
//         first cache.
// Work:   25 operations a value.
// Numbers: float32 sums (float64 for float64 tracks); a step or a state whose square leaves their range is
//          taken again in float64, in units of its largest coordinate.
// Bound:  memory bandwidth.
#include "kernels.h"
#include "step_geometry.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

using namespace step_kernels;

// What each point's gradient is made of, once for all its features.
template <class Acc>
__global__ void __launch_bounds__(kThreads) terms_kernel(const __grid_constant__ StepGeometryBackward args) {
  const int64_t m = args.tracks.tracks, points = args.tracks.points, total = m * points;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const PointTerms<Acc> terms(args, i / m, i % m);
#pragma unroll
    for (int term = 0; term < kStepTermCount; ++term) args.workspace[term * total + i] = terms.on[term];
  }
}

// The terms of one point, and what makes unit vectors of the steps and states around it.
template <class T, bool kAligned>
struct Around {
  using Acc = typename AccOf<T>::type;
  const Walk<T, kAligned>& walk;
  int64_t layer;
  double on[kStepTermCount];
  Acc factor[kStepTermCount];  // over the length of its row
  bool plain = true;           // every row around is near, and factors keep their digits

  __device__ __forceinline__ Around(const Walk<T, kAligned>& walk, const StepGeometryBackward& args,
                                    int64_t layer, int64_t track)
      : walk(walk), layer(layer) {
    const int64_t m = args.tracks.tracks, n = args.tracks.steps(), total = m * (n + 1);
#pragma unroll
    for (int k = 0; k < kStepTermCount; ++k) {
      on[k] = args.workspace[k * total + layer * m + track];
      factor[k] = 0;
      if (on[k] == 0) continue;
      const double size = args.kept[((k < kOnStateBefore ? n + 1 : 0) + end_of(k)) * m + track];
      factor[k] = static_cast<Acc>(on[k] / size);
      plain = plain && is_safe_square(static_cast<Acc>(size * size)) && is_safe_square(fabs(factor[k]));
    }
#pragma unroll
    for (int k = -2; k <= 2; ++k) {
      const int64_t l = layer + k;
      plain = plain && is_near(args.kept[(l < 0 ? 0 : l > n ? n : l) * m + track]);
    }
  }
  // Whether differences with other such points stay in the range, so that 0 times one of them is 0.
  static __device__ __forceinline__ bool is_near(double norm) {
    return norm < (sizeof(Acc) == 4 ? 0x1p126 : 0x1p1022);
  }
  // The layer of the state, or where the step ends.
  __device__ __forceinline__ int64_t end_of(int term) const {
    return layer - 1 + (term < kOnStateBefore ? term : term - kOnStateBefore);
  }
};

// The directions of those rows in float64, whatever their sizes: in units of their largest coordinates.
template <class T, bool kAligned>
struct CarefulRows {
  const Around<T, kAligned>& at;
  double unit[kStepTermCount], root[kStepTermCount];
  unsigned halved = 0;  // bit k: row k, where a difference would overflow

  __device__ __forceinline__ CarefulRows(const Around<T, kAligned>& at, TeamSum<double, 1>& team_sum,
                                         double* max_buffer)
      : at(at) {
#pragma unroll
    for (int k = 0; k < kStepTermCount; ++k) {
      unit[k] = root[k] = 1;
      if (at.on[k] == 0) continue;
      unit[k] = largest(k, max_buffer);
      if (isinf(unit[k])) {
        halved |= 1u << k;
        unit[k] = largest(k, max_buffer);
      }
      double squares[1] = {};
#pragma unroll 1
      for (int64_t j = threadIdx.x; j < at.walk.tracks.view.features; j += blockDim.x) {
        const double part = value(k, j) / unit[k];
        squares[0] += part * part;
      }
      team_sum(squares);
      root[k] = sqrt(squares[0]);
    }
  }
  __device__ __forceinline__ double value(int k, int64_t j) const {
    const double scale = (halved >> k & 1u) != 0 ? 0.5 : 1;
    const double now = widen(at.walk.point(at.end_of(k))[j]) * scale;
    return k < kOnStateBefore ? now - widen(at.walk.point(at.end_of(k) - 1)[j]) * scale : now;
  }
  __device__ __forceinline__ double largest(int k, double* max_buffer) const {
    double found = 0;
#pragma unroll 1
    for (int64_t j = threadIdx.x; j < at.walk.tracks.view.features; j += blockDim.x) {
      found = larger(found, fabs(value(k, j)));
    }
    return team_max(found, max_buffer);
  }
  // Without touching what is not asked for, which may be NaN.
  __device__ __forceinline__ double gradient(int64_t j) const {
    double total = 0;
#pragma unroll
    for (int k = 0; k < kStepTermCount; ++k) {
      if (at.on[k] != 0) total += at.on[k] * (value(k, j) / unit[k] / root[k]);
    }
    return total;
  }
};

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const __grid_constant__ DeviceTracks tracks,
                    const __grid_constant__ DeviceTracks gradient,
                    const __grid_constant__ StepGeometryBackward args) {
  using Acc = typename AccOf<T>::type;
  constexpr int kWidth = Walk<T, kAligned>::kWidth;
  __shared__ TeamSum<double, 1>::Buffer sum_buffer;
  __shared__ double max_buffer[kMaxWarps];
  TeamSum<double, 1> team_sum{sum_buffer};
  const int64_t m = tracks.view.tracks, n = tracks.view.steps();
  for (int64_t track = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; track < m;
       track += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const Walk<T, kAligned> walk{tracks, tracks.view.offset(track)};
    const int64_t out = gradient.view.offset(track);
    for (int64_t layer = 0; layer <= n; ++layer) {
      const Around<T, kAligned> at(walk, args, layer, track);
      T* row = reinterpret_cast<T*>(gradient.row(layer, out));
      if (!at.plain) {
        const CarefulRows<T, kAligned> rows(at, team_sum, max_buffer);
        for (int64_t j = threadIdx.x; j < tracks.view.features; j += blockDim.x) {
          narrow(static_cast<Acc>(rows.gradient(j)), row + j);
        }
        continue;
      }
      walk.for_packs([&](int64_t j) {
        Pack<T, kWidth> x[5], written;
#pragma unroll
        for (int k = 0; k < 5; ++k) {
          const int64_t l = layer - 2 + k;
          x[k] = load_pack<T, kWidth>(walk.point(l < 0 ? 0 : l > n ? n : l) + j);
        }
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          Acc total = 0;
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            total += (widen(x[k + 1].value[i]) - widen(x[k].value[i])) * at.factor[kOnStepBefore + k];
          }
#pragma unroll
          for (int k = 0; k < 3; ++k) total += widen(x[k + 1].value[i]) * at.factor[kOnStateBefore + k];
          narrow(total, &written.value[i]);
        }
        *reinterpret_cast<Pack<T, kWidth>*>(row + j) = written;
      });
    }
  }
}

}  // namespace

void step_geometry_backward(const StepGeometryBackward& args, const Place& place) {
  if (args.tracks.tracks == 0) return;
  use_device(place.device);
  const dim3 team = team_of(args.tracks.features), grid = grid_of(args.tracks.tracks, team.y);
  const bool aligned = rows_on_16_bytes(args.tracks) && rows_on_16_bytes(args.gradient);
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    const dim3 flat(kThreads);
    const int64_t points = args.tracks.tracks * args.tracks.points;
    launch(terms_kernel<typename AccOf<T>::type>, grid_of(points, kThreads), flat, 0, place.stream, args);
    const auto kernel = aligned ? backward_kernel<T, true> : backward_kernel<T, false>;
    launch(kernel, grid, team, 0, place.stream, on_device(args.tracks), on_device(args.gradient), args);
  });
}

}  // namespace cuda
}  // namespace geodesic_fast
