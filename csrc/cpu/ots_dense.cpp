// SPDX-License-Identifier: MIT
// Assignments on all pairs by column reduction, augmenting row reduction and shortest augmenting paths
// (Jonker and Volgenant, Computing 38, 1987; Crouse, IEEE TAES 52, 2016).
#include "cpu/dense_points.h"
#include "cpu/parallel.h"
#include "kernels.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

constexpr int64_t kNone = -1;
constexpr double kInfinity = __builtin_inf();
constexpr double kRoundoff = 0x1p-53;
constexpr double kUp = 1.0 + 0x1p-20;  // more than what rounds on the way to a bound
constexpr int kRowRounds = 2;
constexpr int64_t kAtOnce = 2;  // vectors compared side by side
constexpr int64_t kArcs = 8;    // a row, that may be left open by rounding before a proof is given up
// What a feature may lose where numbers vanish below the range, or are flushed to zero there: squares, and
// products of a lost coordinate with one of at most 2^101.
constexpr double kLostSquare = 0x1p-1020, kLostProduct = 0x1p-900;

GEODESIC_FAST_INLINE I64 all(int64_t value) { return value - I64{}; }

GEODESIC_FAST_INLINE I64 lane_numbers() {
  I64 numbers;
  for (int64_t k = 0; k < kLane; ++k) numbers[k] = k;
  return numbers;
}

struct Least {
  double value, second;
  int64_t at;
};

GEODESIC_FAST_INLINE D smaller(D a, D b) { return a < b ? a : b; }

GEODESIC_FAST_INLINE D larger(D a, D b) { return a > b ? a : b; }

GEODESIC_FAST_INLINE double min_lanes(D v) {
#if defined(__AVX512F__)
  typedef double Half __attribute__((vector_size(32)));
  Half halves[2];
  std::memcpy(halves, &v, sizeof(v));
  const Half least = halves[0] < halves[1] ? halves[0] : halves[1];
#else
  const D least = v;
#endif
  double lanes[sizeof(least) / sizeof(double)];
  std::memcpy(lanes, &least, sizeof(least));
  for (int64_t width = sizeof(least) / sizeof(double) / 2; width > 0; width /= 2) {
    for (int64_t k = 0; k < width; ++k) lanes[k] = lanes[k + width] < lanes[k] ? lanes[k + width] : lanes[k];
  }
  return lanes[0];
}

// The first lane that holds `value`, which one does.
GEODESIC_FAST_INLINE int64_t lane_of(D v, double value) {
#if defined(__AVX512F__)
  return __builtin_ctz(_mm512_cmp_pd_mask(bit_copy<__m512d>(v), _mm512_set1_pd(value), _CMP_EQ_OQ) |
                       1u << (kLane - 1));
#else
  int64_t k = 0;
  while (k < kLane - 1 && v[k] != value) ++k;
  return k;
#endif
}

// One problem and its scratch. Columns behind m have v = -infinity, so that c - v never is the least.
struct Problem {
  const double* c;  // (m, stride)
  int64_t m, stride;
  double* v;                        // (stride)
  int64_t* column;                  // (m) of each row, or kNone
  int64_t* owner;                   // (stride), the row of each column, or kNone
  double *open, *distance, *final;  // (stride)
  int64_t *from, *list;             // (stride)
  int64_t steps;                    // rows that may still be scanned

  static int64_t bytes(int64_t stride) {
    return stride * (6 * static_cast<int64_t>(sizeof(double)) + (kArcs + 2) * sizeof(int32_t));
  }

  GEODESIC_FAST_INLINE double reduced(int64_t i, int64_t j) const { return c[i * stride + j] - v[j]; }

  Least least_of(int64_t i) const {
    const double* row = c + i * stride;
    D best[kAtOnce], second[kAtOnce];
    I64 at[kAtOnce], number = lane_numbers();
    for (int64_t k = 0; k < kAtOnce; ++k) {
      best[k] = second[k] = broadcast(kInfinity);
      at[k] = I64{};
    }
    for (int64_t j = 0; j < stride; j += kAtOnce * kLane) {
      for (int64_t k = 0; k < kAtOnce; ++k) {
        const D value = load(row + j + k * kLane) - load(v + j + k * kLane);
        const I64 less = value < best[k];
        second[k] = smaller(larger(value, best[k]), second[k]);
        best[k] = smaller(value, best[k]);
        at[k] = less ? number : at[k];
        number += kLane;
      }
    }
    const I64 less = best[1] < best[0];
    const D least = less ? best[1] : best[0], others = less ? best[0] : best[1];
    const double value = min_lanes(least);
    const int64_t lane = lane_of(least, value), column = less[lane] ? at[1][lane] : at[0][lane];
    const D but_one = lane_numbers() == all(lane) ? broadcast(kInfinity) : least;
    return {value, min_lanes(smaller(smaller(others, but_one), smaller(second[0], second[1]))), column};
  }

