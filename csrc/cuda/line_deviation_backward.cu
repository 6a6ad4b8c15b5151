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

constexpr int kThreads = 256, kTile = 4;  // a thread's tile: 4 steps by 4 features
constexpr int kCells = kThreads * kTile * kTile;

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

// A warp for each step of each track; a step whose square leaves the range is measured by all warps together.
template <class T, bool kAligned, class Acc = typename AccOf<T>::type>
__global__ void __launch_bounds__(kThreads, 4)
    measure_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ Kept<Acc> kept) {
  constexpr int kWarps = kThreads / kWarp, kWidth = kPack<T, kAligned>;
  using Packed = Pack<T, kWidth>;
  __shared__ typename TeamSum<Acc, 2>::Buffer sum_buffer;
  __shared__ Acc max_buffer[kMaxWarps];
  __shared__ bool safe[kWarps];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t steps = tracks.view.tracks * kept.n, d = tracks.view.features;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kWarps; first < steps;
       first += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t own = first + warp;
    Acc square = 1;
    if (own < steps) {
      const Step<T> step(tracks, own % kept.n + 1, tracks.view.offset(own / kept.n));
      square = 0;
#pragma unroll 2
      for (int64_t j = lane * kWidth; j < d; j += kWarp * kWidth) {
        Acc now[kWidth], before[kWidth];
        widen_all(*reinterpret_cast<const Packed*>(step.now + j), now);
        widen_all(*reinterpret_cast<const Packed*>(step.before + j), before);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) square = fma(now[i] - before[i], now[i] - before[i], square);
      }
#pragma unroll
      for (int other = kWarp / 2; other > 0; other /= 2)
        square += __shfl_xor_sync(0xffffffffu, square, other);
      if (lane == 0 && is_safe_square(square)) kept.lengths[own] = sqrt(square);
    }
    if (lane == 0) safe[warp] = is_safe_square(square);
    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < kWarps; ++k) {
      if (safe[k]) continue;
      WideTeam<Acc> team{{sum_buffer}, max_buffer};
      const Step<T> step(tracks, (first + k) % kept.n + 1, tracks.view.offset((first + k) / kept.n));
      const Length length = team.length(step, d);
      if (threadIdx.x == 0) kept.lengths[first + k] = KeptLength<Acc>::keep(length);
    }
    __syncthreads();  // the flags and the sums have been read
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

template <class Acc>
struct alignas(16) Quad {
  Acc value[kTile];
};

// What a block of threads shares: kSteps steps by as many features as there are cells.
template <class Acc, int kSteps>
struct Tiles {
  static constexpr int kFeatures = kCells / kSteps;
  alignas(16) Acc directions[kSteps][kFeatures];
  alignas(16) Acc weights[kSteps][kSteps];  // of the step that is mixed in, and the one it is mixed into
  alignas(
      16) Acc edges[kSteps / kTile + 1][kFeatures];  // g of every fourth step; before them, of the last block
  Acc lengths[kSteps], inverses[kSteps];             // of the steps in `directions`
};

// A block of steps of a track by some features: the thread's are steps row() .. + 3 and features column() ..
// + 3.
template <class T, bool kAligned, int kSteps>
struct Mixture {
  using Acc = typename AccOf<T>::type;
  using Shared = Tiles<Acc, kSteps>;
  static constexpr int kWidth = kPack<T, kAligned>, kFeatures = Shared::kFeatures;
  static constexpr int kAcross = kFeatures / kTile;  // threads along the features

  const DeviceTracks& tracks;
  const LineDeviationBackward& args;
  const Kept<Acc>& kept;
  Shared& tiles;
  int64_t track = 0, offset = 0, first_row = 0, first_feature = 0;
  int64_t weights_of = -1;  // the track whose weights stay in shared memory, where one block has all steps
  Acc mixed[kTile][kTile] = {};

  static __device__ __forceinline__ int row() { return threadIdx.x / kAcross * kTile; }
  static __device__ __forceinline__ int column() { return threadIdx.x % kAcross * kTile; }

  // Puts the directions of steps first .. into shared memory: 0 for a step without one, and for a broken one,
  // whose weights are NaN instead where they count.
  __device__ __forceinline__ void load_directions(int64_t first) {
    __syncthreads();  // those before have been read
    for (int k = threadIdx.x; k < kSteps; k += kThreads) {
      const Acc length = first + k < kept.n ? kept.lengths[track * kept.n + first + k] : Acc(0);
      tiles.lengths[k] = length;
      tiles.inverses[k] = isnan(length) ? Acc(0) : inverse_of(length);
    }
    __syncthreads();
#pragma unroll 2
    for (int i = threadIdx.x * kWidth; i < kCells; i += kThreads * kWidth) {
      const int k = i / kFeatures, j = i % kFeatures;
      const Acc length = tiles.lengths[k], inverse = tiles.inverses[k];
      Acc u[kWidth] = {};
      if (inverse != 0 && first_feature + j < tracks.view.features) {
        using Packed = Pack<T, kWidth>;
        const Step<T> step(tracks, first + k + 1, offset);
        Acc before[kWidth];
        widen_all(*reinterpret_cast<const Packed*>(step.now + first_feature + j), u);
        widen_all(*reinterpret_cast<const Packed*>(step.before + first_feature + j), before);
        const bool plain = is_plain_length(length);
#pragma unroll
        for (int p = 0; p < kWidth; ++p) {
          u[p] = plain ? (u[p] - before[p]) * inverse
                       : scaled_direction(u[p], before[p], KeptLength<Acc>::of(length), length <= -1);
        }
      }
#pragma unroll
      for (int p = 0; p < kWidth; ++p) tiles.directions[k][j + p] = u[p];
    }
  }

