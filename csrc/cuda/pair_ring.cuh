// SPDX-License-Identifier: MIT
// A ring as in track_ring.cuh from which a team takes two points at a time, and rows that a thread has in
// shared memory for itself.
#pragma once

#include "track_ring.cuh"

namespace geodesic_fast {
namespace cuda {

constexpr int kMaxPairs = 2;  // of points in the ring

// A value that the compiler cannot know of beforehand: what follows from it is computed where it is needed
// and takes no register all the time.
__device__ __forceinline__ int unforeseen(int value) {
  int same;
  asm volatile("mov.b32 %0, %1;" : "=r"(same) : "r"(value));
  return same;
}

// Where the first of a thread's packs lies in memory that it has for itself; the next ones are a warp apart.
template <int kPacks>
__device__ __forceinline__ int own_slot() {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  return thread / kWarp * (kPacks * kWarp) + thread % kWarp;
}

template <class T, bool kAligned, int kBytes>
class PairRing {
 public:
  using Value = T;
  using Acc = typename AccOf<T>::type;
  static constexpr int kWidth = kPack<T, kAligned>;
  static constexpr int kCount = kOwned<T, kBytes>;
  static constexpr int kPacks = kCount / kWidth;
  using Packed = Pack<T, kWidth>;

  __device__ __forceinline__ PairRing(char* shared, int pairs, int features)
      : slots_(reinterpret_cast<Packed*>(shared) + own_slot<kPairPacks>()),
        left_(features - first_slot(threadIdx.x) * kWidth),
        pairs_(pairs) {
    for (int pair = 0; pair < pairs; ++pair) {
#pragma unroll
      for (int pack = 0; pack < kPairPacks; ++pack) {
        if (!owns(pack % kPacks)) slots_[pair * pair_slots() + pack * kWarp] = Packed();  // zeros for good
      }
    }
  }

  // A warp owns a run of features, so that a thread's packs are at the same distance in every row. Rarely
  // asked for: points at the thread's first feature of a row.
  template <class Value>
  static __device__ __forceinline__ Value* own(Value* row) {
    return row + first_slot(unforeseen(threadIdx.x)) * kWidth;
  }
  __device__ __forceinline__ bool owns(int pack) const { return left_ > pack * kWarp * kWidth; }

  // Reads the first point of a track, and puts the next ones in flight.
  __device__ __forceinline__ void start(const DeviceTracks& tracks, int64_t offset) {
    at_ = offset + first_slot(unforeseen(threadIdx.x)) * static_cast<int>(sizeof(Packed));
    fetched_ = 0;
    const Packed* from = next_row(tracks);
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
      carried_[pack] = owns(pack) ? from[pack * kWarp] : Packed();
    }
    current_ = 0;
    for (int pair = 0; pair < pairs_; ++pair) refill(tracks);
  }

  // Ends a track half-way.
  __device__ __forceinline__ void leave() const { __pipeline_wait_prior(0); }