  void assign(int64_t i, int64_t j) {
    column[i] = j;
    owner[j] = i;
  }

  // Each column's price is its least cost; the row of that cost takes it, if it has none yet.
  void reduce_columns() {
    for (int64_t j = 0; j < stride; j += kLane) {
      D best = load(c + j);
      I64 at = {};
      for (int64_t i = 1; i < m; ++i) {
        const D value = load(c + i * stride + j);
        const I64 less = value < best;
        best = less ? value : best;
        at = less ? all(i) : at;
      }
      store(v + j, best);
      store(from + j, at);
    }
    for (int64_t j = m; j < stride; ++j) v[j] = -kInfinity;
    for (int64_t i = 0; i < m; ++i) column[i] = kNone;
    for (int64_t j = 0; j < stride; ++j) owner[j] = kNone;
    for (int64_t j = 0; j < m; ++j) {
      if (column[from[j]] == kNone) assign(from[j], j);
    }
  }

  // A free row takes its cheapest column and lowers that column's price until its second choice costs the
  // same; whom it displaces goes next.
  void reduce_rows() {
    int64_t free = 0;
    for (int64_t i = 0; i < m; ++i) {
      if (column[i] == kNone) list[free++] = i;
    }
    for (int round = 0; round < kRowRounds && free > 0; ++round) {
      const int64_t waiting = free;
      int64_t next = 0, looks = 4 * waiting;
      free = 0;
      while (next < waiting) {
        const int64_t i = list[next++];
        if (--looks < 0) {
          list[free++] = i;
          continue;
        }
        const Least least = least_of(i);
        const double lowered = v[least.at] - (least.second - least.value);
        const bool lowers = lowered < v[least.at];
        const int64_t displaced = owner[least.at];
        if (displaced != kNone && !lowers) {
          list[free++] = i;
          continue;
        }
        if (lowers) v[least.at] = lowered;
        assign(i, least.at);
        if (displaced == kNone) continue;
        column[displaced] = kNone;
        list[--next] = displaced;
      }
    }
  }

  // Distances by way of row i, which lies at -h; returns the nearest column that is still open.
  Least relax(int64_t i, double h) {
    --steps;
    const double* row = c + i * stride;
    D best = broadcast(kInfinity);
    I64 at = {}, number = lane_numbers();
    const D offset = broadcast(h);
    const I64 self = all(i);
    for (int64_t j = 0; j < stride; j += kLane) {
      const D value = (load(row + j) - load(open + j)) - offset, known = load(distance + j);
      const I64 shorter = value < known;
      const D now = smaller(value, known);
      store(distance + j, now);
      store(from + j, shorter ? self : load(from + j));
      const I64 less = now < best;
      best = smaller(now, best);
      at = less ? number : at;
      number += kLane;
    }
    const double value = min_lanes(best);
    return {value, kInfinity, at[lane_of(best, value)]};
  }

  // One shortest augmenting path from a free row, by Dijkstra's method over reduced costs.
  void augment(int64_t row) {
    std::memcpy(open, v, stride * sizeof(double));
    for (int64_t j = 0; j < stride; ++j) distance[j] = kInfinity;
    int64_t settled = 0;
    Least nearest = relax(row, 0.0);
    while (owner[nearest.at] != kNone) {
      const int64_t j = nearest.at, i = owner[j];
      list[settled] = j;
      final[settled++] = nearest.value;
      open[j] = -kInfinity;
      distance[j] = kInfinity;
      nearest = relax(i, reduced(i, j) - nearest.value);
    }
    for (int64_t k = 0; k < settled; ++k) v[list[k]] += final[k] - nearest.value;
    for (int64_t j = nearest.at, i = kNone; i != row;) {
      i = from[j];
      owner[j] = i;
      const int64_t before = column[i];
      column[i] = j;
      j = before;
    }
  }
};

// That no other assignment costs as little, for the numbers meant. Let r_ij = (c_ij - v_j) - (c_ip - v_p)
// with p the column of row i, known to be at least low_ij. Another assignment costs more by the sum of its
// r_ij, which falls into cycles of rows i -> owner of j, and along a cycle the negative ones add up to no
// less than -B, B = sum_i max_j (-low_ij)+. Where the pairs with low_ij <= B close no cycle, every cycle has
// a pair above B, and its sum is above zero.
struct Proof {
  const Problem& p;
  const double* square_x;  // (m)
  double lost_square, lost_product;
  double *bound, *noise;  // (stride): rounding |y_j|, and what the column's price adds
  double* low;            // (m), the least of each row
  int32_t *start, *arcs, *waiting;

