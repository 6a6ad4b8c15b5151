// SPDX-License-Identifier: MIT
#include "kernels.h"

#include "cpu/parallel.h"
#include "cpu/simd.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

using F = Vector<float>;
constexpr int64_t kLane = kLanes<float>;
constexpr int64_t kRowsTogether = 4;
constexpr float kLowest = -3.0e38f;
typedef int32_t I32 __attribute__((vector_size(kVectorBytes)));

GEODESIC_FAST_INLINE F larger(F a, F b) { return a > b ? a : b; }

GEODESIC_FAST_INLINE F load(const float* from) { return load_unaligned<F>(from); }
GEODESIC_FAST_INLINE void store(float* to, F v) { std::memcpy(to, &v, sizeof(v)); }

GEODESIC_FAST_INLINE float max_lanes(F v) {
  float lanes[kLane], best = kLowest;
  std::memcpy(lanes, &v, sizeof(v));
  for (int64_t k = 0; k < kLane; ++k) best = lanes[k] > best ? lanes[k] : best;
  return best;
}

// exp(x) for x <= 0 to about 2 units in the last place; below -40 it stays at exp(-40), a share far below
// 1 / kMassUnits. A sum that begins with a subnormal number costs some processors a hundred additions.
GEODESIC_FAST_INLINE F exp_nonpositive(F x) {
  x = larger(x, broadcast(-40.0f));
  const F shifted = x * 1.44269504f + 12582912.0f;  // the integer part now lies in the low bits
  const F whole = shifted - 12582912.0f;
  const F r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  F p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return bit_copy<F>(bit_copy<I32>(p) + (bit_copy<I32>(shifted) << 23));
}

// Calls step(j) on whole vectors of columns, then last(j, count) on the rest.
template <class Step, class Last>
GEODESIC_FAST_INLINE void over_columns(int64_t cols, const Step& step, const Last& last) {
  int64_t j = 0;
  for (; j + kLane <= cols; j += kLane) step(j);
  if (j < cols) last(j, cols - j);
}

GEODESIC_FAST_INLINE F load_tail_or(const float* from, int64_t count, float other) {
  float padded[kLane];
  for (int64_t k = 0; k < kLane; ++k) padded[k] = k < count ? from[k] : other;
  return load(padded);
}

// e_j = exp((S_ij - b_j - best) / epsilon); returns the row's potential and leaves the scale of e in
// `weight`.
float softmin_row(const float* s, const SoftminArgs& args, float log_supply, int64_t cols, float* e,
                  float* weight) {
  F top = broadcast(kLowest);
  over_columns(
      cols, [&](int64_t j) { top = larger(top, load(s + j) - load(args.b + j)); },
      [&](int64_t j, int64_t n) {
        top = larger(top, load_tail_or(s + j, n, kLowest) - load_tail_or(args.b + j, n, 0.0f));
      });
  const float best = max_lanes(top), inv_epsilon = 1.0f / args.epsilon;
  F sum = {};
  over_columns(
      cols,
      [&](int64_t j) {
        const F value = exp_nonpositive((load(s + j) - load(args.b + j) - best) * inv_epsilon);
        sum += value;
        store(e + j, value);
      },
      [&](int64_t j, int64_t n) {
        const F value = exp_nonpositive(
            (load_tail_or(s + j, n, kLowest) - load_tail_or(args.b + j, n, 0.0f) - best) * inv_epsilon);
        sum += value;
        store_tail<float>(e + j, value, n);
      });
  const float total = sum_lanes<float>(sum);
  *weight = __builtin_expf(log_supply) / total;
  return best + (__builtin_logf(total) - log_supply) * args.epsilon;
}

void add_row(const float* s, int64_t cols, float a, const float* e, float weight, float* col_sum,
             float* col_best) {
  over_columns(
      cols,
      [&](int64_t j) {
        store(col_sum + j, load(col_sum + j) + load(e + j) * weight);
        store(col_best + j, larger(load(col_best + j), load(s + j) - a));
      },
      [&](int64_t j, int64_t n) {
        for (int64_t k = j; k < j + n; ++k) {
          col_sum[k] += e[k] * weight;
          col_best[k] = s[k] - a > col_best[k] ? s[k] - a : col_best[k];
        }
      });
}

