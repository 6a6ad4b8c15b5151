// SPDX-License-Identifier: MIT
// Products of the steps of half-precision tracks on tensor cores.
// Memory: each point of a block of steps once, through a ring of stages of 64 features in shared memory.
// Work:   4 products of 16 x 8 steps by 16 features where plain ones need 1, 3 in float16.
// Numbers: a step is high + low, exactly, in its own type; all products but low low of float16 (2^-22 of a
//         step's square) are kept. Tensor cores truncate their sums, so 16 features at a time are added up in
//         them and the rest in float32, rounded.
// Bound:  read bandwidth where the tensor cores do 4 n^2 / 2 multiply-adds a feature faster, else these.
#include "line_deviation_gram.cuh"
#include "tensor_core.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kChunk = 16 * kWarps;  // features of a stage, 16 for each warp: rows of 128 bytes
constexpr int kRowBytes = 2 * kChunk, kPacks = kRowBytes / 16;

// Which pair of blocks the threads work on, as compile-time constants.
template <int kRowTiles, bool kApart>
struct Shape {
  static constexpr int kBlock = 16 * kRowTiles;
  static constexpr int kStages = kApart ? 3 : 4;
  static constexpr int kTiles = kApart ? 2 * kRowTiles * kRowTiles : kRowTiles * (kRowTiles + 1);
  static constexpr int kPoints = (kBlock + 1) * (kApart ? 2 : 1);
  static constexpr int kSecond = kBlock + 8;  // row of the second block's first point: see place_of
  static constexpr int kRows = kApart ? kSecond + kBlock + 1 : kBlock + 1;
  static constexpr int kStride = kBlock + 4;  // keeps the threads of a warp off each other's banks
  static constexpr int kRingBytes = kStages * kRows * kRowBytes;
  static constexpr int kBytes = kRingBytes + kBlock * kStride * static_cast<int>(sizeof(float));
};

// Where 16 bytes of a point lie in a stage: turned, so that eight points are read without a bank conflict.
__device__ __forceinline__ unsigned place_of(unsigned row, unsigned pack) {
  return row * kRowBytes + (pack ^ row % kPacks) * 16;
}

// Which stage is fetched next. It lives in shared memory, as the sums fill the registers.
struct Cursor {
  int64_t offset;
  int track, feature;  // 2^31 tracks of 128 features fit no memory
};

// Puts the points of the blocks' tracks in flight, stage after stage, across the ends of tracks.
template <class T, int kRowTiles, bool kApart>
struct Ring {
  using S = Shape<kRowTiles, kApart>;
  const DeviceTracks& tracks;
  const GramWork& work;
  char* shared;
  Cursor* cursors;  // of the next stages
  int first_row, first_column;
  int current = 0;

  __device__ __forceinline__ void start(int track) {
    Cursor cursor{tracks.view.offset(track), track, 0};
#pragma unroll 1
    for (int stage = 0; stage < S::kStages - 1; ++stage) {
      fetch(cursor, stage);
      cursor = after(cursor);
    }
    if (threadIdx.x == 0) cursors[0] = cursor;
  }

  // Waits for the next stage; returns where it lies in shared memory.
  __device__ __forceinline__ unsigned advance() {
    __pipeline_wait_prior(S::kStages - 2);
    __syncthreads();  // it has arrived for all threads, and the stage before it is free
    const Cursor cursor = cursors[current];
    fetch(cursor, current == 0 ? S::kStages - 1 : current - 1);
    const unsigned stage = shared_address(shared) + current * (S::kRows * kRowBytes);
    current = current + 1 == S::kStages ? 0 : current + 1;
    if (threadIdx.x == 0) cursors[current] = after(cursor);
    return stage;
  }

 private:
  __device__ __forceinline__ Cursor after(Cursor cursor) const {
    cursor.feature += kChunk;
    if (cursor.feature < tracks.view.features) return cursor;
    cursor.feature = 0;
    cursor.track += static_cast<int>(work.plan.parts);
    if (cursor.track < tracks.view.tracks) cursor.offset = tracks.view.offset(cursor.track);
    return cursor;
  }

