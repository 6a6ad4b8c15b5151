// SPDX-License-Identifier: MIT
// Products of the steps of tracks without tensor cores: float32, float64, and halves that are narrow, few or
// not aligned.
// Memory: each point of a block of steps once, its features 64 at a time.
// Work:   n^2 multiply-adds a feature in tiles of 4 x 4 steps a thread, half of them twice.
// Numbers: 64 features at a time in the accumulation type, the rest in float64.
// Bound:  multiply-adds from about 32 steps on, read bandwidth below.
#include "line_deviation_gram.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 4;  // steps on each side of a thread's tile

template <class Acc, int kBlock, bool kApart>
struct Shape {
  // Features at once: two blocks of float64 are to fit into the 99 KiB that smaller GPUs give a block.
  static constexpr int kChunk = kApart && sizeof(Acc) == 8 ? 32 : 64;
  static constexpr int kPack = 16 / static_cast<int>(sizeof(Acc));  // features of a read
  static constexpr int kSide = kBlock / kTile;                      // threads on each side of a block
  static constexpr int kGroups = kThreads / (kSide * kSide);        // share the features of a chunk
  static constexpr int kStride = kChunk + kPack;
  static constexpr int kStepBytes = kBlock * kStride * static_cast<int>(sizeof(Acc)) * (kApart ? 2 : 1);
  static constexpr int kPartBytes = kThreads * kTile * kTile * static_cast<int>(sizeof(double));
  static constexpr int kBytes = (kStepBytes > kPartBytes ? kStepBytes : kPartBytes) + kBlock * kBlock * 8;
};

// Writes features first..first + kChunk of the steps of a block, zeros past the last feature and step.
template <class T, class S, int kBlock, class Acc = typename AccOf<T>::type>
__device__ __forceinline__ void load_steps(const DeviceTracks& tracks, int64_t offset, int64_t first_step,
                                           int64_t first, Acc* steps) {
  constexpr int kStrands = kThreads / S::kChunk, kEach = kBlock / kStrands;
  const int column = threadIdx.x % S::kChunk, strand = threadIdx.x / S::kChunk * kEach;
  const bool inside = first + column < tracks.view.features;
  const int64_t j = inside ? first + column : 0, last = tracks.view.steps();
  const auto value = [&](int64_t layer) {
    return widen(reinterpret_cast<const T*>(tracks.row(layer < last ? layer : last, offset))[j]);
  };
  Acc before = value(first_step + strand);
#pragma unroll 4
  for (int i = 0; i < kEach; ++i) {
    const Acc now = value(first_step + strand + i + 1);
    const bool exists = inside && first_step + strand + i < last;
    steps[(strand + i) * S::kStride + column] = exists ? now - before : Acc(0);
    before = now;
  }
}

