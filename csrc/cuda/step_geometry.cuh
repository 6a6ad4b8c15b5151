// SPDX-License-Identifier: MIT
// step_geometry: how its kernels walk along a track.
#pragma once

#include "step_geometry.h"
#include "track_ring.cuh"

namespace geodesic_fast {
namespace cuda {
namespace step_kernels {

constexpr int kThreads = 256;          // on one track, but for narrow ones
constexpr int kNarrowFeatures = 2048;  // up to these a warp has a track to itself
constexpr int kTracksPerBlock = 8;

template <class T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kWidth>*>(from);
}

// One track, and the features of it that a thread walks, `kWidth` at a time.
template <class T, bool kAligned>
struct Walk {
  using Acc = typename AccOf<T>::type;
  static constexpr int kWidth = kPack<T, kAligned>;
  using Packed = Pack<T, kWidth>;
  const DeviceTracks& tracks;
  int64_t offset;

  __device__ __forceinline__ const T* point(int64_t layer) const {
    return reinterpret_cast<const T*>(tracks.row(layer, offset));
  }
  template <class Body>
  __device__ __forceinline__ void for_packs(const Body& body) const {
    const int64_t stride = static_cast<int64_t>(blockDim.x) * kWidth;
    for (int64_t j = static_cast<int64_t>(threadIdx.x) * kWidth; j < tracks.view.features; j += stride)
      body(j);
  }
};

// A warp per narrow track, else a block.
inline dim3 team_of(int64_t features) {
  return features <= kNarrowFeatures ? dim3(kWarp, kTracksPerBlock) : dim3(kThreads);
}

}  // namespace step_kernels
}  // namespace cuda
}  // namespace geodesic_fast
