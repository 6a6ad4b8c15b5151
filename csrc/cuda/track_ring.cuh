// SPDX-License-Identifier: MIT
// How a team of threads reads the points of one track: each thread owns a fixed slice of the features and
// keeps the next points in flight in a ring in shared memory, which no other thread touches.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>

#include <cstring>

#include "block_sum.cuh"
#include "launch.cuh"
#include "length.h"

namespace geodesic_fast {
namespace cuda {

template <class T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ void narrow(float value, float* to) { *to = value; }
__device__ __forceinline__ void narrow(double value, double* to) { *to = value; }
__device__ __forceinline__ void narrow(float value, __half* to) { *to = __float2half_rn(value); }
__device__ __forceinline__ void narrow(float value, __nv_bfloat16* to) { *to = __float2bfloat16_rn(value); }
__device__ __forceinline__ __half2 narrow_pair(__half, float a, float b) { return __floats2half2_rn(a, b); }
__device__ __forceinline__ __nv_bfloat162 narrow_pair(__nv_bfloat16, float a, float b) {
  return __floats2bfloat162_rn(a, b);
}

// Never fused with the sum that it joins.
__device__ __forceinline__ float rounded_product(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double rounded_product(double a, double b) { return __dmul_rn(a, b); }

__device__ __forceinline__ bool is_safe_square(float square) { return square >= 1e-26f && square <= 1e36f; }
__device__ __forceinline__ bool is_safe_square(double square) { return square >= 1e-280 && square <= 1e300; }

constexpr int kMaxTeam = 512;  // threads on one track
constexpr int kMaxStages = 4;  // points in the ring
constexpr int kMaxTracksPerBlock = 4;

// Features a thread owns, as many as the registers hold: so many bytes of each sum, fewer where a kernel
// keeps many rows or where each feature has an address of its own.
enum SumBytes : int { kSlim = 16, kNarrow = 32, kWide = 64 };
template <class T, int kBytes>
constexpr int kOwned = kBytes / static_cast<int>(sizeof(typename AccOf<T>::type));
// Features per access: 16 bytes where every row starts on a multiple of 16, else one.
template <class T, bool kAligned>
constexpr int kPack = kAligned ? 16 / static_cast<int>(sizeof(T)) : 1;

template <class T, int kCount>
struct alignas(kCount * sizeof(T)) Pack {
  T value[kCount];
};

// Two values of half precision at a time: a bfloat16 is the upper half of a float.
template <class T, int kCount, class Acc>
__device__ __forceinline__ void widen_all(const Pack<T, kCount>& pack, Acc (&to)[kCount]) {
  if constexpr (sizeof(T) == 2 && kCount % 2 == 0) {
    uint32_t pairs[kCount / 2];
    memcpy(pairs, &pack, sizeof(pairs));
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      const uint32_t pair = pairs[i / 2];
      if constexpr (std::is_same<T, __nv_bfloat16>::value) {
        to[i] = __uint_as_float(pair << 16), to[i + 1] = __uint_as_float(pair & 0xffff0000u);
      } else {
        to[i] = widen(pack.value[i]), to[i + 1] = widen(pack.value[i + 1]);
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = widen(pack.value[i]);
  }
}
template <class T, int kCount, class Acc>
__device__ __forceinline__ void narrow_all(const Acc (&from)[kCount], Pack<T, kCount>& to) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (sizeof(T) == 2 && kCount % 2 == 0) {
      if (i % 2 == 1) continue;
      const auto pair = narrow_pair(T{}, from[i], from[i + 1]);
      memcpy(&to.value[i], &pair, sizeof(pair));
    } else {
      narrow(from[i], &to.value[i]);
    }
  }
}

// Tracks whose layer addresses travel with the kernel's parameters: no copy, and CUDA graphs keep them.
struct DeviceTracks {
  TracksView view;  // layer_stride is 0 where layers are listed
  int is_listed = 0;
  char* listed[kMaxListedLayers];

  __device__ __forceinline__ char* row(int64_t layer, int64_t offset) const {
    return (is_listed ? listed[layer] : view.base + layer * view.layer_stride) + offset;
  }
  // The same row by row: `at` is an offset in layer 0 at first, and moved on.
  __device__ __forceinline__ char* next_row(int layer, int64_t& at) const {
    char* row = (is_listed ? listed[layer] : view.base) + at;
    at += view.layer_stride;
    return row;
  }
};

template <class T, bool kAligned, int kBytes>
class TrackRing {
 public:
  using Value = T;
  using Acc = typename AccOf<T>::type;
  static constexpr int kWidth = kPack<T, kAligned>;
  static constexpr int kCount = kOwned<T, kBytes>;
  static constexpr int kPacks = kCount / kWidth;
  using Packed = Pack<T, kWidth>;