  __device__ __forceinline__ void load_weights(int64_t first) {
    const bool stay = kept.n <= kSteps && weights_of == track;
    weights_of = track;
    if (stay) return __syncthreads();
    const Acc* all = static_cast<const Acc*>(args.weights) + (args.each ? track * kept.n * kept.n : 0);
    for (int i = threadIdx.x; i < kSteps * kSteps; i += kThreads) {
      const int64_t k = first_row + i / kSteps, l = first + i % kSteps;
      const Acc weight = k < kept.n && l < kept.n ? all[k * kept.n + l] : Acc(0);
      tiles.weights[i % kSteps][i / kSteps] =
          weight != 0 && isnan(tiles.lengths[i % kSteps]) ? Acc(NAN) : weight;
    }
    __syncthreads();
  }

  // h_k = sum_l weights_kl u_l; leaves the directions of the block's own steps in shared memory.
  __device__ __forceinline__ void mix() {
#pragma unroll
    for (int k = 0; k < kTile; ++k) {
#pragma unroll
      for (int j = 0; j < kTile; ++j) mixed[k][j] = 0;
    }
    for (int64_t first = 0; first < kept.n; first += kSteps) {
      load_directions(first);
      load_weights(first);
      const int count = kept.n - first < kSteps ? static_cast<int>(kept.n - first) : kSteps;
#pragma unroll 4
      for (int l = 0; l < count; ++l) {
        const auto weights = *reinterpret_cast<const Quad<Acc>*>(&tiles.weights[l][row()]);
        const auto u = *reinterpret_cast<const Quad<Acc>*>(&tiles.directions[l][column()]);
#pragma unroll
        for (int k = 0; k < kTile; ++k) {
#pragma unroll
          for (int j = 0; j < kTile; ++j) mixed[k][j] = fma(weights.value[k], u.value[j], mixed[k][j]);
        }
      }
    }
    if (kept.n > kSteps) load_directions(first_row);
    __syncthreads();
  }
  __device__ __forceinline__ Quad<Acc> own_direction(int k) const {
    return *reinterpret_cast<const Quad<Acc>*>(&tiles.directions[row() + k][column()]);
  }
};

template <class T, bool kAligned, int kSteps, class Acc = typename AccOf<T>::type>
__global__ void __launch_bounds__(kThreads, 2)
    along_kernel(const __grid_constant__ DeviceTracks tracks,
                 const __grid_constant__ LineDeviationBackward args, const __grid_constant__ Kept<Acc> kept) {
  using Mix = Mixture<T, kAligned, kSteps>;
  extern __shared__ __align__(16) char shared[];
  Mix mixture{tracks, args, kept, *reinterpret_cast<typename Mix::Shared*>(shared)};
  __shared__ double sums[kSteps][kThreads / kSteps * kTile];
  const int64_t blocks = (kept.n + kSteps - 1) / kSteps;
  for (int64_t work = blockIdx.x; work < tracks.view.tracks * blocks; work += gridDim.x) {
    mixture.track = work / blocks;
    mixture.offset = tracks.view.offset(mixture.track);
    mixture.first_row = work % blocks * kSteps;
    double along[kTile] = {};
    for (int64_t j = 0; j < tracks.view.features; j += Mix::kFeatures) {
      mixture.first_feature = j;
      mixture.mix();
#pragma unroll
      for (int k = 0; k < kTile; ++k) {
        const auto u = mixture.own_direction(k);
        Acc part = 0;
#pragma unroll
        for (int i = 0; i < kTile; ++i) part += mixture.mixed[k][i] * u.value[i];
        along[k] += part;
      }
    }
#pragma unroll
    for (int k = 0; k < kTile; ++k) sums[Mix::row() + k][Mix::column() / kTile] = along[k];
    __syncthreads();
    for (int k = threadIdx.x; k < kSteps; k += kThreads) {
      double total = 0;
      for (int i = 0; i < Mix::kAcross; ++i) total += sums[k][i];
      const int64_t step = mixture.first_row + k;
      if (step < kept.n) kept.along[mixture.track * kept.n + step] = static_cast<Acc>(total);
    }
  }
}

