// SPDX-License-Identifier: MIT
// What a kernel is handed: the addresses, dtype, shape and strides of m tracks of n+1 points in d features.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define GEODESIC_FAST_INLINE __host__ __device__ __forceinline__
#else
// Always inlined, so that no copy compiled for one instruction set is linked into another.
#define GEODESIC_FAST_INLINE inline __attribute__((always_inline))
#endif
// Small loops over arrays that are to live in registers.
#ifdef __CUDA_ARCH__
#define GEODESIC_FAST_UNROLL _Pragma("unroll")
#else
#define GEODESIC_FAST_UNROLL
#endif

namespace geodesic_fast {

enum class DType : int { kFloat16 = 0, kBFloat16 = 1, kFloat32 = 2, kFloat64 = 3 };
enum class ZeroStep : int { kSkip = 0, kKeep = 1, kPropagate = 2 };

constexpr int kMaxBatchDims = 4;
constexpr int kMaxListedLayers = 1024;

GEODESIC_FAST_INLINE int64_t bytes_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// Of what sums and scores of tracks are held in.
GEODESIC_FAST_INLINE int64_t sum_bytes_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

// (n+1, *batch, d), features contiguous. Layers lie at `base + l * layer_stride` bytes, or, where `table`
// is set, each at its own address. Gradients are written through a view of the same kind.
struct TracksView {
  char* base = nullptr;
  char* const* table = nullptr;
  int64_t layer_stride = 0;  // bytes
  int64_t points = 0;        // n+1
  int64_t tracks = 0;        // m, the product of batch_size
  int64_t features = 0;      // d
  int batch_dims = 0;
  int64_t batch_size[kMaxBatchDims] = {};
  int64_t batch_stride[kMaxBatchDims] = {};  // bytes, the last axis varies fastest
  DType dtype = DType::kFloat32;

  GEODESIC_FAST_INLINE int64_t steps() const { return points - 1; }

  // Where a track starts within each layer, in bytes.
  GEODESIC_FAST_INLINE int64_t offset(int64_t track) const {
    int64_t bytes = 0;
    GEODESIC_FAST_UNROLL
    for (int axis = kMaxBatchDims - 1; axis >= 0; --axis) {
      if (axis >= batch_dims) continue;
      bytes += track % batch_size[axis] * batch_stride[axis];
      track /= batch_size[axis];
    }
    return bytes;
  }
};

}  // namespace geodesic_fast
