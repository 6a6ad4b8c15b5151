// SPDX-License-Identifier: MIT
// track_distance, forward.
// Memory: the distances once; each tile of 128 x 64 pairs (64 x 64 in float64) reads its own tracks once.
// Work:   (n+1) d / 2 multiply-adds a pair of the m^2, (n+1) d where two sets of tracks are compared.
// Numbers: products of centred points in float32 (float64 for float64 tracks); where they cancel, the
//          distance is taken anew in float64 from the coordinates.
// Bound:  multiply-adds.
#include "kernels.h"
#include "pair_end.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256, kSide = 16;
constexpr int kColumnsEach = 4, kColumns = kSide * kColumnsEach;
constexpr int kChunk = 32;  // features in shared memory at a time

template <class Acc>
struct Shape {
  static constexpr int kRowsEach = sizeof(Acc) == 8 ? 4 : 8, kRows = kSide * kRowsEach;
  static constexpr int kEach = kRowsEach * kColumnsEach;  // pairs of a thread
  static constexpr int kPack = 16 / static_cast<int>(sizeof(Acc)), kStride = kChunk + kPack;
};

template <class Acc>
struct Tile {
  using S = Shape<Acc>;
  alignas(16) Acc rows[S::kRows][S::kStride];
  alignas(16) Acc columns[kColumns][S::kStride];
  Acc best[S::kEach][kThreads];       // the least bound of a squared distance, times scale^2, and whose it is
  int32_t layer[S::kEach][kThreads];  // below 0, its complement: another layer may be as near
  int64_t row_offset[S::kRows], column_offset[kColumns];  // -1: no such track, or not a finite one
};

template <class T>
struct DistanceTile {
  using Acc = typename AccOf<T>::type;
  using S = Shape<Acc>;
  const DeviceTracks &tracks, &other;
  const DistanceRows& work;
  PairEnd<T> end;
  Tile<Acc>& tile;
  int64_t first_row, first_column;
  Acc totals[S::kRowsEach][kColumnsEach];

  static __device__ __forceinline__ int row(int r) { return threadIdx.x / kSide + r * kSide; }
  static __device__ __forceinline__ int column(int c) { return threadIdx.x % kSide + c * kSide; }

  __device__ __forceinline__ void start() {
    for (int r = threadIdx.x; r < S::kRows; r += kThreads) {
      const int64_t i = first_row + r;
      const bool finite = i < work.row_end && work.pairs.kinds[i] == kFiniteTrack;
      tile.row_offset[r] = finite ? tracks.view.offset(i) : -1;
    }
    for (int c = threadIdx.x; c < kColumns; c += kThreads) {
      const int64_t j = first_column + c;
      const bool finite = j < other.view.tracks && work.pairs.other_kinds[j] == kFiniteTrack;
      tile.column_offset[c] = finite ? other.view.offset(j) : -1;
    }
#pragma unroll
    for (int k = 0; k < S::kEach; ++k) {
      tile.best[k][threadIdx.x] = INFINITY;
      tile.layer[k][threadIdx.x] = 0;
    }
    __syncthreads();
  }

  // Centred points of one layer, kChunk features of them.
  template <int kCount>
  __device__ __forceinline__ void load(const DeviceTracks& from, const int64_t* offsets, int64_t layer,
                                       int64_t first, Acc scale, Acc (*to)[S::kStride]) const {
    const int64_t j = first + threadIdx.x % kChunk;
    const bool inside = j < from.view.features;
    const Acc centre =
        inside ? static_cast<const Acc*>(work.pairs.centre)[layer * from.view.features + j] : Acc(0);
#pragma unroll 4
    for (int k = threadIdx.x / kChunk; k < kCount; k += kThreads / kChunk) {
      const int64_t offset = offsets[k];
      Acc value = 0;
      if (inside && offset >= 0) {
        value = widen(reinterpret_cast<const T*>(from.row(layer, offset))[j]) * scale - centre;
      }
      to[k][threadIdx.x % kChunk] = value;
    }
  }

  __device__ __forceinline__ void multiply(int64_t layer) {
    const Acc scale = static_cast<Acc>(*work.pairs.scale);
    Acc sums[S::kRowsEach][kColumnsEach] = {};
#pragma unroll
    for (int r = 0; r < S::kRowsEach; ++r) {
#pragma unroll
      for (int c = 0; c < kColumnsEach; ++c) totals[r][c] = 0;
    }
    for (int64_t first = 0; first < tracks.view.features; first += kChunk) {
      __syncthreads();  // the chunk before has been read
      load<S::kRows>(tracks, tile.row_offset, layer, first, scale, tile.rows);
      load<kColumns>(other, tile.column_offset, layer, first, scale, tile.columns);
      __syncthreads();
      add_chunk(sums);
      if (first % kPairSlice != kPairSlice - kChunk && first + kChunk < tracks.view.features) continue;
#pragma unroll
      for (int r = 0; r < S::kRowsEach; ++r) {
#pragma unroll
        for (int c = 0; c < kColumnsEach; ++c) totals[r][c] += sums[r][c], sums[r][c] = 0;
      }
    }
  }