  // Calls body(index among the owned features, values at the last point and at the next two), with zeros
  // behind the last feature. Where the first of the two is the last of all, `alone`, it stands for both.
  template <class Body>
  __device__ __forceinline__ void take_pair(bool alone, const Body& body) {
    if (pairs_ == kMaxPairs) {
      __pipeline_wait_prior(kMaxPairs - 1);
    } else {
      __pipeline_wait_prior(0);
    }
    const Packed* slots = slots_ + current_;
    const Packed* next = slots + (alone ? 0 : kPacks * kWarp);
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
      const Packed first = slots[pack * kWarp], second = next[pack * kWarp];
      Acc x[3][kWidth];
      widen_all(carried_[pack], x[0]);
      widen_all(first, x[1]);
      widen_all(second, x[2]);
      carried_[pack] = second;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) body(pack * kWidth + i, x[0][i], x[1][i], x[2][i]);
    }
  }

  // Puts two points in flight where the last two were, once what was made of these is known.
  __device__ __forceinline__ void refill(const DeviceTracks& tracks) {
#pragma unroll
    for (int point = 0; point < 2; ++point) {
      if (fetched_ >= static_cast<int>(tracks.view.points)) continue;
      const Packed* from = next_row(tracks);
      Packed* to = slots_ + current_ + point * kPacks * kWarp;
#pragma unroll
      for (int pack = 0; pack < kPacks; ++pack) {
        if (!owns(pack)) continue;
        if constexpr (sizeof(Packed) >= 4) {
          __pipeline_memcpy_async(to + pack * kWarp, from + pack * kWarp, sizeof(Packed));
        } else {
          to[pack * kWarp] = from[pack * kWarp];
        }
      }
    }
    __pipeline_commit();
    current_ = pairs_ == kMaxPairs ? pair_slots() - current_ : 0;
  }

  // Writes value(index among the owned features) to a row of the caller, from the thread's first feature on.
  template <class Value>
  __device__ __forceinline__ void write(T* own_row, const Value& value) const {
    Packed* to = reinterpret_cast<Packed*>(own_row);
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
      if (!owns(pack)) continue;
      Packed packed;
      Acc values[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) values[i] = value(pack * kWidth + i);
      narrow_all(values, packed);
      to[pack * kWarp] = packed;
    }
  }

  // Calls body(index among the owned features, place in what `own` makes of a row) for each of them.
  template <class Body>
  __device__ __forceinline__ void for_owned(const Body& body) const {
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
      if (!owns(pack)) continue;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) body(pack * kWidth + i, pack * kWarp * kWidth + i);
    }
  }

 private:
  static constexpr int kPairPacks = 2 * kPacks;
  static_assert(kMaxPairs == 2, "pairs take turns");

  static __device__ __forceinline__ int pair_slots() {
    return kPairPacks * static_cast<int>(blockDim.x * blockDim.y);
  }
  static __device__ __forceinline__ int first_slot(int thread) {
    return thread / kWarp * (kPacks * kWarp) + thread % kWarp;
  }

  // Where the thread's part of the next layer lies.
  __device__ __forceinline__ const Packed* next_row(const DeviceTracks& tracks) {
    return reinterpret_cast<const Packed*>(tracks.next_row(fetched_++, at_));
  }

  Packed* slots_;
  int left_;  // features from the thread's first one on
  int pairs_;
  int current_ = 0;  // slot of the pair that is taken next
  int fetched_ = 0;  // points
  int64_t at_ = 0;   // of the thread's first feature in the next layer
  Packed carried_[kPacks];
};

// Values of a thread's features in shared memory, which no other thread touches: registers are few.
template <class Acc, int kCount>
struct OwnRow {
  static constexpr int kEach = 16 / static_cast<int>(sizeof(Acc)), kPacks = kCount / kEach;
  using Packed = Pack<Acc, kEach>;
  Packed* mine;

  __device__ __forceinline__ explicit OwnRow(char* shared)
      : mine(reinterpret_cast<Packed*>(shared) + own_slot<kPacks>()) {}

  static size_t bytes(dim3 team) { return static_cast<size_t>(team.x) * team.y * kCount * sizeof(Acc); }
  __device__ __forceinline__ Packed& pack(int k) const { return mine[k * kWarp]; }
  // Calls body(index among the owned features, value).
  template <class Body>
  __device__ __forceinline__ void for_each(const Body& body) const {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const Packed packed = pack(k);
#pragma unroll
      for (int i = 0; i < kEach; ++i) body(k * kEach + i, packed.value[i]);
    }
  }
  __device__ __forceinline__ void load(Acc (&row)[kCount]) const {
    for_each([&](int i, Acc value) { row[i] = value; });
  }
  __device__ __forceinline__ void store(const Acc (&row)[kCount]) const {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      Packed packed;
#pragma unroll
      for (int i = 0; i < kEach; ++i) packed.value[i] = row[k * kEach + i];
      pack(k) = packed;
    }
  }
};

template <class T, int kBytes>
size_t pair_ring_bytes(dim3 team, int pairs) {
  return static_cast<size_t>(team.x) * team.y * kOwned<T, kBytes> * sizeof(T) * 2 * pairs;
}

// As many pairs of points as the shared memory of the device holds, with `others` bytes beside them.
template <class T, int kBytes>
int pairs_of(dim3 team, int device, size_t others = 0) {
  const size_t reserved = 4096 + others;  // for what a team shares
  const size_t limit = device_limit(device, cudaDevAttrMaxSharedMemoryPerBlockOptin) - reserved;
  return pair_ring_bytes<T, kBytes>(team, kMaxPairs) > limit ? 1 : kMaxPairs;
}

}  // namespace cuda
}  // namespace geodesic_fast