  __device__ __forceinline__ TrackRing(char* shared, int stages, int features)
      : slots_(reinterpret_cast<Packed*>(shared) + threadIdx.y * blockDim.x + threadIdx.x),
        stage_slots_(kPacks * blockDim.x * blockDim.y),
        stages_(stages),
        features_(features) {}

  static __device__ __forceinline__ int first_feature(int pack) {
    return (pack * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * kWidth;
  }
  __device__ __forceinline__ bool owns(int pack) const { return first_feature(pack) < features_; }
  // Places that `for_owned` names are those of the row itself.
  template <class Value>
  static __device__ __forceinline__ Value* own(Value* row) {
    return row;
  }

  // Puts the first points of a track in flight, `layer` 0 being the current one.
  __device__ __forceinline__ void start(const DeviceTracks& tracks, int64_t offset) {
    filling_ = 0, current_ = 0;
    for (int64_t layer = 0; layer < stages_ - 1; ++layer) fetch(tracks, layer, offset);
  }

  // Makes `layer` the current point, once it has arrived, with the one before still at hand.
  __device__ __forceinline__ void advance(const DeviceTracks& tracks, int64_t layer, int64_t offset) {
    fetch(tracks, layer + stages_ - 2, offset);
    before_ = current_;
    current_ = next_stage(current_);
    if (stages_ >= 4) {
      __pipeline_wait_prior(2);
    } else if (stages_ == 3) {
      __pipeline_wait_prior(1);
    } else {
      __pipeline_wait_prior(0);
    }
  }

  // Calls body(index among the owned features, value at the current point, value at the one before).
  template <class Body>
  __device__ __forceinline__ void for_each(const Body& body) const {
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
      if (!owns(pack)) continue;
      const Packed now = *slot(current_, pack), before = *slot(before_, pack);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) body(pack * kWidth + i, widen(now.value[i]), widen(before.value[i]));
    }
  }

  // Writes value(index among the owned features, feature) to a row of the caller.
  template <class Value>
  __device__ __forceinline__ void write(T* row, const Value& value) const {
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
      if (!owns(pack)) continue;
      Packed packed;
#pragma unroll
      for (int i = 0; i < kWidth; ++i)
        narrow(value(pack * kWidth + i, first_feature(pack) + i), &packed.value[i]);
      *reinterpret_cast<Packed*>(row + first_feature(pack)) = packed;
    }
  }

  // Calls body(index among the owned features, feature) for the features this thread owns.
  template <class Body>
  __device__ __forceinline__ void for_owned(const Body& body) const {
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
      if (!owns(pack)) continue;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) body(pack * kWidth + i, first_feature(pack) + i);
    }
  }

 private:
  // Starts the read of one point; past the last it only keeps the count of reads.
  __device__ __forceinline__ void fetch(const DeviceTracks& tracks, int64_t layer, int64_t offset) {
    if (layer < tracks.view.points) {
      const T* row = reinterpret_cast<const T*>(tracks.row(layer, offset));
#pragma unroll
      for (int pack = 0; pack < kPacks; ++pack) {
        if (!owns(pack)) continue;
        Packed* to = slot(filling_, pack);
        const Packed* from = reinterpret_cast<const Packed*>(row + first_feature(pack));
        if constexpr (sizeof(Packed) >= 4) {
          __pipeline_memcpy_async(to, from, sizeof(Packed));
        } else {
          *to = *from;
        }
      }
    }
    filling_ = next_stage(filling_);
    __pipeline_commit();
  }

  __device__ __forceinline__ int next_stage(int stage) const { return stage + 1 == stages_ ? 0 : stage + 1; }
  __device__ __forceinline__ Packed* slot(int stage, int pack) const {
    return slots_ + stage * stage_slots_ + pack * static_cast<int>(blockDim.x * blockDim.y);
  }

  Packed* slots_;
  int stage_slots_, stages_;
  int filling_ = 0, current_ = 0, before_ = 0;
  int features_;
};

