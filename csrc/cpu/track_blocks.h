// SPDX-License-Identifier: MIT
// How tracks are cut into blocks that stay in the cache, and handed to threads.
#pragma once

#include "parallel.h"
#include "simd.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {

constexpr int64_t kBlockBytes = 256 << 10;  // per thread, below a second-level cache
constexpr int64_t kChunkBytes = 1 << 20;    // work worth handing to a thread
constexpr int64_t kMaxBlock = 256;

template <class T>
GEODESIC_FAST_INLINE T* row_of(const TracksView& tracks, int64_t layer, int64_t offset) {
  char* start = tracks.table != nullptr ? tracks.table[layer] : tracks.base + layer * tracks.layer_stride;
  return reinterpret_cast<T*>(start + offset);
}

template <class Call>
static inline void with_dtype(DType dtype, const Call& call) {
  switch (dtype) {
    case DType::kFloat16:
      return call(Half{});
    case DType::kBFloat16:
      return call(BFloat16{});
    case DType::kFloat32:
      return call(float{});
    case DType::kFloat64:
      return call(double{});
  }
}

// Tracks whose points lie far apart (layer-major) are walked a block at a time, so that memory is read in
// long runs; tracks that lie in one piece are walked one by one.
GEODESIC_FAST_INLINE int64_t block_of(const TracksView& tracks, int64_t bytes_per_track) {
  if (tracks.batch_dims == 0) return 1;
  const int64_t along = tracks.layer_stride < 0 ? -tracks.layer_stride : tracks.layer_stride;
  const int64_t across = tracks.batch_stride[tracks.batch_dims - 1];
  if (tracks.table == nullptr && along <= (across < 0 ? -across : across)) return 1;
  const int64_t fitting = kBlockBytes / (bytes_per_track + 1);
  return fitting < 1 ? 1 : fitting > kMaxBlock ? kMaxBlock : fitting;
}

// How many tracks make work worth handing to a thread.
GEODESIC_FAST_INLINE int64_t chunk_of(const TracksView& tracks) {
  const int64_t track_bytes = tracks.points * tracks.features * bytes_of(tracks.dtype);
  return kChunkBytes / track_bytes + 1;
}

// Runs Pass over all tracks. Pass gives bytes_per_track(args), scratch_bytes(args, block) and run(begin,
// end).
template <class Pass, class Args>
static inline void run_blocks(const Args& args, const TracksView& tracks, int threads) {
  const int64_t block = block_of(tracks, Pass::bytes_per_track(args));
  const int64_t chunk = (chunk_of(tracks) + block - 1) / block * block;
  threads = useful_threads((tracks.tracks + chunk - 1) / chunk, threads);
  const Scratch scratch(threads, Pass::scratch_bytes(args, block));
  parallel_for(tracks.tracks, chunk, threads, [&](int64_t begin, int64_t end, int thread) {
    Pass pass(args, scratch.part(thread), block);
    for (int64_t at = begin; at < end; at += block) pass.run(at, at + block < end ? at + block : end);
  });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