  __device__ __forceinline__ void add_chunk(Acc (&sums)[S::kRowsEach][kColumnsEach]) const {
    using Packed = Pack<Acc, S::kPack>;
#pragma unroll 1
    for (int j = 0; j < kChunk; j += S::kPack) {
      Packed right[kColumnsEach];
#pragma unroll
      for (int c = 0; c < kColumnsEach; ++c)
        right[c] = *reinterpret_cast<const Packed*>(&tile.columns[column(c)][j]);
#pragma unroll
      for (int r = 0; r < S::kRowsEach; ++r) {
        const Packed left = *reinterpret_cast<const Packed*>(&tile.rows[row(r)][j]);
#pragma unroll
        for (int p = 0; p < S::kPack; ++p) {
#pragma unroll
          for (int c = 0; c < kColumnsEach; ++c)
            sums[r][c] = fma(left.value[p], right[c].value[p], sums[r][c]);
        }
      }
    }
  }

  // Lowers the bounds of the thread's pairs to those of this layer.
  __device__ __forceinline__ void lower(int64_t layer) const {
    const Acc slack = pair_rounding<Acc>(tracks.view.features);
    Acc right[kColumnsEach];
#pragma unroll
    for (int c = 0; c < kColumnsEach; ++c) right[c] = end.square_of_column(layer, first_column + column(c));
#pragma unroll
    for (int r = 0; r < S::kRowsEach; ++r) {
      const Acc left = end.square_of_row(layer, first_row + row(r));
#pragma unroll
      for (int c = 0; c < kColumnsEach; ++c) {
        const Acc bound = PairEnd<T>::bound_of(left + right[c], totals[r][c], slack);
        Acc& best = tile.best[r * kColumnsEach + c][threadIdx.x];
        int32_t& its_layer = tile.layer[r * kColumnsEach + c][threadIdx.x];
        if (bound < best) {
          const bool tied = PairEnd<T>::may_tie(bound, best, slack);
          best = bound;
          its_layer = tied ? ~static_cast<int32_t>(layer) : static_cast<int32_t>(layer);
        } else if (PairEnd<T>::may_tie(best, bound, slack) && its_layer >= 0) {
          its_layer = ~its_layer;
        }
      }
    }
  }

  __device__ __forceinline__ void finish() const {
#pragma unroll 1
    for (int k = 0; k < S::kEach; ++k) {
      const int32_t layer = tile.layer[k][threadIdx.x];
      end.finish(first_row + row(k / kColumnsEach), first_column + column(k % kColumnsEach),
                 tile.best[k][threadIdx.x], layer < 0 ? ~layer : layer, layer < 0);
    }
  }
};

template <class T, class Acc = typename AccOf<T>::type>
__global__ void __launch_bounds__(kThreads, 2)
    distance_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ DeviceTracks other,
                    const __grid_constant__ DistanceRows work, int64_t across, bool shares_work) {
  extern __shared__ __align__(16) char shared[];
  const int64_t first_row = work.row_begin + blockIdx.x / across * Shape<Acc>::kRows;
  const int64_t first_column = blockIdx.x % across * kColumns;
  if (shares_work && products_as_they_are(work.pairs)) return;
  if (work.mirrored && first_column + kColumns <= first_row) return;
  DistanceTile<T> tile{
      tracks,    other,        work, {tracks, other, work}, *reinterpret_cast<Tile<Acc>*>(shared),
      first_row, first_column, {}};
  tile.start();
  for (int64_t layer = 0; layer < tracks.view.points; ++layer) {
    tile.multiply(layer);
    tile.lower(layer);
  }
  tile.finish();
}

template <class T, class Acc = typename AccOf<T>::type>
void launch_rows(const DistanceRows& work, bool shares_work, void* stream) {
  const int64_t across = (work.pairs.other.tracks + kColumns - 1) / kColumns;
  const int64_t down = (work.row_end - work.row_begin + Shape<Acc>::kRows - 1) / Shape<Acc>::kRows;
  launch(distance_kernel<T>, dim3(static_cast<unsigned>(across * down)), dim3(kThreads), sizeof(Tile<Acc>),
         stream, on_device(work.pairs.tracks), on_device(work.pairs.other), work, across, shares_work);
}

}  // namespace

// Which of the two kernels has work to do, only the device knows.
void distance_rows(const DistanceRows& work, int device, void* stream) {
  const bool shares_work = may_use_tensor_cores(work.pairs, device);
  if (shares_work) tensor_distance_rows(work, device, stream);
  with_dtype(work.pairs.tracks.dtype,
             [&](auto zero) { launch_rows<decltype(zero)>(work, shares_work, stream); });
}

void track_distance_forward(const TrackDistance& args, const Place& place) {
  const int64_t row_end = args.row_end < 0 ? args.pairs.tracks.tracks : args.row_end;
  if (row_end == args.row_begin) return;
  use_device(place.device);
  distance_rows({args.pairs, args.pairs.symmetric, args.row_begin, row_end, 0, args.distance, args.layer},
                place.device, place.stream);
}

}  // namespace cuda
}  // namespace geodesic_fast
