// SPDX-License-Identifier: MIT
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "kernels.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

using F = Vector<float>;
constexpr int64_t kLane = kLanes<float>;
constexpr int64_t kGroup = kRowParts;  // columns tested together
constexpr float kLowest = -3.0e38f;
typedef int32_t I32 __attribute__((vector_size(kVectorBytes)));

GEODESIC_FAST_INLINE F load(const float* from) { return load_unaligned<F>(from); }

GEODESIC_FAST_INLINE F value_at(const float* s, const ListArgs& args, float p, int64_t j) {
  return (load(s + j) - load(args.b + j)) + load(args.q + j) * p;
}

GEODESIC_FAST_INLINE float scalar_at(const float* s, const ListArgs& args, float p, int64_t j) {
  return (s[j] - args.b[j]) + args.q[j] * p;
}

// The maximum of each of 64 parts of the row: columns j with equal j mod 64.
void part_maxima(const float* s, const ListArgs& args, float p, int64_t cols, float* part) {
  for (int k = 0; k < kRowParts; ++k) part[k] = kLowest;
  int64_t j = 0;
  F top[kGroup / kLane];
  for (F& lane : top) lane = broadcast(kLowest);
  for (; j + kGroup <= cols; j += kGroup) {
    for (int64_t k = 0; k < kGroup / kLane; ++k) {
      const F value = value_at(s, args, p, j + k * kLane);
      top[k] = value > top[k] ? value : top[k];
    }
  }
  std::memcpy(part, top, sizeof(top));
  for (; j < cols; ++j) {
    const float value = scalar_at(s, args, p, j);
    part[j % kGroup] = value > part[j % kGroup] ? value : part[j % kGroup];
  }
}

// A bit for each lane in which a comparison holds.
GEODESIC_FAST_INLINE uint64_t lanes_of(I32 mask) {
#if defined(__AVX512DQ__)
  return _mm512_movepi32_mask(bit_copy<__m512i>(mask));
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps(bit_copy<__m256>(mask)));
#else
  uint64_t lanes = 0;
  for (int64_t k = 0; k < kLane; ++k) lanes |= static_cast<uint64_t>(mask[k] & 1) << k;
  return lanes;
#endif
}

// Which of a group of columns satisfy `holds(k)`, a comparison of the vector k of them.
template <class Holds>
GEODESIC_FAST_INLINE uint64_t columns_where(const Holds& holds) {
  uint64_t columns = 0;
  for (int64_t k = 0; k < kGroup / kLane; ++k) columns |= lanes_of(holds(k)) << (k * kLane);
  return columns;
}

// Floats as whole numbers of the same order.
GEODESIC_FAST_INLINE I32 in_order(F v) {
  const I32 bits = bit_copy<I32>(v);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

// The k-th largest of the parts: the largest number that k of them reach, found bit by bit.
float kth_largest(const float* part, int k) {
  I32 order[kGroup / kLane];
  for (int64_t at = 0; at < kGroup / kLane; ++at) order[at] = in_order(load(part + at * kLane));
  int32_t found = INT32_MIN;
  for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
    const int32_t higher = static_cast<int32_t>(static_cast<uint32_t>(found) ^ bit);
    if (__builtin_popcountll(columns_where([&](int64_t at) { return order[at] >= higher; })) >= k)
      found = higher;
  }
  return bit_copy<float>(found ^ ((found >> 31) & 0x7fffffff));
}

int64_t list_row(const float* s, const ListArgs& args, float p, float threshold, int64_t cols,
                 int32_t* found) {
  int64_t count = 0, j = 0;
  for (; j + kGroup <= cols; j += kGroup) {
    uint64_t near =
        columns_where([&](int64_t k) { return value_at(s, args, p, j + k * kLane) >= threshold; });
    for (; near != 0; near &= near - 1) found[count++] = static_cast<int32_t>(j + __builtin_ctzll(near));
  }
  for (; j < cols; ++j) {
    found[count] = static_cast<int32_t>(j);
    count += scalar_at(s, args, p, j) >= threshold;
  }
  return count;
}

}  // namespace

// Memory: reads S once; a row is read again from cache. Work: two additions and a comparison a pair, twice.
// Numbers: float32; the caller's p and q carry the bound on its rounding. Bound: memory.
void ots_list(const ListArgs& args, const Place& place) {
  const ProductTile& tile = args.tile;
  Scratch scratch(place.threads, (tile.cols + 1) * static_cast<int64_t>(sizeof(int32_t)));
  parallel_for(tile.rows, 16, place.threads, [&](int64_t begin, int64_t end, int thread) {
    int32_t* found = reinterpret_cast<int32_t*>(scratch.part(thread));
    for (int64_t i = begin; i < end; ++i) {
      const float *s = tile.product + i * tile.stride, p = args.p[i], low = args.low[i];
      float part[kRowParts];
      part_maxima(s, args, p, tile.cols, part);
      float best = part[0];
      for (float value : part) best = value > best ? value : best;
      const float above = best > low ? low + args.theta * (best - low) : low;
      const float threshold = args.keep > 0 ? kth_largest(part, args.keep) : above;
      int64_t count = best < threshold ? 0 : list_row(s, args, p, threshold, tile.cols, found);
      if (args.limit > 0 && count > args.limit) {
        // Ties: rows alike would all list the same columns, so each starts at its own.
        const int64_t first = (i * args.limit) % (count - args.limit + 1);
        std::memmove(found, found + first, args.limit * sizeof(int32_t));
        count = args.limit;
      }
      const int64_t start = __atomic_fetch_add(args.used, count, __ATOMIC_RELAXED);
      args.best[i] = best;
      args.start[i] = start;
      args.count[i] = count;
      if (start + count <= args.capacity) std::memcpy(args.columns + start, found, count * sizeof(int32_t));
    }
  });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
