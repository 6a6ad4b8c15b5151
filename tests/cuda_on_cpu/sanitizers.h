// SPDX-License-Identifier: MIT
// Tells the sanitizer that kernels are compiled with which stack is in use, which thread runs, and what
// orders threads: to a race detector each fiber is a thread of its own, and one block follows another.
#pragma once

#include <pthread.h>

#include <cstddef>
#include <cstring>

#ifdef CUDA_ON_CPU_ADDRESS
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CUDA_ON_CPU_THREAD
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_read_range(void* at, size_t bytes);
#endif

namespace cuda_on_cpu {

struct Fiber {
  const void* stack = nullptr;
  size_t bytes = 0;
  void* kept = nullptr;  // the sanitizer's own
};

#if defined(CUDA_ON_CPU_ADDRESS)
inline void make_fiber(Fiber& fiber, char* stack, size_t bytes) {
  __asan_unpoison_memory_region(stack, bytes);
  fiber = {stack, bytes, nullptr};
}
inline void make_scheduler(Fiber& fiber) {
  static thread_local Fiber mine;
  if (mine.stack == nullptr) {
    pthread_attr_t attributes;
    void* stack;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &stack, &mine.bytes);
    pthread_attr_destroy(&attributes);
    mine.stack = stack;
  }
  fiber = mine;
}
inline void leave_for(Fiber& to, Fiber& from) {
  __sanitizer_start_switch_fiber(&from.kept, to.stack, to.bytes);
}
inline void arrive_at(Fiber& fiber) { __sanitizer_finish_switch_fiber(fiber.kept, nullptr, nullptr); }
inline void poison(char* begin, char* end) {
  __asan_poison_memory_region(begin, static_cast<size_t>(end - begin));
}
inline void unpoison(char* begin, char* end) {
  __asan_unpoison_memory_region(begin, static_cast<size_t>(end - begin));
}
#else
inline void poison(char*, char*) {}
inline void unpoison(char*, char*) {}
#endif

#if defined(CUDA_ON_CPU_THREAD)
inline void make_fiber(Fiber& fiber, char*, size_t) { fiber.kept = __tsan_create_fiber(0); }
inline void make_scheduler(Fiber& fiber) { fiber.kept = __tsan_get_current_fiber(); }
inline void end_fiber(Fiber& fiber) { __tsan_destroy_fiber(fiber.kept); }
inline void leave_for(Fiber& to, Fiber&) { __tsan_switch_to_fiber(to.kept, __tsan_switch_to_fiber_no_sync); }
inline void arrive_at(Fiber&) {}
inline void release(void* meeting) { __tsan_release(meeting); }
inline void acquire(void* meeting) { __tsan_acquire(meeting); }
inline void read_seen(const void* at, size_t bytes) { __tsan_read_range(const_cast<void*>(at), bytes); }
#else
inline void end_fiber(Fiber&) {}
inline void release(void*) {}
inline void acquire(void*) {}
inline void read_seen(const void*, size_t) {}
#endif

#if !defined(CUDA_ON_CPU_ADDRESS) && !defined(CUDA_ON_CPU_THREAD)
inline void make_fiber(Fiber&, char*, size_t) {}
inline void make_scheduler(Fiber&) {}
inline void leave_for(Fiber&, Fiber&) {}
inline void arrive_at(Fiber&) {}
#endif

// The C library's functions, which sanitizers watch.
inline void write_seen(void* to, unsigned char value, size_t bytes) { memset(to, value, bytes); }
inline void copy_seen(void* to, const void* from, size_t bytes) { memcpy(to, from, bytes); }

}  // namespace cuda_on_cpu
