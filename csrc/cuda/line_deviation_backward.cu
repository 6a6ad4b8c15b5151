// SPDX-License-Identifier: MIT
// line_deviation, backward.
// Memory: reads the tracks three times, and again for each 64 steps more; writes the gradient once.
// Work:   2 n^2 multiply-adds a feature, as the projection needs all features first.
// Numbers: float32 mixtures (float64 for float64 tracks), projections in float64.
// Bound:  multiply-adds.
#include "kernels.h"
#include "line_deviation.h"
#include "step.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256, kSide = 16, kTile = 4;  // a thread's tile: 4 steps by 4 features
constexpr int kBlock = kSide * kTile;                 // steps and features of a block

// How long each step is, and <h_k, u_k>.
template <class Acc>
struct Kept {
  Acc *lengths, *along;  // (m, n) each
  int64_t n;
  Kept(const LineDeviationBackward& args)
      : lengths(static_cast<Acc*>(args.workspace)),
        along(lengths + args.tracks.tracks * args.tracks.steps()),
        n(args.tracks.steps()) {}
};

template <class T, class Acc = typename AccOf<T>::type>
__global__ void __launch_bounds__(kThreads)
    measure_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ Kept<Acc> kept) {
  __shared__ typename TeamSum<Acc, 2>::Buffer sum_buffer;
  __shared__ Acc max_buffer[kMaxWarps];
  WideTeam<Acc> team{{sum_buffer}, max_buffer};
  for (int64_t work = blockIdx.x; work < tracks.view.tracks * kept.n; work += gridDim.x) {
    const Step<T> step(tracks, work % kept.n + 1, tracks.view.offset(work / kept.n));
    const Length length = team.length(step, tracks.view.features);
    if (threadIdx.x == 0) kept.lengths[work] = KeptLength<Acc>::keep(length);
  }
}

// 1 over a kept length, 0 for a step without one.
template <class Acc>
__device__ __forceinline__ Acc inverse_of(Acc kept) {
  if (kept == 0) return 0;
  if (is_plain_length(kept)) return 1 / kept;
  const Length length = KeptLength<Acc>::of(kept);
  return static_cast<Acc>(1 / length.value / length.unit);
}

// What a block of threads shares.
template <class Acc>
struct Tiles {
  alignas(16) Acc directions[kBlock][kBlock + kTile];
  Acc weights[kBlock][kBlock + 1];
};

// 64 steps of a track by 64 features: rows row(0..3) and features feature(0..3) are the thread's.
template <class T, class Acc = typename AccOf<T>::type>
struct Mixture {
  const DeviceTracks& tracks;
  const LineDeviationBackward& args;
  const Kept<Acc>& kept;
  Tiles<Acc>& tiles;
  int64_t track = 0, offset = 0, first_row = 0, first_feature = 0;
  Acc mixed[kTile][kTile] = {};

  __device__ __forceinline__ static int row(int i) { return threadIdx.x / kSide + i * kSide; }
  __device__ __forceinline__ static int feature(int i) { return threadIdx.x % kSide * kTile + i; }

  __device__ __forceinline__ Acc length(int64_t step) const { return kept.lengths[track * kept.n + step]; }
  // 0 for a step without a direction, and for a broken one, whose weights are NaN instead where they count.
  __device__ __forceinline__ Acc unit(int64_t k, int64_t j) const {
    if (k >= kept.n || j >= tracks.view.features) return 0;
    Step<T> step(tracks, k + 1, offset);
    step.length = length(k);
    return step.length == 0 || isnan(step.length) ? Acc(0) : step.unit(j);
  }
  __device__ __forceinline__ Acc weight(const Acc* all, int64_t k, int64_t l) const {
    if (k >= kept.n || l >= kept.n) return 0;
    const Acc weight = all[k * kept.n + l];
    return weight != 0 && isnan(length(l)) ? Acc(NAN) : weight;
  }

  // h_k = sum_l weights_kl u_l
  __device__ __forceinline__ void mix() {
    const Acc* all = static_cast<const Acc*>(args.weights) + (args.each ? track * kept.n * kept.n : 0);
#pragma unroll
    for (int k = 0; k < kTile; ++k) {
#pragma unroll
      for (int j = 0; j < kTile; ++j) mixed[k][j] = 0;
    }
    for (int64_t first = 0; first < kept.n; first += kBlock) {
      __syncthreads();  // the block before has been read
#pragma unroll 1
      for (int i = threadIdx.x; i < kBlock * kBlock; i += kThreads) {
        tiles.weights[i / kBlock][i % kBlock] = weight(all, first_row + i / kBlock, first + i % kBlock);
        tiles.directions[i / kBlock][i % kBlock] = unit(first + i / kBlock, first_feature + i % kBlock);
      }
      __syncthreads();
      const int count = kept.n - first < kBlock ? static_cast<int>(kept.n - first) : kBlock;
#pragma unroll 2
      for (int l = 0; l < count; ++l) {
#pragma unroll
        for (int k = 0; k < kTile; ++k) {
          const Acc weight = tiles.weights[row(k)][l];
#pragma unroll
          for (int j = 0; j < kTile; ++j)
            mixed[k][j] = fma(weight, tiles.directions[l][feature(j)], mixed[k][j]);
        }
      }
    }
  }
};

