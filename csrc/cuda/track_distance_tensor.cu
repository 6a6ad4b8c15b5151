// SPDX-License-Identifier: MIT
// track_distance of half-precision tracks on tensor cores, where their common centre is near enough to the
// origin
// (`products_as_they_are`); elsewhere track_distance_forward.cu does the work.
// Memory: the distances once; each tile of 128 x 128 pairs reads its own tracks once.
// Work:   (n+1) d / 2 multiply-adds a pair of the m^2, (n+1) d where two sets of tracks are compared.
// Numbers: products of the points as they are, exact, 16 features at a time added up in the tensor cores,
// which
//          truncate, and the rest in float32, rounded; where they cancel, anew in float64.
// Bound:  tensor cores.
#include "pair_end.cuh"
#include "tensor_core.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256, kSide = 128;  // pairs on each side of a tile; a warp takes 64 x 32 of them
constexpr int kRowTiles = 4, kColumnTiles = 4, kEach = kRowTiles * kColumnTiles * 4;
constexpr int kChunk = 64, kRowBytes = 2 * kChunk, kPacks = kRowBytes / 16;
constexpr int kStageBytes = 2 * kSide * kRowBytes;
constexpr int kMaxStages = 3;

struct Tile {
  float best[kEach][kThreads];     // the least bound of a squared distance, times scale^2
  int16_t layer[kEach][kThreads];  // below 0, its complement: another layer may be as near
  int64_t offset[2 * kSide];       // of rows and then columns; -1: no such track, or not a finite one
};

// Where 16 bytes of a point lie in a stage: turned, so that eight points are read without a bank conflict.
__device__ __forceinline__ unsigned place_of(unsigned row, unsigned pack) {
  return row * kRowBytes + (pack ^ row % kPacks) * 16;
}

template <class T>
struct TensorTile {
  PairEnd<T> end;
  Tile& tile;
  char* ring;
  int64_t first_row, first_column;
  int stages, chunks;

  __device__ __forceinline__ void start() const {
    const int k = threadIdx.x;
    const bool right = k >= kSide;
    const int64_t track = right ? first_column + k - kSide : first_row + k;
    const DeviceTracks& from = right ? end.other : end.tracks;
    const uint8_t* kinds = right ? end.work.pairs.other_kinds : end.work.pairs.kinds;
    const bool finite = track < (right ? from.view.tracks : end.work.row_end) && kinds[track] == kFiniteTrack;
    tile.offset[k] = finite ? from.view.offset(track) : -1;
#pragma unroll 4
    for (int slot = 0; slot < kEach; ++slot) {
      tile.best[slot][threadIdx.x] = INFINITY;
      tile.layer[slot][threadIdx.x] = 0;
    }
    __syncthreads();
  }

  // Starts the read of 64 features of one layer; past the last it only keeps the count of reads.
  __device__ __forceinline__ void fetch(int64_t layer, int chunk, int slot) const {
    if (layer < end.tracks.view.points) {
      char* stage = ring + slot * kStageBytes;
#pragma unroll 2
      for (unsigned i = threadIdx.x; i < 2 * kSide * kPacks; i += kThreads) {
        const unsigned row = i / kPacks, pack = i % kPacks;
        const DeviceTracks& from = row >= kSide ? end.other : end.tracks;
        const int64_t offset = tile.offset[row], j = chunk * kChunk + pack * 8;
        const bool inside = offset >= 0 && j < from.view.features;
        const T* point = reinterpret_cast<const T*>(from.row(layer, offset >= 0 ? offset : 0));
        fetch_16_bytes(stage + place_of(row, pack), point + (inside ? j : 0), inside);
      }
    }
    __pipeline_commit();
  }