  double norm_of(int64_t i) const { return __builtin_sqrt(square_x[i] + lost_square) * kUp; }

  double low_of_pair(int64_t i, int64_t j, double norm, double base) const {
    return (p.reduced(i, j) - (norm * bound[j] + noise[j])) - base;
  }

  double base_of(int64_t i, double norm) const {
    const int64_t j = p.column[i];
    return p.reduced(i, j) + (norm * bound[j] + noise[j] + lost_product);
  }

  // Returns B; leaves the least low of each row but for its own column, the least c - v of all in u, and in
  // `gap` what these add up to below the assignment.
  double bound_rows(double* u, double* gap) const {
    double total = 0.0;
    *gap = 0.0;
    for (int64_t i = 0; i < p.m; ++i) {
      const double* row = p.c + i * p.stride;
      D cheapest = broadcast(kInfinity), lowest = cheapest;
      const double norm = norm_of(i);
      const D norms = broadcast(norm);
      const I64 own = all(p.column[i]);
      I64 number = lane_numbers();
      for (int64_t j = 0; j < p.stride; j += kLane) {
        const D value = load(row + j) - load(p.v + j);
        D under = value - (norms * load(bound + j) + load(noise + j));
        under = number == own ? broadcast(kInfinity) : under;
        cheapest = value < cheapest ? value : cheapest;
        lowest = under < lowest ? under : lowest;
        number += kLane;
      }
      u[i] = min_lanes(cheapest);
      low[i] = min_lanes(lowest) - base_of(i, norm);
      *gap += p.reduced(i, p.column[i]) - u[i];
      total += low[i] < 0.0 ? -low[i] : 0.0;
    }
    return total * kUp;
  }

  // Whether pairs with low <= most close no cycle.
  bool acyclic(double most) const {
    const int64_t room = kArcs * p.stride;
    int64_t count = 0;
    for (int64_t i = 0; i < p.m; ++i) waiting[i] = 0;
    for (int64_t i = 0; i < p.m; ++i) {
      start[i] = static_cast<int32_t>(count);
      if (low[i] > most) continue;
      const double norm = norm_of(i), base = base_of(i, norm);
      for (int64_t j = 0; j < p.m; ++j) {
        if (low_of_pair(i, j, norm, base) > most || j == p.column[i]) continue;
        if (count == room) return false;
        arcs[count++] = static_cast<int32_t>(p.owner[j]);
        ++waiting[p.owner[j]];
      }
    }
    int64_t* order = p.list;
    int64_t found = 0;
    for (int64_t i = 0; i < p.m; ++i) {
      if (waiting[i] == 0) order[found++] = i;
    }
    for (int64_t at = 0; at < found; ++at) {
      const int64_t i = order[at], end = i + 1 < p.m ? start[i + 1] : count;
      for (int64_t e = start[i]; e < end; ++e) {
        if (--waiting[arcs[e]] == 0) order[found++] = arcs[e];
      }
    }
    return found == p.m;
  }
};

Problem problem_of(const DenseProblems& args, int64_t index, char* scratch) {
  const int64_t m = args.m, stride = args.stride;
  double* place = reinterpret_cast<double*>(scratch);
  int64_t* places = reinterpret_cast<int64_t*>(place + 3 * stride);
  return {args.cost(index),
          m,
          stride,
          args.price(index),
          args.column + index * m,
          places,
          place,
          place + stride,
          place + 2 * stride,
          places + stride,
          places + 2 * stride,
          args.steps};
}

DenseStatus prove(const DenseProblems& args, int64_t index, const Problem& problem) {
  const int64_t m = problem.m, stride = problem.stride;
  const double *square_x = args.square(index, 0), *square_y = args.square(index, 1);
  int32_t* places = reinterpret_cast<int32_t*>(problem.list + stride);
  const double d = static_cast<double>(args.d), lost_square = d * kLostSquare;
  const Proof proof{problem,       square_x,         lost_square, d * kLostProduct,    problem.open,
                    problem.final, problem.distance, places,      places + 2 * stride, places + stride};
  const double rounding = (d + 16) * kRoundoff * kUp;
  for (int64_t j = 0; j < stride; ++j) {
    proof.bound[j] = j < m ? rounding * __builtin_sqrt(square_y[j] + lost_square) * kUp : 0.0;
    proof.noise[j] = j < m ? 4 * kRoundoff * __builtin_fabs(problem.v[j]) : 0.0;
  }
  const double most = proof.bound_rows(args.u + index * m, args.gap + index);
  return most < kInfinity && proof.acyclic(most) ? kDenseUnique : kDenseOptimum;
}

