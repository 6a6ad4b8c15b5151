// SPDX-License-Identifier: MIT
// Sinkhorn's row and column steps, and column maxima. Listing: ots_list.cu.
#include "ots.h"

#include "kernels.h"
#include "ots_row.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kColumnThreads = 256;  // columns of a block, one for each thread
constexpr int kRowsEach = 128;       // rows of a block
constexpr int kTogether = 8;         // rows whose loads are in flight at once

// A maximum and a sum of exponentials relative to it.
struct LogSum {
  float top, sum;

  __device__ __forceinline__ void add(float value) {
    if (value > top) {
      sum = sum * __expf(top - value) + 1.0f;
      top = value;
    } else {
      sum += __expf(value - top);
    }
  }

  __device__ __forceinline__ void merge(float other_top, float other_sum) {
    const float larger = fmaxf(top, other_top);
    sum = sum * __expf(top - larger) + other_sum * __expf(other_top - larger);
    top = larger;
  }
};

// Memory: reads S once. Work: one exponential a pair. Numbers: float32, a running maximum. Bound: memory.
// A block a row; a_i = epsilon log sum_j exp((S_ij - b_j) / epsilon).
__global__ void __launch_bounds__(kRowThreads)
    softmin_rows(ProductTile tile, SoftminArgs args, float inv_epsilon) {
  __shared__ float tops[kRowWarps], sums[kRowWarps];
  const float* s = tile.product + blockIdx.x * tile.stride;
  LogSum mine{kLowest, 0.0f};
  for (int64_t j = threadIdx.x; j < tile.cols; j += kRowThreads) mine.add((s[j] - args.b[j]) * inv_epsilon);
#pragma unroll
  for (int lane = kWarpLanes / 2; lane > 0; lane /= 2) {
    mine.merge(__shfl_xor_sync(0xffffffffu, mine.top, lane), __shfl_xor_sync(0xffffffffu, mine.sum, lane));
  }
  if (threadIdx.x % kWarpLanes == 0) {
    tops[threadIdx.x / kWarpLanes] = mine.top;
    sums[threadIdx.x / kWarpLanes] = mine.sum;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kRowWarps; ++warp) mine.merge(tops[warp], sums[warp]);
  args.a[blockIdx.x] = args.epsilon * (mine.top + logf(mine.sum) - args.log_supply[blockIdx.x]);
}

__device__ __forceinline__ void raise(float* to, float value) {
  // Floats of one sign are ordered like their bits, negative ones, -0 among them, the other way round.
  if (__float_as_int(value) >= 0) {
    atomicMax(reinterpret_cast<int*>(to), __float_as_int(value));
  } else {
    atomicMin(reinterpret_cast<unsigned*>(to), __float_as_uint(value));
  }
}

// Memory: reads S once. Work: one exponential a pair with kSum, else one maximum. Numbers: float32; column
// sums of a block's rows are added up as whole numbers. Bound: memory.
template <bool kSum>
__global__ void __launch_bounds__(kColumnThreads)
    column_step(ProductTile tile, const float* a, const float* b, float inv_epsilon, int64_t* col_sum,
                float* col_best) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kColumnThreads + threadIdx.x;
  if (j >= tile.cols) return;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kRowsEach;
  const int64_t end = first + kRowsEach < tile.rows ? first + kRowsEach : tile.rows;
  const float bj = kSum ? b[j] : 0.0f;
  float sum = 0.0f, best = kLowest;
  for (int64_t i = first; i < end; i += kTogether) {
    float value[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k)
      value[k] = i + k < end ? tile.product[(i + k) * tile.stride + j] : kLowest;
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (i + k >= end) break;
      const float above = value[k] - a[i + k];
      best = fmaxf(best, above);
      if (kSum) sum += __expf((above - bj) * inv_epsilon);
    }
  }
  raise(col_best + j, best);
  if (kSum) {
    atomicAdd(reinterpret_cast<unsigned long long*>(col_sum + j),
              static_cast<unsigned long long>(llrint(sum * kMassUnits)));
  }
}

dim3 column_grid(const ProductTile& tile) {
  return dim3(static_cast<unsigned>((tile.cols + kColumnThreads - 1) / kColumnThreads),
              static_cast<unsigned>((tile.rows + kRowsEach - 1) / kRowsEach));
}

}  // namespace

void ots_softmin(const SoftminArgs& args, const Place& place) {
  const ProductTile& tile = args.tile;
  if (tile.rows == 0) return;
  use_device(place.device);
  const float inv_epsilon = 1.0f / args.epsilon;
  launch(softmin_rows, dim3(static_cast<unsigned>(tile.rows)), dim3(kRowThreads), 0, place.stream, tile, args,
         inv_epsilon);
  launch(column_step<true>, column_grid(tile), dim3(kColumnThreads), 0, place.stream, tile,
         static_cast<const float*>(args.a), args.b, inv_epsilon, args.col_sum, args.col_best);
}

void ots_column_best(const ColumnBest& args, const Place& place) {
  const ProductTile& tile = args.tile;
  if (tile.rows == 0) return;
  use_device(place.device);
  launch(column_step<false>, column_grid(tile), dim3(kColumnThreads), 0, place.stream, tile, args.a,
         static_cast<const float*>(nullptr), 0.0f, static_cast<int64_t*>(nullptr), args.best);
}

}  // namespace cuda
}  // namespace geodesic_fast