template <class T, class Acc = typename AccOf<T>::type>
__global__ void __launch_bounds__(kThreads, 2)
    along_kernel(const __grid_constant__ DeviceTracks tracks,
                 const __grid_constant__ LineDeviationBackward args, const __grid_constant__ Kept<Acc> kept) {
  extern __shared__ __align__(16) char shared[];
  Mixture<T> mixture{tracks, args, kept, *reinterpret_cast<Tiles<Acc>*>(shared)};
  const int64_t blocks = (kept.n + kBlock - 1) / kBlock;
  for (int64_t work = blockIdx.x; work < tracks.view.tracks * blocks; work += gridDim.x) {
    mixture.track = work / blocks;
    mixture.offset = tracks.view.offset(mixture.track);
    mixture.first_row = work % blocks * kBlock;
    double along[kTile] = {};
    for (int64_t j = 0; j < tracks.view.features; j += kBlock) {
      mixture.first_feature = j;
      mixture.mix();
#pragma unroll
      for (int k = 0; k < kTile; ++k) {
#pragma unroll
        for (int i = 0; i < kTile; ++i) {
          along[k] +=
              mixture.mixed[k][i] * mixture.unit(mixture.first_row + mixture.row(k), j + mixture.feature(i));
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kTile; ++k) {
#pragma unroll
      for (int lane = kSide / 2; lane > 0; lane /= 2)
        along[k] += __shfl_xor_sync(0xffffffffu, along[k], lane);
      const int64_t step = mixture.first_row + mixture.row(k);
      if (threadIdx.x % kSide == 0 && step < kept.n) {
        kept.along[mixture.track * kept.n + step] = static_cast<Acc>(along[k]);
      }
    }
  }
}

// g_k = (h_k - <h_k, u_k> u_k) / s_k; gradient of x^(l): g_l - g_(l+1).
template <class T, class Acc = typename AccOf<T>::type>
__global__ void __launch_bounds__(kThreads, 2)
    write_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ DeviceTracks out,
                 const __grid_constant__ LineDeviationBackward args, const __grid_constant__ Kept<Acc> kept) {
  extern __shared__ __align__(16) char shared[];
  __shared__ Acc last[kBlock];  // g of the last step of the block before
  Mixture<T> mixture{tracks, args, kept, *reinterpret_cast<Tiles<Acc>*>(shared)};
  auto& directions = mixture.tiles.directions;  // and then g in their place
  const int64_t slices = (tracks.view.features + kBlock - 1) / kBlock;
  for (int64_t work = blockIdx.x; work < tracks.view.tracks * slices; work += gridDim.x) {
    mixture.track = work / slices;
    mixture.offset = tracks.view.offset(mixture.track);
    mixture.first_feature = work % slices * kBlock;
    const int64_t out_offset = out.view.offset(mixture.track);
    __syncthreads();
    if (threadIdx.x < kBlock) last[threadIdx.x] = 0;
    for (int64_t first = 0; first <= kept.n; first += kBlock) {  // of points, of which there is one more
      mixture.first_row = first;
      mixture.mix();
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kTile; ++k) {
        const int64_t step = first + mixture.row(k);
        const Acc length = step < kept.n ? mixture.length(step) : Acc(0);
        const Acc inverse = inverse_of(length);
        const Acc along = step < kept.n ? kept.along[mixture.track * kept.n + step] : Acc(0);
#pragma unroll
        for (int i = 0; i < kTile; ++i) {
          const Acc u = mixture.unit(step, mixture.first_feature + mixture.feature(i));
          const Acc across = mixture.mixed[k][i] - along * u;
          directions[mixture.row(k)][mixture.feature(i)] = across == 0 ? Acc(0) : across * inverse;
        }
      }
      __syncthreads();
#pragma unroll 1
      for (int i = threadIdx.x; i < kBlock * kBlock; i += kThreads) {
        const int row = i / kBlock, column = i % kBlock;
        const int64_t layer = first + row, j = mixture.first_feature + column;
        if (layer > kept.n || j >= tracks.view.features) continue;
        const Acc before = row > 0 ? directions[row - 1][column] : last[column];
        narrow(before - directions[row][column], reinterpret_cast<T*>(out.row(layer, out_offset)) + j);
      }
      __syncthreads();
      if (threadIdx.x < kBlock) last[threadIdx.x] = directions[kBlock - 1][threadIdx.x];
    }
  }
}

template <class T>
void backward(const LineDeviationBackward& args, void* stream) {
  using Acc = typename AccOf<T>::type;
  const int64_t m = args.tracks.tracks, n = args.tracks.steps();
  const dim3 block(kThreads);
  const Kept<Acc> kept(args);
  const DeviceTracks tracks = on_device(args.tracks), out = on_device(args.gradient);
  launch(measure_kernel<T>, grid_of(m * n), block, 0, stream, tracks, kept);
  launch(along_kernel<T>, grid_of(m * ((n + kBlock - 1) / kBlock)), block, sizeof(Tiles<Acc>), stream, tracks,
         args, kept);
  launch(write_kernel<T>, grid_of(m * ((args.tracks.features + kBlock - 1) / kBlock)), block,
         sizeof(Tiles<Acc>), stream, tracks, out, args, kept);
}

}  // namespace

void line_deviation_backward(const LineDeviationBackward& args, const Place& place) {
  if (args.tracks.tracks == 0) return;
  use_device(place.device);
  with_dtype(args.tracks.dtype, [&](auto zero) { backward<decltype(zero)>(args, place.stream); });
}

}  // namespace cuda
}  // namespace geodesic_fast