  // Adds the products of one stage.
  __device__ __forceinline__ void add_stage(float (&totals)[kEach], int slot) const {
    const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const unsigned stage = shared_address(ring) + slot * kStageBytes;
    const unsigned rows = warp / 4 * 64 + lane % 16, columns = kSide + warp % 4 * 32 + lane % 16;
#pragma unroll 1
    for (unsigned step = 0; step < kChunk / 16; ++step) {
      const unsigned pack = step * 2 + lane / 16;
      Fragment right[kColumnTiles / 2];
#pragma unroll
      for (int c = 0; c < kColumnTiles / 2; ++c) {
        load_fragment(right[c], stage + place_of(columns, pack) + c * 16 * kRowBytes);
      }
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        Fragment left;
        load_fragment(left, stage + place_of(rows, pack) + r * 16 * kRowBytes);
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) {
          float part[4] = {0, 0, 0, 0};
          multiply(T{}, part, left, right[c / 2][c % 2], right[c / 2][c % 2 + 2], part);
#pragma unroll
          for (int i = 0; i < 4; ++i) totals[(r * kColumnTiles + c) * 4 + i] += part[i];
        }
      }
    }
  }

  __device__ __forceinline__ int64_t row_of(int slot) const {
    const int lane = threadIdx.x % kWarp;
    return first_row + threadIdx.x / kWarp / 4 * 64 + slot / 16 * 16 + lane / 4 + slot / 2 % 2 * 8;
  }
  __device__ __forceinline__ int64_t column_of(int slot) const {
    const int lane = threadIdx.x % kWarp;
    return first_column + threadIdx.x / kWarp % 4 * 32 + slot / 4 % 4 * 8 + lane % 4 * 2 + slot % 2;
  }

  // Lowers the bounds of the thread's pairs to those of this layer.
  __device__ __forceinline__ void lower(int64_t layer, const float (&totals)[kEach]) const {
    const float scale = static_cast<float>(*end.work.pairs.scale);
    const float slack = pair_rounding<float>(end.tracks.view.features);
    float right[2 * kColumnTiles];
#pragma unroll
    for (int c = 0; c < 2 * kColumnTiles; ++c) {
      right[c] = end.square_of_column(layer, column_of(c / 2 * 4 + c % 2));
    }
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      const float left = end.square_of_row(layer, row_of(r / 2 * 4 * kColumnTiles + r % 2 * 2));
      __syncwarp();  // bounds how far ahead the compiler works, and so its registers
#pragma unroll
      for (int c = 0; c < 2 * kColumnTiles; ++c) {
        const int slot = (r / 2 * kColumnTiles + c / 2) * 4 + r % 2 * 2 + c % 2;
        const float bound = PairEnd<T>::bound_of(left + right[c], totals[slot] * scale * scale, slack);
        float& best = tile.best[slot][threadIdx.x];
        int16_t& its_layer = tile.layer[slot][threadIdx.x];
        if (bound < best) {
          const bool tied = PairEnd<T>::may_tie(bound, best, slack);
          best = bound;
          its_layer = static_cast<int16_t>(tied ? ~layer : layer);
        } else if (PairEnd<T>::may_tie(best, bound, slack) && its_layer >= 0) {
          its_layer = static_cast<int16_t>(~its_layer);
        }
      }
    }
  }

  __device__ __forceinline__ void run() const {
    start();
    for (int stage = 0; stage < stages - 1; ++stage) fetch(stage / chunks, stage % chunks, stage);
    int64_t next = (stages - 1) / chunks;
    int next_chunk = (stages - 1) % chunks, current = 0;
    for (int64_t layer = 0; layer < end.tracks.view.points; ++layer) {
      float totals[kEach] = {};
      for (int chunk = 0; chunk < chunks; ++chunk) {
        if (stages == kMaxStages) {
          __pipeline_wait_prior(kMaxStages - 2);
        } else {
          __pipeline_wait_prior(0);
        }
        __syncthreads();  // it has arrived for all threads, and the stage before it is free
        fetch(next, next_chunk, current == 0 ? stages - 1 : current - 1);
        if (++next_chunk == chunks) next_chunk = 0, ++next;
        add_stage(totals, current);
        current = current + 1 == stages ? 0 : current + 1;
      }
      lower(layer, totals);
    }
#pragma unroll 1
    for (int slot = 0; slot < kEach; ++slot) {
      const int layer = tile.layer[slot][threadIdx.x];
      end.finish(row_of(slot), column_of(slot), tile.best[slot][threadIdx.x], layer < 0 ? ~layer : layer,
                 layer < 0);
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    tensor_distance_kernel(const __grid_constant__ DeviceTracks tracks,
                           const __grid_constant__ DeviceTracks other,
                           const __grid_constant__ DistanceRows work, int64_t across, int stages) {
  extern __shared__ __align__(128) char shared[];
  const int64_t first_row = work.row_begin + blockIdx.x / across * kSide;
  const int64_t first_column = blockIdx.x % across * kSide;
  if (!products_as_they_are(work.pairs) || (work.mirrored && first_column + kSide <= first_row)) return;
  const int chunks = static_cast<int>((tracks.view.features + kChunk - 1) / kChunk);
  const TensorTile<T> tile{{tracks, other, work},
                           *reinterpret_cast<Tile*>(shared + stages * kStageBytes),
                           shared,
                           first_row,
                           first_column,
                           stages,
                           chunks};
  tile.run();
}

// 3 or 2, or 0 where not even two fit beside the tile.
int stages_that_fit(int device) {
  const int limit = device_limit(device, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  const int fitting = (limit - static_cast<int>(sizeof(Tile))) / kStageBytes;
  return fitting >= kMaxStages ? kMaxStages : fitting == kMaxStages - 1 ? fitting : 0;
}

template <class T>
void launch_tensor(const DistanceRows& work, int device, void* stream) {
  const int64_t across = (work.pairs.other.tracks + kSide - 1) / kSide;
  const int64_t down = (work.row_end - work.row_begin + kSide - 1) / kSide;
  const int stages = stages_that_fit(device);
  launch(tensor_distance_kernel<T>, dim3(static_cast<unsigned>(across * down)), dim3(kThreads),
         stages * kStageBytes + sizeof(Tile), stream, on_device(work.pairs.tracks),
         on_device(work.pairs.other), work, across, stages);
}

}  // namespace

bool tensor_tiles_fit(int device) { return stages_that_fit(device) > 0; }

void tensor_distance_rows(const DistanceRows& work, int device, void* stream) {
  work.pairs.tracks.dtype == DType::kBFloat16 ? launch_tensor<__nv_bfloat16>(work, device, stream)
                                              : launch_tensor<__half>(work, device, stream);
}

}  // namespace cuda
}  // namespace geodesic_fast
