// SPDX-License-Identifier: MIT
// Sums and maxima over the threads that share a track: a warp of their own, or a whole block.
#pragma once

#include "tracks_view.h"

namespace geodesic_fast {
namespace cuda {

constexpr int kWarp = 32;
constexpr int kMaxWarps = 16;

constexpr int power_of_two_from(int count) {
  int power = 1;
  while (power < count) power *= 2;
  return power;
}

// Threads of one track lie along x. One warp per track needs no shared memory; wider teams use `buffer`,
// of which two halves are used in turn, so that one barrier per sum is enough. A warp halves the values that
// a lane adds up with each exchange until a lane has one, so that many sums cost little more than one.
template <class Value, int kCount>
struct TeamSum {
  using Values = Value[kCount];
  using Buffer = Value[2][kMaxWarps][kCount];
  static constexpr int kSlots = power_of_two_from(kCount);
  static constexpr int kLanes = kWarp / kSlots;  // with the same value
  static_assert(kSlots <= kWarp, "a value for each lane at most");
  Buffer& buffer;  // in shared memory
  int turn = 0;

  // values[i] <- the sum of values[i] over the team, the same in every thread, in a fixed order.
  __device__ __forceinline__ void operator()(Value (&values)[kCount]) {
    const int lane = threadIdx.x % kWarp, own = lane / kLanes;
    Value sum = of_lanes<kLanes>(scatter(values, lane));
    if (blockDim.x > kWarp) sum = of_warps(sum, lane, own);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      values[i] = kCount == 1 ? sum : __shfl_sync(0xffffffffu, sum, i * kLanes);
    }
  }

 private:
  // Returns the lane's value number lane / kLanes, added up over the lanes that differ in the upper bits.
  static __device__ __forceinline__ Value scatter(const Value (&values)[kCount], int lane) {
    Value left[kSlots];
#pragma unroll
    for (int i = 0; i < kSlots; ++i) left[i] = i < kCount ? values[i] : Value(0);
    halve<kSlots / 2>(left, lane);
    return left[0];
  }

  template <int kHalf>
  static __device__ __forceinline__ void halve(Value (&left)[kSlots], int lane) {
    if constexpr (kHalf > 0) {
      const bool upper = (lane & kHalf * kLanes) != 0;
#pragma unroll
      for (int i = 0; i < kHalf; ++i) {
        const Value kept = upper ? left[i + kHalf] : left[i], given = upper ? left[i] : left[i + kHalf];
        left[i] = kept + __shfl_xor_sync(0xffffffffu, given, kHalf * kLanes);
      }
      halve<kHalf / 2>(left, lane);
    }
  }

  template <int kGroup>
  static __device__ __forceinline__ Value of_lanes(Value sum) {
#pragma unroll
    for (int distance = kGroup / 2; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    }
    return sum;
  }

  __device__ __forceinline__ Value of_warps(Value sum, int lane, int own) {
    constexpr int kReaders = kLanes < kMaxWarps ? kLanes : kMaxWarps;
    auto& partial = buffer[turn];
    turn ^= 1;
    if (lane % kLanes == 0 && own < kCount) partial[threadIdx.x / kWarp][own] = sum;
    __syncthreads();
    const int warps = blockDim.x / kWarp;
    sum = 0;
#pragma unroll
    for (int first = 0; first < kMaxWarps; first += kReaders) {
      const int warp = first + lane % kReaders;
      if (warp < warps && own < kCount) sum += partial[warp][own];
    }
    return of_lanes<kReaders>(sum);
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