  __device__ __forceinline__ void fetch(const Cursor& cursor, int slot) const {
    if (cursor.track < tracks.view.tracks) {
      char* stage = shared + slot * (S::kRows * kRowBytes);
#pragma unroll 1
      for (unsigned i = threadIdx.x; i < S::kPoints * kPacks; i += kThreads) {
        const int row = i / kPacks, pack = i % kPacks;
        const bool right = kApart && row > S::kBlock;
        const int place = right ? row - (S::kBlock + 1) + S::kSecond : row;
        int layer = right ? first_column + row - (S::kBlock + 1) : first_row + row;
        if (layer > tracks.view.steps()) layer = static_cast<int>(tracks.view.steps());  // no steps past it
        const int j = cursor.feature + pack * (16 / static_cast<int>(sizeof(T)));
        const bool inside = j < tracks.view.features;
        const T* from = reinterpret_cast<const T*>(tracks.row(layer, cursor.offset)) + (inside ? j : 0);
        fetch_16_bytes(stage + place_of(place, pack), from, inside);
      }
    }
    __pipeline_commit();
  }
};

// 16 steps by the warp's 16 features of a stage.
template <class T>
struct Steps {
  Fragment high, low;

  // `first`: a multiple of 8.
  __device__ __forceinline__ void load(unsigned stage, int first) {
    const unsigned row = threadIdx.x % 16, pack = threadIdx.x / 16;
    Fragment before, now;
    load_fragment(before, stage + place_of(row, pack) + first * kRowBytes);
    load_fragment(now, stage + place_of(row + 1, pack) + first * kRowBytes);
#pragma unroll
    for (int i = 0; i < 4; ++i) exact_difference<T>(now[i], before[i], high[i], low[i]);
  }
};

// sums += products of 16 steps and 8 others (half 0 or 1 of 16). Where the 8 are the last of the 16, only
// their own 8 x 8 products count, and twice one mixed product stands for both until all is added up.
template <class T, bool kOwn>
__device__ __forceinline__ void add_products(float (&sums)[4], const Steps<T>& left, const Steps<T>& right,
                                             int half) {
  constexpr bool kLowLow = std::is_same<T, __nv_bfloat16>::value || kOwn;
  const uint32_t high[2] = {right.high[half], right.high[half + 2]};
  const uint32_t low[2] = {right.low[half], right.low[half + 2]};
  float part[4] = {0, 0, 0, 0};
  if (kLowLow) multiply(T{}, part, left.low, low[0], low[1], part);
  if (kOwn) {
    multiply(T{}, part, left.high, add_pairs<T>(low[0], low[0]), add_pairs<T>(low[1], low[1]), part);
  } else {
    multiply(T{}, part, left.high, low[0], low[1], part);
    multiply(T{}, part, left.low, high[0], high[1], part);
  }
  multiply(T{}, part, left.high, high[0], high[1], part);
#pragma unroll
  for (int i = kOwn ? 2 : 0; i < 4; ++i) sums[i] += part[i];
}

// Rows of a tile are 16 steps of the later block, columns 8 of the earlier one.
template <class T, int kRowTiles, bool kApart>
__device__ __forceinline__ void add_stage(float (&sums)[Shape<kRowTiles, kApart>::kTiles][4], unsigned stage,
                                          int count) {
  Steps<T> earlier[kRowTiles];
  if (kApart) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) earlier[r].load(stage, 16 * r);
  }
#pragma unroll
  for (int c = 0; c < kRowTiles; ++c) {
    if (16 * c >= count) break;  // a branch also bounds how much the compiler does at once, and its registers
    int tile = kApart ? 2 * kRowTiles * c : c * (c + 1);
    Steps<T> later;
    later.load(stage, 16 * c + (kApart ? Shape<kRowTiles, kApart>::kSecond : 0));
    if (!kApart) earlier[c] = later;
#pragma unroll
    for (int r = 0; r < (kApart ? 2 * kRowTiles : 2 * c + 1); ++r) {
      add_products<T, false>(sums[tile++], later, earlier[r / 2], r % 2);
    }
    if (!kApart) add_products<T, true>(sums[tile++], later, later, 1);
  }
}

