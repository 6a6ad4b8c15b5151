// SPDX-License-Identifier: MIT
// How the n x n pairs of steps are shared out, and what becomes of their products <v_k, v_l>: cosines, which
// are written, or added up over the tracks in a slab that belongs to one block of threads.
#pragma once

#include "line_deviation.h"
#include "track_ring.cuh"

namespace geodesic_fast {
namespace cuda {

// Steps are cut into blocks; each pair of blocks (row <= column) has `parts` thread blocks, which share the
// tracks among them.
struct GramPlan {
  bool tensor_cores = false;
  int block = 0;                  // steps of a block
  int64_t blocks = 1, parts = 1;  // blocks of a track; thread blocks on each pair of them

  GEODESIC_FAST_INLINE int64_t apart() const { return blocks * (blocks - 1) / 2; }
  GEODESIC_FAST_INLINE int64_t pairs() const { return blocks + apart(); }
  // Pairs (i, i) come first, then (0, 1), (0, 2), (1, 2), (0, 3), ...
  GEODESIC_FAST_INLINE int64_t pair_of(int64_t row, int64_t column) const {
    return row == column ? row : blocks + column * (column - 1) / 2 + row;
  }
};

struct GramWork {
  LineDeviation args;
  GramPlan plan;
  void* roots = nullptr;       // (m, n) Acc where there are several blocks: see StepScale
  double* sums = nullptr;      // (pairs, parts, block, block)
  int64_t* missing = nullptr;  // as sums: tracks in which one of the two steps has no direction
};

constexpr int kUnsafe = -1;  // root of a step whose square left the safe range

// <u_k, u_l> = product / (root_k root_l), the product being of steps divided by `divisor`.
template <class Acc>
struct StepScale {
  Acc root = 0;  // 0: a step of length zero; NaN: a broken one
  Acc divisor = 1;
  bool scaled = false, half = false;  // half: the difference overflows, that of the halves does not
};

template <class T, class Product, bool kApart>
struct PairOfBlocks {
  using Acc = typename AccOf<T>::type;
  using Scale = StepScale<Acc>;

  const DeviceTracks& tracks;
  const GramWork& work;
  Product* products;  // (rows, columns), `stride` apart, in shared memory
  int stride;
  Scale *row_scales, *column_scales;  // in shared memory; the same on a diagonal pair
  TeamSum<Acc, 2> team_sum;
  Acc* max_buffer;
  int row_block, column_block, part;

  __device__ __forceinline__ int first_row() const { return row_block * work.plan.block; }
  __device__ __forceinline__ int first_column() const { return column_block * work.plan.block; }
  __device__ __forceinline__ int count_from(int first) const {
    const int left = static_cast<int>(tracks.view.steps()) - first;
    return left < work.plan.block ? left : work.plan.block;
  }
  __device__ __forceinline__ int64_t slab() const {
    const int64_t entries = static_cast<int64_t>(work.plan.block) * work.plan.block;
    return (work.plan.pair_of(row_block, column_block) * work.plan.parts + part) * entries;
  }

  // Finds the pair that block `index` of the grid works on.
  __device__ __forceinline__ void choose(int index) {
    part = index % static_cast<int>(work.plan.parts);
    int pair = index / static_cast<int>(work.plan.parts);
    row_block = column_block = pair;
    if constexpr (kApart) {
      for (column_block = 1; pair >= column_block; ++column_block) pair -= column_block;
      row_block = pair;
    }
  }

  __device__ __forceinline__ void clear() const {
    if (work.args.sums == nullptr) return;
    for (int i = threadIdx.x; i < work.plan.block * work.plan.block; i += blockDim.x) {
      work.sums[slab() + i] = 0;
      work.missing[slab() + i] = 0;
    }
  }

  // Takes the products of a track once all of them are in shared memory. Ends with a barrier.
  __device__ __forceinline__ void finish(int64_t track, int64_t offset) {
    const int rows = count_from(first_row()), columns = count_from(first_column());
    if (__syncthreads_or(measure(track, rows, columns))) repair(offset, rows, columns);
    const bool mean = work.args.sums != nullptr;
    for (int i = threadIdx.x; i < work.plan.block * work.plan.block; i += blockDim.x) {
      const int k = i / work.plan.block, l = i % work.plan.block;
      if (k >= rows || l >= columns || (!kApart && l < k)) continue;
      const Acc roots = row_scales[k].root * column_scales[l].root;
      const bool absent = roots == 0;  // false where either is NaN
      Product cosine =
          !kApart && k == l ? Product(roots == roots ? 1 : NAN) : products[k * stride + l] / roots;
      cosine = cosine > 1 ? Product(1) : cosine < -1 ? Product(-1) : cosine;  // NaN stays
      mean ? add(i, absent, cosine) : put(track, k, l, absent, cosine);
    }
    __syncthreads();
  }

