// SPDX-License-Identifier: MIT
// track_distance and nearest_track: what both need to know of the tracks beforehand.
// Memory: reads the tracks three times. Work: a few operations a value, against m / 2 multiply-adds behind
// it. Numbers: sums in float64, in a fixed order. Bound: read bandwidth.
#include "kernels.h"
#include "pair_distance.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256;
// A grid of threads goes over values one by one.
__device__ __forceinline__ int64_t first_of_grid() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}
__device__ __forceinline__ int64_t grid_threads() { return static_cast<int64_t>(gridDim.x) * kThreads; }

constexpr double kSmall = 0x1p-40;      // keeps sums of the largest float64 finite
constexpr double kNotFinite = -0x1p90;  // a square no bound can pass over

// `near`: whether tensor cores may be used, as far as is known.
__global__ void clear_kernel(double* scale, double near) {
  scale[0] = 0;
  scale[1] = near;
}

// What kind of track each one is, and the largest finite coordinate of all: floats that are not negative are
// ordered like their bits.
template <class T>
__global__ void __launch_bounds__(kThreads)
    kinds_kernel(const __grid_constant__ DeviceTracks tracks, uint8_t* kinds, double* largest) {
  __shared__ double max_buffer[kMaxWarps];
  for (int64_t track = blockIdx.x; track < tracks.view.tracks; track += gridDim.x) {
    const int64_t offset = tracks.view.offset(track);
    bool nan = false, infinite = false;
    double top = 0;
    for (int64_t layer = 0; layer < tracks.view.points; ++layer) {
      const T* row = reinterpret_cast<const T*>(tracks.row(layer, offset));
#pragma unroll 4
      for (int64_t j = threadIdx.x; j < tracks.view.features; j += kThreads) {
        const double size = fabs(static_cast<double>(widen(row[j])));
        nan |= size != size;
        infinite |= isinf(size);
        top = size > top && !isinf(size) ? size : top;
      }
    }
    const bool any_nan = __syncthreads_or(nan), any_infinite = __syncthreads_or(infinite);
    if (threadIdx.x == 0) kinds[track] = any_nan ? kNaNTrack : any_infinite ? kInfiniteTrack : kFiniteTrack;
    top = team_max(top, max_buffer);
    if (threadIdx.x == 0) {
      atomicMax(reinterpret_cast<unsigned long long*>(largest),
                static_cast<unsigned long long>(__double_as_longlong(top)));
    }
  }
}

template <class Acc>
__device__ __forceinline__ double scale_of(double largest) {
  constexpr int most = sizeof(Acc) == 8 ? 1000 : 126;
  int exponent = 0;
  frexp(largest, &exponent);
  return ldexp(1.0, -(exponent > most ? most : exponent < -most ? -most : exponent));
}
template <class Acc>
__global__ void scale_kernel(double* scale) {
  *scale = scale_of<Acc>(*scale);
}

template <class T>
__device__ __forceinline__ double column_sum(const DeviceTracks& tracks, int64_t layer, int64_t j) {
  double sum = 0;
#pragma unroll 1
  for (int64_t track = 0; track < tracks.view.tracks; ++track) {
    const double value = static_cast<double>(
        widen(reinterpret_cast<const T*>(tracks.row(layer, tracks.view.offset(track)))[j]));
    sum += fabs(value) <= 1.7976931348623157e308 ? value * kSmall : 0;
  }
  return sum;
}

// The mean of the scaled points of each layer; a thread adds up one feature.
template <class T, class Acc = typename AccOf<T>::type>
__global__ void __launch_bounds__(kThreads)
    centre_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ DeviceTracks other,
                  bool symmetric, const double* scale, Acc* centre) {
  const int64_t d = tracks.view.features, total = tracks.view.points * d;
  const int64_t count = tracks.view.tracks + (symmetric ? 0 : other.view.tracks);
  for (int64_t index = first_of_grid(); index < total; index += grid_threads()) {
    double sum = column_sum<T>(tracks, index / d, index % d);
    if (!symmetric) sum += column_sum<T>(other, index / d, index % d);
    centre[index] = static_cast<Acc>(sum / static_cast<double>(count) / kSmall) * static_cast<Acc>(*scale);
  }
}

// |scale x - centre|^2, a warp for each point.
template <class T, class Acc = typename AccOf<T>::type>
__global__ void __launch_bounds__(kThreads)
    squares_kernel(const __grid_constant__ DeviceTracks tracks, const double* scale, const Acc* centre,
                   const uint8_t* kinds, Acc* squares) {
  const int64_t m = tracks.view.tracks, d = tracks.view.features, warps = kThreads / kWarp;
  const Acc factor = static_cast<Acc>(*scale);
  for (int64_t work = blockIdx.x * warps + threadIdx.x / kWarp; work < m * tracks.view.points;
       work += gridDim.x * warps) {
    const int64_t layer = work / m, track = work % m;
    const T* row = reinterpret_cast<const T*>(tracks.row(layer, tracks.view.offset(track)));
    double sum = 0;
#pragma unroll 4
    for (int64_t j = threadIdx.x % kWarp; j < d; j += kWarp) {
      const double v = static_cast<double>(widen(row[j]) * factor - centre[layer * d + j]);
      sum += v * v;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % kWarp == 0)
      squares[work] = static_cast<Acc>(kinds[track] == kFiniteTrack ? sum : kNotFinite);
  }
}