void move_to_whole(float* sum, int64_t cols, int64_t* whole) {
  typedef float Narrow __attribute__((vector_size(kVectorBytes / 2)));
  typedef int64_t I64 __attribute__((vector_size(kVectorBytes)));
  using D = Vector<double>;
  int64_t j = 0;
  for (; j + kLanes<double> <= cols; j += kLanes<double>) {
    const D units = __builtin_convertvector(load_unaligned<Narrow>(sum + j), D) * kMassUnits + 0.5;
    const I64 total = load_unaligned<I64>(whole + j) + __builtin_convertvector(units, I64);
    const Narrow zero = {};
    std::memcpy(whole + j, &total, sizeof(total));
    std::memcpy(sum + j, &zero, sizeof(zero));
  }
  for (; j < cols; ++j) {
    whole[j] += static_cast<int64_t>(sum[j] * kMassUnits + 0.5);
    sum[j] = 0.0f;
  }
}

}  // namespace

// Memory: reads S once; a row, its exponentials and the column sums stay in the second-level cache.
// Work: one exponential a pair. Numbers: float32, each row shifted by its maximum; column sums of kMassRows
// rows at a time, the same for any number of threads.
// Bound: memory, 4 bytes a pair.
void ots_softmin(const SoftminArgs& args, const Place& place) {
  const ProductTile& tile = args.tile;
  const int64_t cols = tile.cols;
  const int64_t bytes = cols * static_cast<int64_t>(sizeof(float));
  Scratch scratch(place.threads, 5 * bytes);  // whole sums, sums, maxima, exponentials
  for (int t = 0; t < place.threads; ++t) {
    std::memset(scratch.part(t), 0, 3 * bytes);
    float* best = reinterpret_cast<float*>(scratch.part(t)) + 3 * cols;
    for (int64_t j = 0; j < cols; ++j) best[j] = kLowest;
  }
  parallel_for(tile.rows, kMassRows, place.threads, [&](int64_t begin, int64_t end, int thread) {
    int64_t* whole = reinterpret_cast<int64_t*>(scratch.part(thread));
    float *sum = reinterpret_cast<float*>(whole + cols), *best = sum + cols, *e = best + cols, weight;
    for (int64_t i = begin; i < end; ++i) {
      const float* s = tile.product + i * tile.stride;
      args.a[i] = softmin_row(s, args, args.log_supply[i], cols, e, &weight);
      add_row(s, cols, args.a[i], e, weight, sum, best);
    }
    move_to_whole(sum, cols, whole);
  });
  for (int t = 0; t < place.threads; ++t) {
    const int64_t* whole = reinterpret_cast<const int64_t*>(scratch.part(t));
    const float* best = reinterpret_cast<const float*>(whole + cols) + cols;
    for (int64_t j = 0; j < cols; ++j) {
      args.col_sum[j] += whole[j];
      args.col_best[j] = best[j] > args.col_best[j] ? best[j] : args.col_best[j];
    }
  }
}

// Memory: reads S once. Work: one subtraction and one maximum a pair. Numbers: float32. Bound: memory.
// best_j is raised to max_i S_ij - a_i: the sweep that proves the identity, and the tightest column
// potentials.
void ots_column_best(const ColumnBest& args, const Place& place) {
  const ProductTile& tile = args.tile;
  const int64_t cols = tile.cols;
  Scratch scratch(place.threads, cols * static_cast<int64_t>(sizeof(float)));
  for (int t = 0; t < place.threads; ++t) std::memcpy(scratch.part(t), args.best, cols * sizeof(float));
  const int64_t groups = (tile.rows + kRowsTogether - 1) / kRowsTogether;
  parallel_for(groups, 8, place.threads, [&](int64_t begin, int64_t end, int thread) {
    float* mine = reinterpret_cast<float*>(scratch.part(thread));
    for (int64_t g = begin; g < end; ++g) {
      const float* s[kRowsTogether];
      float ar[kRowsTogether];
      for (int64_t r = 0; r < kRowsTogether; ++r) {  // a short last group repeats its last row
        const int64_t i = g * kRowsTogether + r < tile.rows ? g * kRowsTogether + r : tile.rows - 1;
        s[r] = tile.product + i * tile.stride;
        ar[r] = args.a[i];
      }
      over_columns(
          cols,
          [&](int64_t j) {
            const F low = larger(load(s[0] + j) - ar[0], load(s[1] + j) - ar[1]);
            const F high = larger(load(s[2] + j) - ar[2], load(s[3] + j) - ar[3]);
            store(mine + j, larger(load(mine + j), larger(low, high)));
          },
          [&](int64_t j, int64_t n) {
            for (int64_t k = j; k < j + n; ++k) {
              for (int64_t r = 0; r < kRowsTogether; ++r) {
                mine[k] = s[r][k] - ar[r] > mine[k] ? s[r][k] - ar[r] : mine[k];
              }
            }
          });
    }
  });
  for (int t = 0; t < place.threads; ++t) {
    const float* mine = reinterpret_cast<const float*>(scratch.part(t));
    for (int64_t j = 0; j < cols; ++j) args.best[j] = mine[j] > args.best[j] ? mine[j] : args.best[j];
  }
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
