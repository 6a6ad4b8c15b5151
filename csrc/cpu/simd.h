// SPDX-License-Identifier: MIT
// Vectors of the accumulation type, as wide as the instruction set, with loads and stores that widen and
// narrow 16-bit floats in registers. Compiled once per instruction set, hence the namespace.
#pragma once

#include <cstdint>
#include <cstring>

#include "tracks_view.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_FMA) && defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};

template <class Acc>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
};
template <class Acc>
using Vector = typename VectorOf<Acc>::type;
template <class Acc>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Acc));

typedef uint16_t U16 __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t U32 __attribute__((vector_size(kVectorBytes)));

template <class To, class From>
GEODESIC_FAST_INLINE To bit_copy(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "a bit copy keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <class V>
GEODESIC_FAST_INLINE V load_unaligned(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

GEODESIC_FAST_INLINE float widen(Half h) {
  const uint32_t sign = (h.bits & 0x8000u) << 16, rest = h.bits & 0x7fffu;
  // Shifted into place a half is too small by 2^112; the product restores it, subnormals too.
  const float finite = bit_copy<float>(rest << 13) * 0x1p112f;
  const uint32_t magnitude = rest >= 0x7c00u ? (rest << 13) | 0x7f800000u : bit_copy<uint32_t>(finite);
  return bit_copy<float>(sign | magnitude);
}

GEODESIC_FAST_INLINE float widen(BFloat16 b) { return bit_copy<float>(static_cast<uint32_t>(b.bits) << 16); }
GEODESIC_FAST_INLINE float widen(float f) { return f; }
GEODESIC_FAST_INLINE double widen(double d) { return d; }

GEODESIC_FAST_INLINE Half narrow_half(float f) {
  const uint32_t bits = bit_copy<uint32_t>(f), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};   // NaN
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds to infinity
  if (magnitude < 0x38800000u) {                                                 // subnormal half
    const float shifted = bit_copy<float>(magnitude) + 0.5f;                     // rounds at 2^-24
    return {static_cast<uint16_t>(sign | (bit_copy<uint32_t>(shifted) - 0x3f000000u))};
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return {static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13))};
}

// Memory holds T, registers hold AccOf<T>.
template <class T>
struct Memory;

template <class T>
struct SameType {
  using Acc = T;
  static GEODESIC_FAST_INLINE Vector<T> load(const T* from) { return load_unaligned<Vector<T>>(from); }
  static GEODESIC_FAST_INLINE void store(T* to, Vector<T> v) { std::memcpy(to, &v, sizeof(v)); }
  static GEODESIC_FAST_INLINE void stream(T* to, Vector<T> v) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), bit_copy<__m512i>(v));
#elif defined(__AVX2__)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), bit_copy<__m256i>(v));
#else
    store(to, v);
#endif
  }
};
template <>
struct Memory<float> : SameType<float> {};
template <>
struct Memory<double> : SameType<double> {};

GEODESIC_FAST_INLINE void stream_half_vector(void* to, U16 v) {
#if defined(__AVX512F__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), bit_copy<__m256i>(v));
#elif defined(__AVX2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), bit_copy<__m128i>(v));
#else
  std::memcpy(to, &v, sizeof(v));
#endif
}

template <>
struct Memory<BFloat16> {
  using Acc = float;
  static GEODESIC_FAST_INLINE Vector<float> load(const BFloat16* from) {
    const U32 wide = __builtin_convertvector(load_unaligned<U16>(from), U32);
    return bit_copy<Vector<float>>(wide << 16);
  }
  static GEODESIC_FAST_INLINE U16 narrow(Vector<float> v) {
    const U32 bits = bit_copy<U32>(v);
    const U32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const U32 nan = bit_copy<U32>(v != v);
    return __builtin_convertvector((nan & 0x7fc0u) | (~nan & rounded), U16);
  }
  static GEODESIC_FAST_INLINE void store(BFloat16* to, Vector<float> v) {
    const U16 bits = narrow(v);
    std::memcpy(to, &bits, sizeof(bits));
  }
  static GEODESIC_FAST_INLINE void stream(BFloat16* to, Vector<float> v) {
    stream_half_vector(to, narrow(v));
  }
};

