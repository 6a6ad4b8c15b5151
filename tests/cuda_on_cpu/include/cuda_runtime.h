// SPDX-License-Identifier: MIT
// Stands in for the header of CUDA's name, so that g++ compiles kernels that translate.py has been over.
#pragma once

#include <math.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "block.h"

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// One block runs at a time, so what it shares may be static. The section lets the scheduler poison all of it;
// the address sanitizer puts its margins around plain variables only.
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ static __attribute__((section("cuda_shared")))
#endif

#define CUDA_ON_CPU_SITE \
  cuda_on_cpu::Site { __FILE__, __LINE__ }
#define __syncthreads() cuda_on_cpu::block_barrier(CUDA_ON_CPU_SITE)
#define __syncthreads_or(value) cuda_on_cpu::block_barrier_or(CUDA_ON_CPU_SITE, (value) != 0)
#define __syncwarp() cuda_on_cpu::warp_barrier(CUDA_ON_CPU_SITE, 0xffffffffu)
#define __shfl_xor_sync(mask, ...) cuda_on_cpu::shuffle_xor(CUDA_ON_CPU_SITE, mask, __VA_ARGS__)
#define __shfl_sync(mask, ...) cuda_on_cpu::shuffle_from(CUDA_ON_CPU_SITE, mask, __VA_ARGS__)
#define __ballot_sync(mask, value) cuda_on_cpu::ballot(CUDA_ON_CPU_SITE, mask, (value) != 0)

namespace cuda_on_cpu {

void work_of_shuffle_xor(const uint64_t (*in)[kWords], uint64_t (*out)[kWords], int lanes);
void work_of_shuffle_from(const uint64_t (*in)[kWords], uint64_t (*out)[kWords], int lane);
void work_of_ballot(const uint64_t (*in)[kWords], uint64_t (*out)[kWords], int);

template <class Value>
Value shuffle_xor(Site site, unsigned mask, Value value, int lanes) {
  Value other;
  warp_together(site, mask, work_of_shuffle_xor, lanes, &value, sizeof(Value), &other, sizeof(Value));
  return other;
}
template <class Value>
Value shuffle_from(Site site, unsigned mask, Value value, int lane) {
  Value other;
  warp_together(site, mask, work_of_shuffle_from, lane, &value, sizeof(Value), &other, sizeof(Value));
  return other;
}
inline unsigned ballot(Site site, unsigned mask, bool value) {
  const uint64_t mine = value;
  uint64_t all;
  warp_together(site, mask, work_of_ballot, 0, &mine, sizeof(mine), &all, sizeof(all));
  return static_cast<unsigned>(all);
}

// Atomics without any order, as on the device; `keep` says of an old value and an operand what stays.
template <class Value, class Keep>
Value change(Value* at, const Keep& keep) {
  Value old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(at, &old, keep(old), true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

// The most blocks along x that a launch of the project may have; CUDA_ON_CPU_BLOCKS.
int64_t max_blocks();

// Products that no compiler joins with the addition behind them.
float rounded_product(float a, float b);
double rounded_product(double a, double b);

template <class To, class From>
To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

}  // namespace cuda_on_cpu

template <class Value>
Value atomicMax(Value* at, Value value) {
  return cuda_on_cpu::change(at, [&](Value old) { return old > value ? old : value; });
}
template <class Value>
Value atomicMin(Value* at, Value value) {
  return cuda_on_cpu::change(at, [&](Value old) { return old < value ? old : value; });
}
inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline float atomicAdd(float* at, float value) {
  const auto add = [&](uint32_t old) {
    return cuda_on_cpu::same_bits<uint32_t>(cuda_on_cpu::same_bits<float>(old) + value);
  };
  return cuda_on_cpu::same_bits<float>(cuda_on_cpu::change(reinterpret_cast<uint32_t*>(at), add));
}

inline float __fmul_rn(float a, float b) { return cuda_on_cpu::rounded_product(a, b); }
inline double __dmul_rn(double a, double b) { return cuda_on_cpu::rounded_product(a, b); }
inline float __expf(float x) { return expf(x); }
inline int __float_as_int(float x) { return cuda_on_cpu::same_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return cuda_on_cpu::same_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return cuda_on_cpu::same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_on_cpu::same_bits<long long>(x); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline size_t __cvta_generic_to_shared(const void* pointer) {
  return cuda_on_cpu::shared_address_of(pointer);
}

// The host's side.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaFuncAttributes {
  size_t
      sharedSizeBytes;  // what is not dynamic: not known here, so a launch's is judged with what was compiled
};
using cudaStream_t = struct Stream*;

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
