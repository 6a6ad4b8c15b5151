// SPDX-License-Identifier: MIT
// The instructions of the tensor cores and what feeds them, one name each.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>

#include <cstdint>

namespace geodesic_fast {
namespace cuda {

// 16 rows by 16 features as a left factor: each register holds two neighbouring features. Registers 0 and 2
// are rows 0..7 as a right factor of 8 columns, registers 1 and 3 rows 8..15.
using Fragment = uint32_t[4];

__device__ __forceinline__ unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Rows of 8 features each, of which lane i gives the address of row i: rows 0..7 and 8..15 of features 0..7,
// then the same of features 8..15.
__device__ __forceinline__ void load_fragment(Fragment& to, unsigned row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}

// sums <- left right^T + plus, for 16 rows and 8 columns. The sum is truncated, not rounded: long sums belong
// elsewhere.
__device__ __forceinline__ void multiply(__nv_bfloat16, float (&sums)[4], const Fragment& left, uint32_t low,
                                         uint32_t high, const float (&plus)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(low), "r"(high), "f"(plus[0]),
        "f"(plus[1]), "f"(plus[2]), "f"(plus[3]));
}
__device__ __forceinline__ void multiply(__half, float (&sums)[4], const Fragment& left, uint32_t low,
                                         uint32_t high, const float (&plus)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(low), "r"(high), "f"(plus[0]),
        "f"(plus[1]), "f"(plus[2]), "f"(plus[3]));
}

// Two values of type T in one register.
template <class T>
struct Pair16;
template <>
struct Pair16<__half> {
  __half2 value;
  __device__ __forceinline__ explicit Pair16(uint32_t bits) { memcpy(&value, &bits, sizeof(bits)); }
};
template <>
struct Pair16<__nv_bfloat16> {
  __nv_bfloat162 value;
  __device__ __forceinline__ explicit Pair16(uint32_t bits) { memcpy(&value, &bits, sizeof(bits)); }
};

template <class T>
__device__ __forceinline__ uint32_t add_pairs(uint32_t a, uint32_t b) {
  const auto sum = __hadd2(Pair16<T>(a).value, Pair16<T>(b).value);
  uint32_t bits;
  memcpy(&bits, &sum, sizeof(bits));
  return bits;
}
template <class T>
__device__ __forceinline__ uint32_t subtract_pairs(uint32_t a, uint32_t b) {
  const auto difference = __hsub2(Pair16<T>(a).value, Pair16<T>(b).value);
  uint32_t bits;
  memcpy(&bits, &difference, sizeof(bits));
  return bits;
}

// high + low = a - b exactly, both of type T: the rounding error of a sum has a place in its own type
// (Knuth).
template <class T>
__device__ __forceinline__ void exact_difference(uint32_t a, uint32_t b, uint32_t& high, uint32_t& low) {
  high = subtract_pairs<T>(a, b);
  const uint32_t minus_b = subtract_pairs<T>(high, a);
  low = subtract_pairs<T>(subtract_pairs<T>(a, subtract_pairs<T>(high, minus_b)), add_pairs<T>(b, minus_b));
}

// Starts a copy of 16 bytes to shared memory, of zeros where `inside` is false.
__device__ __forceinline__ void fetch_16_bytes(void* to, const void* from, bool inside) {
  __pipeline_memcpy_async(to, from, 16, inside ? 0 : 16);
}

}  // namespace cuda
}  // namespace geodesic_fast
