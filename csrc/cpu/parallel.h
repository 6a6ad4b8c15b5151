// SPDX-License-Identifier: MIT
// Threads over independent work items, and the scratch memory of each.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#include "tracks_view.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {

// One allocation, 64-byte aligned, cut into equal parts; its size never depends on the number of items.
class Scratch {
 public:
  Scratch(int64_t parts, int64_t bytes_each) : stride_((bytes_each + 63) / 64 * 64) {
    memory_ = std::aligned_alloc(64, static_cast<size_t>(parts * stride_ + 64));
    if (memory_ == nullptr) throw std::bad_alloc();
  }
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* part(int64_t index) const { return static_cast<char*>(memory_) + index * stride_; }

 private:
  int64_t stride_;
  void* memory_;
};

GEODESIC_FAST_INLINE int useful_threads(int64_t chunks, int threads) {
#ifdef _OPENMP
  return chunks < threads ? (chunks < 1 ? 1 : static_cast<int>(chunks)) : threads;
#else
  (void)chunks;
  (void)threads;
  return 1;
#endif
}

// Calls work(begin, end, thread) on pieces of [0, count) of `chunk` items. A piece goes to whichever thread
// is free, and no result depends on which.
template <class Work>
static inline void parallel_for(int64_t count, int64_t chunk, int threads, const Work& work) {
  const int64_t chunks = (count + chunk - 1) / chunk;
  threads = useful_threads(chunks, threads);
  if (threads <= 1) {
    for (int64_t begin = 0; begin < count; begin += chunk) {
      work(begin, begin + chunk < count ? begin + chunk : count, 0);
    }
    return;
  }
#ifdef _OPENMP
  int64_t next = 0;
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    for (;;) {
      const int64_t begin = __atomic_fetch_add(&next, chunk, __ATOMIC_RELAXED);
      if (begin >= count) break;
      work(begin, begin + chunk < count ? begin + chunk : count, thread);
    }
  }
#endif
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
