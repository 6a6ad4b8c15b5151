// SPDX-License-Identifier: MIT
// Products of the rows of a panel (n, columns): their Gram matrix, and mixtures of them. Tiles of results
// live in registers; the panel is read from the first- or second-level cache.
#pragma once

#include "simd.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileRows = 4;  // with kTileColumns: as many sums as 32 vector registers hold
#else
constexpr int kTileRows = 2;
#endif
constexpr int kTileColumns = 4;

GEODESIC_FAST_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

constexpr int64_t kBlockRows = 32;
constexpr int64_t kRun = 32;  // vectors added one after the other: short lanes err by the length of a run

// The sum of the lanes of each of four vectors.
template <class Acc>
GEODESIC_FAST_INLINE void sum_each(const Vector<Acc> (&v)[kTileColumns], Acc (&sums)[kTileColumns]) {
  for (int c = 0; c < kTileColumns; ++c) sums[c] = sum_lanes<Acc>(v[c]);
}
#if defined(__AVX512F__)
template <>
GEODESIC_FAST_INLINE void sum_each<float>(const Vector<float> (&v)[kTileColumns],
                                          float (&sums)[kTileColumns]) {
  const __m512 a = bit_copy<__m512>(v[0]), b = bit_copy<__m512>(v[1]);
  const __m512 c = bit_copy<__m512>(v[2]), d = bit_copy<__m512>(v[3]);
  const __m512 ab = _mm512_add_ps(_mm512_maskz_shuffle_f32x4(0xffff, a, b, 0x44),
                                  _mm512_maskz_shuffle_f32x4(0xffff, a, b, 0xee));
  const __m512 cd = _mm512_add_ps(_mm512_maskz_shuffle_f32x4(0xffff, c, d, 0x44),
                                  _mm512_maskz_shuffle_f32x4(0xffff, c, d, 0xee));
  __m512 all = _mm512_add_ps(_mm512_maskz_shuffle_f32x4(0xffff, ab, cd, 0x88),
                             _mm512_maskz_shuffle_f32x4(0xffff, ab, cd, 0xdd));
  all = _mm512_add_ps(all,
                      _mm512_maskz_permute_ps(0xffff, all, 0xb1));  // four lanes of a, four of b, of c, of d
  all = _mm512_add_ps(all, _mm512_maskz_permute_ps(0xffff, all, 0x4e));
  const __m512i firsts = _mm512_set_epi32(12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0);
  all = _mm512_maskz_permutexvar_ps(0xffff, firsts, all);
  std::memcpy(sums, &all, sizeof(sums));
}
#endif

template <class Acc, class Add>
GEODESIC_FAST_INLINE void gram_tile(const Acc* panel, int64_t rows, int64_t columns, int64_t k, int64_t end,
                                    int64_t l, const Add& add) {
  const Acc *left[kTileRows], *right[kTileColumns];  // a short last tile repeats its last row
  for (int r = 0; r < kTileRows; ++r) left[r] = panel + smaller(k + r, end - 1) * columns;
  for (int c = 0; c < kTileColumns; ++c) right[c] = panel + smaller(l + c, rows - 1) * columns;
  Vector<Acc> totals[kTileRows][kTileColumns] = {};
  for (int64_t run = 0; run < columns; run += kRun * kLanes<Acc>) {
    Vector<Acc> sums[kTileRows][kTileColumns] = {};
    const int64_t stop = smaller(run + kRun * kLanes<Acc>, columns);
    for (int64_t j = run; j < stop; j += kLanes<Acc>) {
      Vector<Acc> b[kTileColumns];
      for (int c = 0; c < kTileColumns; ++c) b[c] = SameType<Acc>::load(right[c] + j);
      for (int r = 0; r < kTileRows; ++r) {
        const Vector<Acc> a = SameType<Acc>::load(left[r] + j);
        for (int c = 0; c < kTileColumns; ++c) sums[r][c] += a * b[c];
      }
    }
    for (int r = 0; r < kTileRows; ++r) {
      for (int c = 0; c < kTileColumns; ++c) totals[r][c] += sums[r][c];
    }
  }
  for (int r = 0; r < kTileRows && k + r < end; ++r) {
    Acc products[kTileColumns];
    sum_each<Acc>(totals[r], products);
    add(k + r, l, products, static_cast<int>(smaller(kTileColumns, rows - l)));
  }
}

// add(k, l, products, count): <row k, row l..l+count> for rows k of begin..end and l <= k, and for some l > k
// on the way. A block of left rows stays in the second-level cache, four right rows in the first.
template <class Acc, class Add>
static inline void gram(const Acc* panel, int64_t rows, int64_t columns, int64_t begin, int64_t end,
                        const Add& add) {
  for (int64_t block = begin; block < end; block += kBlockRows) {
    const int64_t last = smaller(block + kBlockRows, end);
    for (int64_t l = 0; l < last; l += kTileColumns) {
      const int64_t first = l > block ? block + (l - block) / kTileRows * kTileRows : block;
      for (int64_t k = first; k < last; k += kTileRows) gram_tile(panel, rows, columns, k, last, l, add);
    }
  }
}

template <class Acc, int kVectors>
GEODESIC_FAST_INLINE void mix_tile(const Acc* weights, const Acc* panel, int64_t rows, int64_t columns,
                                   int64_t k, int64_t end, int64_t j, Acc* mixed) {
  Vector<Acc> sums[kTileRows][kVectors] = {};
  const Acc* weight[kTileRows];
  for (int r = 0; r < kTileRows; ++r) weight[r] = weights + smaller(k + r, end - 1) * rows;
  for (int64_t l = 0; l < rows; ++l) {
    Vector<Acc> b[kVectors];
    for (int c = 0; c < kVectors; ++c) b[c] = SameType<Acc>::load(panel + l * columns + j + c * kLanes<Acc>);
    for (int r = 0; r < kTileRows; ++r) {
      const Vector<Acc> w = broadcast(weight[r][l]);
      for (int c = 0; c < kVectors; ++c) sums[r][c] += w * b[c];
    }
  }
  for (int r = 0; r < kTileRows && k + r < end; ++r) {
    for (int c = 0; c < kVectors; ++c)
      SameType<Acc>::store(mixed + (k + r) * columns + j + c * kLanes<Acc>, sums[r][c]);
  }
}

// Rows begin..end of `mixed` = weights (rows, rows) times the panel.
template <class Acc>
static inline void mix(const Acc* weights, const Acc* panel, int64_t rows, int64_t columns, int64_t begin,
                       int64_t end, Acc* mixed) {
  constexpr int64_t wide = kTileColumns * kLanes<Acc>;
  for (int64_t k = begin; k < end; k += kTileRows) {
    int64_t j = 0;
    for (; j + wide <= columns; j += wide)
      mix_tile<Acc, kTileColumns>(weights, panel, rows, columns, k, end, j, mixed);
    for (; j < columns; j += kLanes<Acc>) mix_tile<Acc, 1>(weights, panel, rows, columns, k, end, j, mixed);
  }
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
