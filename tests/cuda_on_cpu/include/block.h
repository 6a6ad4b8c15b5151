// SPDX-License-Identifier: MIT
// What the threads of a kernel see of the block they run in, and how they wait for each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Of the thread that runs now: the scheduler writes them whenever it turns to another one.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuda_on_cpu {

constexpr int kWarpSize = 32;
constexpr int kWords = 8;  // of 8 bytes each: the most a lane hands to a warp-wide instruction

// Where in the sources a thread waits. Threads that wait together must wait at the same place.
struct Site {
  const char* file;
  int line;
};

void block_barrier(Site site);
bool block_barrier_or(Site site, bool value);
void warp_barrier(Site site, unsigned mask);

// A warp-wide instruction: the last lane to come does the work of all from what each has handed in.
using WarpWork = void (*)(const uint64_t (*in)[kWords], uint64_t (*out)[kWords], int argument);
void warp_together(Site site, unsigned mask, WarpWork work, int argument, const void* in, size_t in_bytes,
                   void* out, size_t out_bytes);

// Copies to shared memory that land only when they are waited for.
void start_copy(Site site, void* to, const void* from, size_t bytes, size_t zeros);
void end_copy_group();
void wait_for_copies(size_t groups_left);

char* dynamic_shared(size_t alignment);
unsigned shared_address_of(const void* pointer);
char* at_shared_address(unsigned address, size_t bytes, Site site);

// Ends the launch with this message; does not return.
[[noreturn]] void fail(const std::string& message, Site site);

using Call = void (*)(const void* closure);
void run_grid(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, Call call, const void* closure);

template <class Closure>
void launch(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, const void*,
            const Closure& closure) {
  run_grid(
      kernel, grid, block, shared_bytes, [](const void* c) { (*static_cast<const Closure*>(c))(); },
      &closure);
}

}  // namespace cuda_on_cpu
