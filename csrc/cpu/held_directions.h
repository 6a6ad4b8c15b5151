// SPDX-License-Identifier: MIT
// Rows along the last direction, held between two layers: 24 bits of fixed point in two planes, or doubles.
#pragma once

#include "track_accumulator.h"
#include "track_rows.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {

template <class Acc>
GEODESIC_FAST_INLINE void store_row(Acc* row, int64_t j, Vector<Acc> v, int64_t count) {
  count == kLanes<Acc> ? SameType<Acc>::store(row + j, v) : store_tail(row + j, v, count);
}

template <class V, class Part>
GEODESIC_FAST_INLINE V load_plane(const Part* from, int64_t count) {
  V plane = {};
  std::memcpy(&plane, from, count * sizeof(Part));
  return plane;
}

typedef int32_t I32 __attribute__((vector_size(kVectorBytes)));
typedef uint8_t U8 __attribute__((vector_size(kVectorBytes / 4)));

// 24 bits as the upper part of a word, from and to planes of 16 and 8; in steps of one width to the next,
// which is what compilers turn into single instructions.
GEODESIC_FAST_INLINE U32 join_planes(U16 high, U8 low) {
#if defined(__AVX512F__)
  const __m512i upper = _mm512_maskz_cvtepu16_epi32(0xffff, bit_copy<__m256i>(high));
  const __m512i lower = _mm512_maskz_cvtepu8_epi32(0xffff, bit_copy<__m128i>(low));
  return (bit_copy<U32>(upper) << 16) | (bit_copy<U32>(lower) << 8);
#else
  const U16 lower = __builtin_convertvector(low, U16) << 8;
  return (__builtin_convertvector(high, U32) << 16) | __builtin_convertvector(lower, U32);
#endif
}
GEODESIC_FAST_INLINE U16 high_plane(U32 bits) {
#if defined(__AVX512F__)
  return bit_copy<U16>(_mm512_maskz_cvtepi32_epi16(0xffff, bit_copy<__m512i>(bits >> 16)));
#else
  return __builtin_convertvector(bits >> 16, U16);
#endif
}
GEODESIC_FAST_INLINE U8 low_plane(U32 bits) {
#if defined(__AVX512F__)
  return bit_copy<U8>(_mm512_maskz_cvtepi32_epi8(0xffff, bit_copy<__m512i>(bits >> 8)));
#else
  return __builtin_convertvector(__builtin_convertvector((bits >> 8) & 255u, U16), U8);
#endif
}

// store() takes a row whose largest feature is kLargest and returns what load() will give.
template <class Acc>
struct HeldDirection;

template <>
struct HeldDirection<float> {
  static constexpr float kLargest = (1 << 23) - 4;  // 24 bits, with room for the rounding of the scale
  uint16_t* high;
  uint8_t* low;

  HeldDirection(const Accumulator& args, int64_t track)
      : high(static_cast<uint16_t*>(args.direction) + track * args.tracks.features),
        low(args.direction_low + track * args.tracks.features) {}

  GEODESIC_FAST_INLINE Vector<float> load(int64_t j, int64_t count) const {
    const bool whole = count == kLanes<float>;
    const U16 upper = whole ? load_unaligned<U16>(high + j) : load_plane<U16>(high + j, count);
    const U8 lower = whole ? load_unaligned<U8>(low + j) : load_plane<U8>(low + j, count);
    return read(join_planes(upper, lower));
  }

  GEODESIC_FAST_INLINE Vector<float> store(int64_t j, Vector<float> scaled, int64_t count) const {
    const U32 sign = bit_copy<U32>(scaled) & 0x80000000u;
    const Vector<float> half = bit_copy<Vector<float>>(sign | bit_copy<U32>(broadcast(0.5f)));
    const U32 bits = bit_copy<U32>(__builtin_convertvector(scaled + half, I32)) << 8;
    const U16 upper = high_plane(bits);
    const U8 lower = low_plane(bits);
    if (count == kLanes<float>) {  // sizes known to the compiler
      std::memcpy(high + j, &upper, sizeof(upper));
      std::memcpy(low + j, &lower, sizeof(lower));
    } else {
      std::memcpy(high + j, &upper, count * sizeof(uint16_t));
      std::memcpy(low + j, &lower, count);
    }
    return read(bits);
  }

 private:
  // The 24 bits in the upper part of a word: 256 units to one of store()'s, and the sign in its place.
  static GEODESIC_FAST_INLINE Vector<float> read(U32 bits) {
    return __builtin_convertvector(bit_copy<I32>(bits), Vector<float>);
  }
};

template <>
struct HeldDirection<double> {
  static constexpr double kLargest = 1;
  double* row;

  HeldDirection(const Accumulator& args, int64_t track)
      : row(static_cast<double*>(args.direction) + track * args.tracks.features) {}

  GEODESIC_FAST_INLINE Vector<double> load(int64_t j, int64_t count) const { return load_row(row, j, count); }
  GEODESIC_FAST_INLINE Vector<double> store(int64_t j, Vector<double> scaled, int64_t count) const {
    store_row(row, j, scaled, count);
    return scaled;
  }
};

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