template <>
struct Memory<Half> {
  using Acc = float;
  static GEODESIC_FAST_INLINE Vector<float> load(const Half* from) {
#if defined(__AVX512F__)
    return bit_copy<Vector<float>>(_mm512_maskz_cvtph_ps(0xffff, load_unaligned<__m256i>(from)));
#elif defined(__AVX2__)
    return bit_copy<Vector<float>>(_mm256_cvtph_ps(load_unaligned<__m128i>(from)));
#else
    Vector<float> v;
    for (int lane = 0; lane < kLanes<float>; ++lane) v[lane] = widen(from[lane]);
    return v;
#endif
  }
  static GEODESIC_FAST_INLINE U16 narrow(Vector<float> v) {
#if defined(__AVX512F__)
    return bit_copy<U16>(_mm512_maskz_cvtps_ph(0xffff, bit_copy<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
    return bit_copy<U16>(_mm256_cvtps_ph(bit_copy<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
#else
    U16 bits;
    for (int lane = 0; lane < kLanes<float>; ++lane) bits[lane] = narrow_half(v[lane]).bits;
    return bits;
#endif
  }
  static GEODESIC_FAST_INLINE void store(Half* to, Vector<float> v) {
    const U16 bits = narrow(v);
    std::memcpy(to, &bits, sizeof(bits));
  }
  static GEODESIC_FAST_INLINE void stream(Half* to, Vector<float> v) { stream_half_vector(to, narrow(v)); }
};

// The last `count` < lanes values; the lanes behind them are zero, which adds nothing to any sum here.
template <class T>
GEODESIC_FAST_INLINE Vector<typename AccOf<T>::type> load_tail(const T* from, int64_t count) {
  T padded[kLanes<typename AccOf<T>::type>] = {};
  std::memcpy(padded, from, count * sizeof(T));
  return Memory<T>::load(padded);
}

template <class T>
GEODESIC_FAST_INLINE void store_tail(T* to, Vector<typename AccOf<T>::type> v, int64_t count) {
  T padded[kLanes<typename AccOf<T>::type>];
  Memory<T>::store(padded, v);
  std::memcpy(to, padded, count * sizeof(T));
}

// Streamed stores are ordered before what other threads read next.
GEODESIC_FAST_INLINE void store_fence() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// The sum of the lanes, in halves.
template <class Acc>
GEODESIC_FAST_INLINE Acc sum_lanes(Vector<Acc> v) {
  Acc lanes[kLanes<Acc>];
#if defined(__AVX512F__)
  typedef Acc Part __attribute__((vector_size(32)));
  Part parts[2];
  std::memcpy(parts, &v, sizeof(v));
  const Part half = parts[0] + parts[1];
#else
  const Vector<Acc> half = v;
#endif
  std::memcpy(lanes, &half, sizeof(half));
  for (int width = sizeof(half) / sizeof(Acc) / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

template <class Acc>
GEODESIC_FAST_INLINE Vector<Acc> broadcast(Acc value) {
  return value - Vector<Acc>{};  // x - 0 keeps every x, NaN and -0 too
}

// What was computed, rounded: no compiler fuses a product with the sum behind it.
template <class V>
GEODESIC_FAST_INLINE V rounded(V v) {
#if defined(__AVX512F__)
  __asm__("" : "+v"(v));
#elif defined(__x86_64__)
  __asm__("" : "+x"(v));
#elif defined(__aarch64__)
  __asm__("" : "+w"(v));
#endif
  return v;
}

// a b + c rounded once, for what relies on it: compilers fuse by themselves only where they optimise enough.
#if defined(__AVX2__) || (defined(__ARM_FEATURE_FMA) && defined(__ARM_NEON))
#define GEODESIC_FAST_FUSED 1
GEODESIC_FAST_INLINE Vector<float> fused(Vector<float> a, Vector<float> b, Vector<float> c) {
#if defined(__AVX512F__)
  return bit_copy<Vector<float>>(
      _mm512_fmadd_ps(bit_copy<__m512>(a), bit_copy<__m512>(b), bit_copy<__m512>(c)));
#elif defined(__AVX2__)
  return bit_copy<Vector<float>>(
      _mm256_fmadd_ps(bit_copy<__m256>(a), bit_copy<__m256>(b), bit_copy<__m256>(c)));
#else
  return bit_copy<Vector<float>>(
      vfmaq_f32(bit_copy<float32x4_t>(c), bit_copy<float32x4_t>(a), bit_copy<float32x4_t>(b)));
#endif
}
GEODESIC_FAST_INLINE Vector<double> fused(Vector<double> a, Vector<double> b, Vector<double> c) {
#if defined(__AVX512F__)
  return bit_copy<Vector<double>>(
      _mm512_fmadd_pd(bit_copy<__m512d>(a), bit_copy<__m512d>(b), bit_copy<__m512d>(c)));
#elif defined(__AVX2__)
  return bit_copy<Vector<double>>(
      _mm256_fmadd_pd(bit_copy<__m256d>(a), bit_copy<__m256d>(b), bit_copy<__m256d>(c)));
#else
  return bit_copy<Vector<double>>(
      vfmaq_f64(bit_copy<float64x2_t>(c), bit_copy<float64x2_t>(a), bit_copy<float64x2_t>(b)));
#endif
}
#endif

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