constexpr double kNearSquare = 0.5;  // |centre|^2 over the mean |point - centre|^2: near the origin
constexpr double kLeastScale = 0x1p-40, kMostScale = 0x1p10;  // so that unscaled products stay in range

// Clears scale[1] where the centre of a layer is too far from the origin; a block for each layer.
__global__ void __launch_bounds__(kThreads) compare_kernel(const __grid_constant__ TrackPairs pairs) {
  __shared__ TeamSum<double, 2>::Buffer sum_buffer;
  TeamSum<double, 2> team_sum{sum_buffer};
  const int64_t d = pairs.tracks.features, layer = blockIdx.x;
  const float* centre = static_cast<const float*>(pairs.centre) + layer * d;
  double sums[2] = {};
  for (int64_t j = threadIdx.x; j < d; j += kThreads) sums[0] += static_cast<double>(centre[j]) * centre[j];
  const auto add = [&](const void* squares, const uint8_t* kinds, int64_t m) {
    for (int64_t i = threadIdx.x; i < m; i += kThreads) {
      if (kinds[i] == kFiniteTrack) sums[1] += static_cast<const float*>(squares)[layer * m + i];
    }
    return static_cast<double>(m);
  };
  double count = add(pairs.squares, pairs.kinds, pairs.tracks.tracks);
  if (!pairs.symmetric) count += add(pairs.other_squares, pairs.other_kinds, pairs.other.tracks);
  team_sum(sums);
  const bool near =
      sums[0] * count <= kNearSquare * sums[1] && *pairs.scale < kMostScale && *pairs.scale > kLeastScale;
  if (threadIdx.x == 0 && !near) pairs.scale[1] = 0;
}
__global__ void __launch_bounds__(kThreads) move_kernel(const __grid_constant__ TrackPairs pairs) {
  if (pairs.scale[1] == 0) return;
  const int64_t total = pairs.tracks.points * pairs.tracks.features;
  for (int64_t index = first_of_grid(); index < total; index += grid_threads()) {
    static_cast<float*>(pairs.centre)[index] = 0;
  }
}

template <class T>
void measure_squares(const TrackPairs& pairs, const DeviceTracks& tracks, const DeviceTracks& other,
                     void* stream) {
  using Acc = typename AccOf<T>::type;
  const dim3 block(kThreads);
  const double* scale = pairs.scale;
  const Acc* centre = static_cast<const Acc*>(pairs.centre);
  launch(squares_kernel<T>, grid_of(tracks.view.points * tracks.view.tracks, kThreads / kWarp), block, 0,
         stream, tracks, scale, centre, pairs.kinds, static_cast<Acc*>(pairs.squares));
  if (pairs.symmetric) return;
  launch(squares_kernel<T>, grid_of(other.view.points * other.view.tracks, kThreads / kWarp), block, 0,
         stream, other, scale, centre, pairs.other_kinds, static_cast<Acc*>(pairs.other_squares));
}

template <class T>
void prepare(const TrackPairs& pairs, int device, void* stream) {
  const bool tensor_cores = may_use_tensor_cores(pairs, device);
  using Acc = typename AccOf<T>::type;
  const DeviceTracks tracks = on_device(pairs.tracks), other = on_device(pairs.other);
  const dim3 block(kThreads), one(1);
  const int64_t points = pairs.tracks.points;
  launch(clear_kernel, one, one, 0, stream, pairs.scale, tensor_cores ? 1.0 : 0.0);
  launch(kinds_kernel<T>, grid_of(pairs.tracks.tracks), block, 0, stream, tracks, pairs.kinds, pairs.scale);
  if (!pairs.symmetric) {
    launch(kinds_kernel<T>, grid_of(pairs.other.tracks), block, 0, stream, other, pairs.other_kinds,
           pairs.scale);
  }
  launch(scale_kernel<Acc>, one, one, 0, stream, pairs.scale);
  Acc* centre = static_cast<Acc*>(pairs.centre);
  launch(centre_kernel<T>, grid_of(points * pairs.tracks.features, kThreads), block, 0, stream, tracks, other,
         pairs.symmetric, pairs.scale, centre);
  measure_squares<T>(pairs, tracks, other, stream);
  if (!tensor_cores) return;
  launch(compare_kernel, dim3(static_cast<unsigned>(points)), block, 0, stream, pairs);
  launch(move_kernel, grid_of(points * pairs.tracks.features, kThreads), block, 0, stream, pairs);
  measure_squares<T>(pairs, tracks, other, stream);
}

}  // namespace

void track_pairs_prepare(const TrackPairs& pairs, const Place& place) {
  use_device(place.device);
  with_dtype(pairs.tracks.dtype,
             [&](auto zero) { prepare<decltype(zero)>(pairs, place.device, place.stream); });
}

}  // namespace cuda
}  // namespace geodesic_fast