// Adds up what the warps found, each a quarter of the tiles at a time, always in the same order.
template <int kRowTiles, bool kApart>
__device__ __forceinline__ void combine(const float (&sums)[Shape<kRowTiles, kApart>::kTiles][4],
                                        float* products) {
  using S = Shape<kRowTiles, kApart>;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
#pragma unroll 1
  for (int phase = 0; phase < kWarps; ++phase) {
    int tile = 0;
#pragma unroll
    for (int c = 0; c < kRowTiles; ++c) {
#pragma unroll
      for (int r = 0; r < (kApart ? 2 * kRowTiles : 2 * c + 2); ++r) {
        if ((tile + warp) % kWarps == phase) {
          float* to = products + (8 * r + lane % 4 * 2) * S::kStride + 16 * c + lane / 4;
#pragma unroll
          for (int i = !kApart && r == 2 * c + 1 ? 2 : 0; i < 4; ++i) {
            float* at = to + i % 2 * S::kStride + i / 2 * 8;
            *at = phase == 0 ? sums[tile][i] : *at + sums[tile][i];
          }
        }
        ++tile;
      }
    }
    __syncthreads();
  }
  if constexpr (!kApart) {
    for (int i = threadIdx.x; i < kRowTiles * 64; i += kThreads) {
      const int k = i / 64 * 16 + 8 + i / 8 % 8, l = i / 64 * 16 + 8 + i % 8;
      if (k >= l) continue;
      float &above = products[k * S::kStride + l], &below = products[l * S::kStride + k];
      above = below = 0.5f * above + 0.5f * below;
    }
    __syncthreads();
  }
}

template <class T, int kRowTiles, bool kApart>
__global__ void __launch_bounds__(kThreads, 2)
    tensor_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ GramWork work) {
  using S = Shape<kRowTiles, kApart>;
  extern __shared__ __align__(128) char shared[];
  __shared__ StepScale<float> scales[kApart ? 2 : 1][S::kBlock];
  __shared__ Cursor cursors[S::kStages];
  __shared__ TeamSum<float, 2>::Buffer sum_buffer;
  __shared__ float max_buffer[kMaxWarps];
  float* products = reinterpret_cast<float*>(shared + S::kRingBytes);
  PairOfBlocks<T, float, kApart> pair{
      tracks, work, products, S::kStride, scales[0], scales[kApart ? 1 : 0], {sum_buffer}, max_buffer};
  pair.choose(blockIdx.x);
  pair.clear();
  Ring<T, kRowTiles, kApart> ring{tracks, work, shared, cursors, pair.first_row(), pair.first_column()};
  ring.start(pair.part);
  for (int track = pair.part; track < tracks.view.tracks; track += static_cast<int>(work.plan.parts)) {
    float sums[S::kTiles][4] = {};
    for (int feature = 0; feature < tracks.view.features; feature += kChunk) {
      add_stage<T, kRowTiles, kApart>(sums, ring.advance(), pair.count_from(pair.first_column()));
    }
    combine<kRowTiles, kApart>(sums, products);
    pair.finish(track, tracks.view.offset(track));
  }
}

template <class T, int kRowTiles, bool kApart>
void launch_pairs(const GramWork& work, void* stream) {
  const int64_t pairs = kApart ? work.plan.apart() : work.plan.blocks;
  if (pairs == 0) return;
  launch(tensor_kernel<T, kRowTiles, kApart>, dim3(static_cast<unsigned>(pairs * work.plan.parts)),
         dim3(kThreads), Shape<kRowTiles, kApart>::kBytes, stream, on_device(work.args.tracks), work);
}

template <class T>
void launch_all(const GramWork& work, void* stream) {
  if (work.plan.blocks > 1) {
    launch_pairs<T, 4, false>(work, stream);
    return launch_pairs<T, 4, true>(work, stream);
  }
  switch (work.plan.block / 16) {
    case 1:
      return launch_pairs<T, 1, false>(work, stream);
    case 2:
      return launch_pairs<T, 2, false>(work, stream);
    case 3:
      return launch_pairs<T, 3, false>(work, stream);
    case 4:
      return launch_pairs<T, 4, false>(work, stream);
    default:
      return launch_pairs<T, 5, false>(work, stream);
  }
}

}  // namespace

void tensor_gram(const GramWork& work, int, void* stream) {
  work.args.tracks.dtype == DType::kBFloat16 ? launch_all<__nv_bfloat16>(work, stream)
                                             : launch_all<__half>(work, stream);
}

}  // namespace cuda
}  // namespace geodesic_fast