// |x^(n) - x^(0)| of one track, any magnitude; the same in every thread of the team.
template <class Ring, class Sum, class Acc>
__device__ __forceinline__ Length team_chord(const Ring& ring, const DeviceTracks& tracks, int64_t offset,
                                             Sum& team_sum, Acc* max_buffer) {
  using T = typename Ring::Value;
  const T* first = ring.own(reinterpret_cast<const T*>(tracks.row(0, offset)));
  const T* last = ring.own(reinterpret_cast<const T*>(tracks.row(tracks.view.steps(), offset)));
  Acc largest = 0;
  ring.for_owned([&](int, int64_t j) { largest = larger(largest, fabs(widen(last[j]) - widen(first[j]))); });
  largest = team_max(largest, max_buffer);
  Acc factor = 1;
  if (isinf(largest)) {  // the halves do not overflow
    factor = Acc(0.5), largest = 0;
    ring.for_owned([&](int, int64_t j) {
      largest = larger(largest, fabs(widen(last[j]) * factor - widen(first[j]) * factor));
    });
    largest = team_max(largest, max_buffer);
  }
  const bool finite = isfinite(largest);
  const int power = finite && largest > 0 ? ilogb(largest) : 0;  // of two: costs no rounding
  typename Sum::Values squares = {};
  ring.for_owned([&](int, int64_t j) {
    const Acc part = ldexp(widen(last[j]) * factor - widen(first[j]) * factor, -power);
    squares[0] += part * part;
  });
  team_sum(squares);
  const double root = sqrt(static_cast<double>(squares[0]));
  return finite ? Length::product(ldexp(1.0, power), root, 1 / static_cast<double>(factor)) : Length(NAN);
}

// (team, tracks per block): a warp per narrow track, else as many warps as the width needs.
template <class T, int kBytes>
dim3 team_of(int64_t features) {
  constexpr int64_t per_warp = kWarp * kOwned<T, kBytes>;
  const int64_t warps = (features + per_warp - 1) / per_warp;
  return warps <= 1 ? dim3(kWarp, kMaxTracksPerBlock) : dim3(static_cast<unsigned>(warps * kWarp), 1);
}
template <class T, int kBytes>
constexpr int64_t kWidestRow = static_cast<int64_t>(kMaxTeam) * kOwned<T, kBytes>;

template <class T, int kBytes>
size_t ring_bytes(dim3 team, int stages) {
  return static_cast<size_t>(team.x) * team.y * kOwned<T, kBytes> * sizeof(T) * stages;
}

// As many stages as the shared memory of the device holds, with `others` bytes beside them.
template <class T, int kBytes>
int stages_of(dim3 team, int device, size_t others = 0) {
  const size_t reserved = 2048 + others;  // for the sums of a team
  const size_t limit = device_limit(device, cudaDevAttrMaxSharedMemoryPerBlockOptin) - reserved;
  int stages = kMaxStages;
  while (stages > 2 && ring_bytes<T, kBytes>(team, stages) > limit) --stages;
  return stages;
}

inline DeviceTracks on_device(const TracksView& view) {
  DeviceTracks tracks;
  tracks.view = view;
  if (view.table != nullptr) {
    tracks.is_listed = 1;
    tracks.view.layer_stride = 0;
    for (int64_t layer = 0; layer < view.points; ++layer) tracks.listed[layer] = view.table[layer];
  }
  return tracks;
}

inline bool rows_on_16_bytes(const TracksView& view) {
  uintptr_t bits = static_cast<uintptr_t>(view.features * bytes_of(view.dtype));
  for (int axis = 0; axis < view.batch_dims; ++axis) bits |= static_cast<uintptr_t>(view.batch_stride[axis]);
  if (view.table == nullptr) bits |= reinterpret_cast<uintptr_t>(view.base) | view.layer_stride;
  for (int64_t layer = 0; view.table != nullptr && layer < view.points; ++layer) {
    bits |= reinterpret_cast<uintptr_t>(view.table[layer]);
  }
  return bits % 16 == 0;
}

template <class Call>
void with_dtype(DType dtype, const Call& call) {
  switch (dtype) {
    case DType::kFloat16:
      return call(__half{});
    case DType::kBFloat16:
      return call(__nv_bfloat16{});
    case DType::kFloat32:
      return call(float{});
    case DType::kFloat64:
      return call(double{});
  }
}

}  // namespace cuda
}  // namespace geodesic_fast