// g_k = (h_k - <h_k, u_k> u_k) / s_k; gradient of x^(l): g_l - g_(l+1).
template <class T, bool kAligned, int kSteps, class Acc = typename AccOf<T>::type>
__global__ void __launch_bounds__(kThreads, 2)
    write_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ DeviceTracks out,
                 const __grid_constant__ LineDeviationBackward args, const __grid_constant__ Kept<Acc> kept) {
  using Mix = Mixture<T, kAligned, kSteps>;
  using Own = Quad<Acc>;
  extern __shared__ __align__(16) char shared[];
  Mix mixture{tracks, args, kept, *reinterpret_cast<typename Mix::Shared*>(shared)};
  auto& tiles = mixture.tiles;
  const int64_t slices = (tracks.view.features + Mix::kFeatures - 1) / Mix::kFeatures;
  const int row = Mix::row(), column = Mix::column();
  for (int64_t work = blockIdx.x; work < tracks.view.tracks * slices; work += gridDim.x) {
    mixture.track = work / slices;
    mixture.offset = tracks.view.offset(mixture.track);
    mixture.first_feature = work % slices * Mix::kFeatures;
    const int64_t out_offset = out.view.offset(mixture.track), j = mixture.first_feature + column;
    const auto write = [&](int64_t layer, const Own& before, const Own& after) {
      T* to = reinterpret_cast<T*>(out.row(layer, out_offset)) + j;
      Acc difference[kTile];
#pragma unroll
      for (int i = 0; i < kTile; ++i) difference[i] = before.value[i] - after.value[i];
      if constexpr (Mix::kWidth >= kTile) {  // rows of whole packs, so of whole quads
        Pack<T, kTile> packed;
        narrow_all(difference, packed);
        if (j < tracks.view.features) *reinterpret_cast<Pack<T, kTile>*>(to) = packed;
      } else {
        for (int i = 0; i < kTile; ++i) {
          if (j + i < tracks.view.features) narrow(difference[i], to + i);
        }
      }
    };
    __syncthreads();
    if (row == 0) *reinterpret_cast<Own*>(&tiles.edges[0][column]) = Own();
    for (int64_t first = 0; first < kept.n; first += kSteps) {
      mixture.first_row = first;
      mixture.mix();
      Own g[kTile];
#pragma unroll
      for (int k = 0; k < kTile; ++k) {
        const int64_t step = first + row + k;
        const Acc along = step < kept.n ? kept.along[mixture.track * kept.n + step] : Acc(0);
        const Acc length = tiles.lengths[row + k], inverse = isnan(length) ? length : tiles.inverses[row + k];
        const Own u = mixture.own_direction(k);
#pragma unroll
        for (int i = 0; i < kTile; ++i) {
          const Acc across = mixture.mixed[k][i] - along * u.value[i];
          g[k].value[i] = across == 0 ? Acc(0) : across * inverse;
        }
      }
      *reinterpret_cast<Own*>(&tiles.edges[row / kTile + 1][column]) = g[kTile - 1];
      __syncthreads();
      Own before = *reinterpret_cast<const Own*>(&tiles.edges[row / kTile][column]);
#pragma unroll
      for (int k = 0; k < kTile; ++k) {
        if (first + row + k <= kept.n) write(first + row + k, before, g[k]);
        before = g[k];
      }
      const bool last_row = row + kTile == kSteps;
      if (last_row && first + kSteps == kept.n) write(kept.n, before, Own());
      __syncthreads();
      if (last_row) *reinterpret_cast<Own*>(&tiles.edges[0][column]) = before;
    }
  }
}

template <class T, bool kAligned, int kSteps>
void mix_and_write(const LineDeviationBackward& args, const DeviceTracks& tracks, const DeviceTracks& out,
                   void* stream) {
  using Acc = typename AccOf<T>::type;
  using Shared = Tiles<Acc, kSteps>;
  const int64_t m = args.tracks.tracks, n = args.tracks.steps(), d = args.tracks.features;
  const Kept<Acc> kept(args);
  const dim3 block(kThreads);
  launch(along_kernel<T, kAligned, kSteps>, grid_of(m * ((n + kSteps - 1) / kSteps)), block, sizeof(Shared),
         stream, tracks, args, kept);
  launch(write_kernel<T, kAligned, kSteps>, grid_of(m * ((d + Shared::kFeatures - 1) / Shared::kFeatures)),
         block, sizeof(Shared), stream, tracks, out, args, kept);
}

template <class T, bool kAligned>
void backward(const LineDeviationBackward& args, void* stream) {
  const DeviceTracks tracks = on_device(args.tracks), out = on_device(args.gradient);
  const Kept<typename AccOf<T>::type> kept(args);
  const int64_t n = args.tracks.steps();
  launch(measure_kernel<T, kAligned>, grid_of(args.tracks.tracks * n, kThreads / kWarp), dim3(kThreads), 0,
         stream, tracks, kept);
  if (n <= 32) return mix_and_write<T, kAligned, 32>(args, tracks, out, stream);
  mix_and_write<T, kAligned, 64>(args, tracks, out, stream);
}

}  // namespace

void line_deviation_backward(const LineDeviationBackward& args, const Place& place) {
  if (args.tracks.tracks == 0) return;
  use_device(place.device);
  const bool aligned = rows_on_16_bytes(args.tracks) && rows_on_16_bytes(args.gradient);
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    aligned ? backward<T, true>(args, place.stream) : backward<T, false>(args, place.stream);
  });
}

}  // namespace cuda
}  // namespace geodesic_fast