// Adds the products of the thread's steps over its group's features of a chunk.
template <class S, class Acc>
__device__ __forceinline__ void add_chunk(const Acc* rows, const Acc* columns,
                                          double (&totals)[kTile][kTile]) {
  constexpr int kEach = S::kChunk / S::kGroups;
  static_assert(kEach % S::kPack == 0, "a group reads whole packs");
  const int cell = threadIdx.x % (S::kSide * S::kSide), first = threadIdx.x / (S::kSide * S::kSide) * kEach;
  rows += cell / S::kSide * S::kStride + first;
  columns += cell % S::kSide * S::kStride + first;
  Acc sums[kTile][kTile] = {};
#pragma unroll 1
  for (int j = 0; j < kEach; j += S::kPack) {
    Pack<Acc, S::kPack> left[kTile], right[kTile];
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      left[i] = *reinterpret_cast<const Pack<Acc, S::kPack>*>(rows + i * S::kSide * S::kStride + j);
      right[i] = *reinterpret_cast<const Pack<Acc, S::kPack>*>(columns + i * S::kSide * S::kStride + j);
    }
#pragma unroll
    for (int p = 0; p < S::kPack; ++p) {
#pragma unroll
      for (int k = 0; k < kTile; ++k) {
#pragma unroll
        for (int l = 0; l < kTile; ++l) sums[k][l] = fma(left[k].value[p], right[l].value[p], sums[k][l]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kTile; ++k) {
#pragma unroll
    for (int l = 0; l < kTile; ++l) totals[k][l] += sums[k][l];
  }
}

// Adds up what the groups found, in their order.
template <class S, int kBlock>
__device__ __forceinline__ void combine(const double (&totals)[kTile][kTile], double* parts,
                                        double* products) {
  const int cell = threadIdx.x % (S::kSide * S::kSide), group = threadIdx.x / (S::kSide * S::kSide);
  __syncthreads();  // the parts lie where the steps were
#pragma unroll
  for (int k = 0; k < kTile; ++k) {
#pragma unroll
    for (int l = 0; l < kTile; ++l) {
      const int row = cell / S::kSide + k * S::kSide, column = cell % S::kSide + l * S::kSide;
      parts[(group * kBlock + row) * kBlock + column] = totals[k][l];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kBlock * kBlock; i += kThreads) {
    double sum = 0;
    for (int g = 0; g < S::kGroups; ++g) sum += parts[g * kBlock * kBlock + i];
    products[i] = sum;
  }
  __syncthreads();
}

template <class T, int kBlock, bool kApart>
__global__ void __launch_bounds__(kThreads, 2)
    simt_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ GramWork work) {
  using Acc = typename AccOf<T>::type;
  using S = Shape<Acc, kBlock, kApart>;
  extern __shared__ __align__(16) char shared[];
  __shared__ StepScale<Acc> scales[kApart ? 2 : 1][kBlock];
  __shared__ typename TeamSum<Acc, 2>::Buffer sum_buffer;
  __shared__ Acc max_buffer[kMaxWarps];
  double* products = reinterpret_cast<double*>(shared);
  Acc* rows = reinterpret_cast<Acc*>(products + kBlock * kBlock);
  Acc* columns = kApart ? rows + kBlock * S::kStride : rows;
  PairOfBlocks<T, double, kApart> pair{
      tracks, work, products, kBlock, scales[0], scales[kApart ? 1 : 0], {sum_buffer}, max_buffer};
  pair.choose(blockIdx.x);
  pair.clear();
  for (int64_t track = pair.part; track < tracks.view.tracks; track += work.plan.parts) {
    const int64_t offset = tracks.view.offset(track);
    double totals[kTile][kTile] = {};
    for (int64_t feature = 0; feature < tracks.view.features; feature += S::kChunk) {
      __syncthreads();  // the chunk before, or the parts of the track before, have been read
      load_steps<T, S, kBlock>(tracks, offset, pair.first_row(), feature, rows);
      if (kApart) load_steps<T, S, kBlock>(tracks, offset, pair.first_column(), feature, columns);
      __syncthreads();
      add_chunk<S>(rows, columns, totals);
    }
    combine<S, kBlock>(totals, reinterpret_cast<double*>(rows), products);
    pair.finish(track, offset);
  }
}

template <class T, int kBlock, bool kApart>
void launch_pairs(const GramWork& work, void* stream) {
  const int64_t pairs = kApart ? work.plan.apart() : work.plan.blocks;
  if (pairs == 0) return;
  launch(simt_kernel<T, kBlock, kApart>, dim3(static_cast<unsigned>(pairs * work.plan.parts)), dim3(kThreads),
         Shape<typename AccOf<T>::type, kBlock, kApart>::kBytes, stream, on_device(work.args.tracks), work);
}

}  // namespace

void simt_gram(const GramWork& work, int, void* stream) {
  with_dtype(work.args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (work.plan.block == 16) return launch_pairs<T, 16, false>(work, stream);
    if (work.plan.block == 32) return launch_pairs<T, 32, false>(work, stream);
    launch_pairs<T, 64, false>(work, stream);
    launch_pairs<T, 64, true>(work, stream);
  });
}

}  // namespace cuda
}  // namespace geodesic_fast
