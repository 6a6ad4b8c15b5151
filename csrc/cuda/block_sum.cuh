// SPDX-License-Identifier: MIT
// Sums and maxima over the threads that share a track: a warp of their own, or a whole block.
#pragma once

#include "tracks_view.h"

namespace geodesic_fast {
namespace cuda {

constexpr int kWarp = 32;
constexpr int kMaxWarps = 32;

// Threads of one track lie along x. One warp per track needs no shared memory; wider teams use `buffer`,
// of which two halves are used in turn, so that one barrier per sum is enough.
template <class Value, int kCount>
struct TeamSum {
  using Values = Value[kCount];
  Value (*buffer)[kMaxWarps][kCount];  // [2][kMaxWarps][kCount] in shared memory
  int turn = 0;

  // values[i] <- the sum of values[i] over the team, the same in every thread, in a fixed order.
  __device__ __forceinline__ void operator()(Value (&values)[kCount]) {
#pragma unroll
    for (int lane = kWarp / 2; lane > 0; lane /= 2) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) values[i] += __shfl_xor_sync(0xffffffffu, values[i], lane);
    }
    if (blockDim.x == kWarp) return;
    Value(*partial)[kCount] = buffer[turn];
    turn ^= 1;
    if (threadIdx.x % kWarp == 0) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) partial[threadIdx.x / kWarp][i] = values[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = 0;
    for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) values[i] += partial[warp][i];
    }
  }
};

// What one thread of the team wrote to shared memory is seen by all.
__device__ __forceinline__ void team_sync() {
  if (blockDim.x == kWarp) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

// The larger of two, or NaN if either is.
template <class Value>
__device__ __forceinline__ Value larger(Value a, Value b) {
  return b > a || b != b ? b : a;
}

// The largest value over the team; NaN if any is NaN. For rare paths: two barriers.
template <class Value>
__device__ __forceinline__ Value team_max(Value value, Value* buffer) {
#pragma unroll
  for (int lane = kWarp / 2; lane > 0; lane /= 2) {
    value = larger(value, __shfl_xor_sync(0xffffffffu, value, lane));
  }
  if (blockDim.x == kWarp) return value;
  __syncthreads();
  if (threadIdx.x % kWarp == 0) buffer[threadIdx.x / kWarp] = value;
  __syncthreads();
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) value = larger(value, buffer[warp]);
  return value;
}

}  // namespace cuda
}  // namespace geodesic_fast