template <class T>
double squared_distance(const T* x, const T* y, int64_t d) {
  D sum = {};
  for (int64_t k = 0; k < d; k += kLane) {
    const int64_t count = d - k < kLane ? d - k : kLane;
    const D step = widened(x + k, count) - widened(y + k, count);
    sum += step * step;
  }
  return sum_lanes<double>(sum);
}

// The mean squared distances of the points' own pairs and of the assigned.
template <class T>
void mean_costs(const DenseProblems& args, int64_t index) {
  const T *x = points_of<T>(args, 0, index), *y = points_of<T>(args, 1, index);
  const int64_t* column = args.column + index * args.m;
  double own = 0.0, assigned = 0.0;
  for (int64_t i = 0; i < args.m; ++i) {
    own += squared_distance(x + i * args.d, y + i * args.d, args.d);
    assigned += squared_distance(x + i * args.d, y + column[i] * args.d, args.d);
  }
  args.own[index] = own / static_cast<double>(args.m);
  args.assigned[index] = assigned / static_cast<double>(args.m);
}

// Turns duals of the products into such of |x_i - y_j|^2 = |x_i - s|^2 + |y_j - t|^2 + |s - t|^2
// - 2 <x_i - s, y_j - t> + 2 <x_i - s, s - t> - 2 <y_j - t, s - t>.
void finish_duals(const DenseProblems& args, int64_t index) {
  const int64_t m = args.m;
  const double apart = squared_distance(args.shift(index, 0), args.shift(index, 1), args.d);
  double *u = args.u + index * m, *v = args.v + index * m;
  for (int64_t i = 0; i < m; ++i) {
    u[i] = (args.square(index, 0)[i] + 2 * args.along(index, 0)[i] + apart) + 2 * u[i];
    v[i] = (args.square(index, 1)[i] - 2 * args.along(index, 1)[i]) + 2 * args.price(index)[i];
  }
  const double gap = args.gap[index] * 2 / static_cast<double>(m), most = args.assigned[index];
  args.gap[index] = gap < most ? gap : most;  // no assignment costs less than nothing
}

// Whether duals and costs are nowhere far below the products whose rounding they carry. Where a point lies
// close to its image, and both duals near zero, duals of the squared distances themselves hold more digits.
bool duals_hold(const DenseProblems& args, int64_t index) {
  const double *u = args.u + index * args.m, *v = args.v + index * args.m;
  const int64_t* column = args.column + index * args.m;
  for (int64_t i = 0; i < args.m; ++i) {
    const int64_t j = column[i];
    const double product = __builtin_sqrt(args.square(index, 0)[i] * args.square(index, 1)[j]);
    if (product > 8 * (__builtin_fabs(u[i] + v[j]) + __builtin_fabs(u[i]) + __builtin_fabs(v[j])))
      return false;
  }
  return true;
}

void go_on(const DenseProblems& args, int64_t index, char* scratch) {
  Problem problem = problem_of(args, index, scratch);
  int64_t& status = args.status[index];
  if (status == kDenseNew) {
    problem.reduce_columns();
    problem.reduce_rows();
    status = kDenseBegun;
  } else {
    for (int64_t j = 0; j < problem.stride; ++j) problem.owner[j] = kNone;
    for (int64_t i = 0; i < problem.m; ++i) {
      if (problem.column[i] != kNone) problem.owner[problem.column[i]] = i;
    }
  }
  for (int64_t i = 0; i < problem.m; ++i) {
    if (problem.column[i] != kNone) continue;
    if (problem.steps <= 0) return;
    problem.augment(i);
  }
  status = prove(args, index, problem);
  args.is_double ? mean_costs<double>(args, index) : mean_costs<float>(args, index);
  finish_duals(args, index);
  if (!duals_hold(args, index)) status = kDenseOptimum;
}

}  // namespace

// Returns whether no problem waits for another call.
// Memory: reads a problem's costs some ten times, from cache where they fit. Work: 3 operations a pair and
// reading. Numbers: float64; prices are taken as they are, and reduced costs bounded for the proof. Bound:
// the chain of comparisons of each scan.
bool ots_dense_assignments(const DenseProblems& args, const Place& place) {
  Scratch scratch(place.threads, Problem::bytes(args.stride));
  bool done = true;
  parallel_for(args.problems, 1, place.threads, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t* status = args.status + index;
      if (*status <= kDenseBegun) go_on(args, index, scratch.part(thread));
      if (*status <= kDenseBegun) __atomic_store_n(&done, false, __ATOMIC_RELAXED);
    }
  });
  return done;
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