 private:
  __device__ __forceinline__ bool measure(int64_t track, int rows, int columns) const {
    bool unsafe = false;
    Acc* kept = work.plan.blocks > 1 ? static_cast<Acc*>(work.roots) + track * tracks.view.steps() : nullptr;
    for (int k = threadIdx.x; k < rows; k += blockDim.x) {
      if (kApart) {
        unsafe |= recall(row_scales + k, kept[first_row() + k]);
        continue;
      }
      const Acc square = static_cast<Acc>(products[k * stride + k]);
      unsafe |=
          recall(row_scales + k,
                 is_safe_square(square) ? static_cast<Acc>(sqrt(products[k * stride + k])) : Acc(kUnsafe));
      if (kept != nullptr) kept[first_row() + k] = row_scales[k].root;
    }
    for (int l = threadIdx.x; kApart && l < columns; l += blockDim.x) {
      unsafe |= recall(column_scales + l, kept[first_column() + l]);
    }
    return unsafe;
  }

  static __device__ __forceinline__ bool recall(Scale* scale, Acc root) {
    *scale = Scale();
    scale->root = root;
    return root == kUnsafe;
  }

  __device__ __forceinline__ Acc difference(const Scale& scale, const T* now, const T* before,
                                            int64_t j) const {
    if (scale.half) return (widen(now[j]) * Acc(0.5) - widen(before[j]) * Acc(0.5)) / scale.divisor;
    return (widen(now[j]) - widen(before[j])) / scale.divisor;
  }
  __device__ __forceinline__ const T* point(int64_t layer, int64_t offset) const {
    return reinterpret_cast<const T*>(tracks.row(layer, offset));
  }

  // Rare: steps too long, too short, of length zero or broken are divided by their largest entry, and the
  // products they take part in are computed again.
  __device__ __forceinline__ void repair(int64_t offset, int rows, int columns) {
#pragma unroll 1
    for (int k = 0; k < rows; ++k) rescale(row_scales + k, first_row() + k, offset);
#pragma unroll 1
    for (int l = 0; kApart && l < columns; ++l) rescale(column_scales + l, first_column() + l, offset);
#pragma unroll 1
    for (int k = 0; k < rows; ++k) {
#pragma unroll 1
      for (int l = kApart ? 0 : k + 1; l < columns; ++l) {
        const Scale &a = row_scales[k], &b = column_scales[l];
        if (!(a.scaled || b.scaled) || !(a.root > 0) || !(b.root > 0)) continue;
        const Acc sum = product(a, first_row() + k, b, first_column() + l, offset);
        if (threadIdx.x == 0) products[k * stride + l] = sum;
      }
    }
    __syncthreads();
  }

  __device__ __forceinline__ Acc product(const Scale& a, int k, const Scale& b, int l, int64_t offset) {
    const T *now = point(k + 1, offset), *before = point(k, offset);
    const T *other_now = point(l + 1, offset), *other_before = point(l, offset);
    Acc totals[2] = {};
#pragma unroll 1
    for (int64_t j = threadIdx.x; j < tracks.view.features; j += blockDim.x) {
      totals[0] += difference(a, now, before, j) * difference(b, other_now, other_before, j);
    }
    team_sum(totals);
    return totals[0];
  }

  __device__ __forceinline__ Acc largest_entry(const Scale& scale, int step, int64_t offset) const {
    const T *now = point(step + 1, offset), *before = point(step, offset);
    Acc largest = 0;
#pragma unroll 1
    for (int64_t j = threadIdx.x; j < tracks.view.features; j += blockDim.x) {
      largest = larger(largest, fabs(difference(scale, now, before, j)));
    }
    return team_max(largest, max_buffer);
  }

  __device__ __forceinline__ void rescale(Scale* to, int step, int64_t offset) {
    if (to->root != kUnsafe) return;
    Scale scale;
    scale.scaled = true;
    Acc largest = largest_entry(scale, step, offset);
    if (isinf(largest)) {
      scale.half = true;
      largest = largest_entry(scale, step, offset);
    }
    scale.divisor = largest;
    if (largest > 0 && !isinf(largest)) {
      scale.root = sqrt(product(scale, step, scale, step, offset));
    } else if (largest != 0) {
      scale.root = NAN;
    }
    __syncthreads();  // nobody still asks whether the step is unsafe
    if (threadIdx.x == 0) *to = scale;
    __syncthreads();
  }

  __device__ __forceinline__ void add(int i, bool absent, Product cosine) const {
    if (absent) {
      ++work.missing[slab() + i];
    } else {
      work.sums[slab() + i] += cosine;
    }
  }

  __device__ __forceinline__ void put(int64_t track, int k, int l, bool absent, Product cosine) const {
    const int64_t n = tracks.view.steps(), row = first_row() + k, column = first_column() + l;
    Acc* to = static_cast<Acc*>(work.args.deviation) + track * n * n;
    const Acc undefined = work.args.zero_step == ZeroStep::kKeep ? Acc(1) : Acc(NAN);
    to[row * n + column] = to[column * n + row] = absent ? undefined : static_cast<Acc>(1 - cosine);
  }
};

void tensor_gram(const GramWork& work, int device, void* stream);
void simt_gram(const GramWork& work, int device, void* stream);

}  // namespace cuda
}  // namespace geodesic_fast
