// SPDX-License-Identifier: MIT
// The loops over the features of several steps at once: each point is loaded once for the two steps that
// share it, and the sum of directions once for the whole group. The points stay in the cache between the
// loop that measures the steps and the one that adds them up, and both fetch ahead for the next group.
#pragma once

#include <cmath>

#include "track_rows.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kGroup = 8;  // steps at once, as many as 32 vector registers hold
#else
constexpr int kGroup = 4;
#endif

// The points of a group: point[0] is the one before the first step's start (or that start itself, where there
// is none), point[1] the first step's start, point[1 + k] the end of step k = 1, 2, ...
template <class T>
struct Group {
  const T* point[kGroup + 2];
  const T* ahead[kGroup];  // rows to fetch meanwhile: what the next group will read, or any other
};

template <class Acc>
struct GroupSums {
  Acc squares[kGroup];  // |v_k|^2
  Acc dots[kGroup];     // <v_k, v_(k-1)>
};

template <int kFirst, int kLast, class T>
GEODESIC_FAST_INLINE void fetch_ahead(const Group<T>& group, int64_t j) {
#pragma GCC unroll 8
  for (int row = kFirst; row < kLast; ++row) __builtin_prefetch(group.ahead[row] + j);
}
template <int kCount>
constexpr int kFetchedFirst = (3 * kCount + 4) / 8;  // by the first loop, which takes less time

template <class T, int kCount, bool kDots, class Acc = typename AccOf<T>::type>
static inline void measure_steps(const Group<T>& group, GroupSums<Acc>* sums, int64_t features) {
  constexpr int64_t lanes = kLanes<Acc>;
  Vector<Acc> square_totals[kCount] = {}, dot_totals[kCount] = {};
  for (int64_t begin = 0; begin < features; begin += kSumRun * lanes) {
    const int64_t end = begin + kSumRun * lanes < features ? begin + kSumRun * lanes : features;
    Vector<Acc> squares[kCount] = {}, dots[kCount] = {};
    const auto body = [&](int64_t j, int64_t count) {
      fetch_ahead<0, kFetchedFirst<kCount>>(group, j);
      Vector<Acc> previous = load_row(group.point[1], j, count);
      Vector<Acc> before = kDots ? previous - load_row(group.point[0], j, count) : previous;
#pragma GCC unroll 8
      for (int k = 0; k < kCount; ++k) {
        const Vector<Acc> current = load_row(group.point[2 + k], j, count);
        const Vector<Acc> v = current - previous;
        squares[k] += v * v;
        if (kDots) dots[k] += v * before;
        previous = current;
        before = v;
      }
    };
    int64_t j = begin;
    for (; j + lanes <= end; j += lanes) body(j, lanes);
    if (j < end) body(j, end - j);
    for (int k = 0; k < kCount; ++k) {
      square_totals[k] += squares[k];
      if (kDots) dot_totals[k] += dots[k];
    }
  }
  for (int k = 0; k < kCount; ++k) {
    sums->squares[k] = sum_lanes<Acc>(square_totals[k]);
    sums->dots[k] = kDots ? sum_lanes<Acc>(dot_totals[k]) : Acc(0);
  }
}

// Adds the directions of the steps, whose lengths are known, to the row of their sum.
template <class T, int kCount, class Acc = typename AccOf<T>::type>
static inline void add_directions(const Group<T>& group, const Acc* lengths, Acc* direction_sum,
                                  int64_t features) {
  Direction<Acc> direction[kCount];
  for (int k = 0; k < kCount; ++k) direction[k] = Direction<Acc>(lengths[k]);
  const auto body = [&](int64_t j, int64_t count) {
    fetch_ahead<kFetchedFirst<kCount>, kCount>(group, j);
    Vector<Acc> previous = load_row(group.point[1], j, count), sum = {};
#pragma GCC unroll 8
    for (int k = 0; k < kCount; ++k) {
      const Vector<Acc> current = load_row(group.point[2 + k], j, count);
      sum += direction[k](current - previous);
      previous = current;
    }
    SameType<Acc>::store(direction_sum + j, SameType<Acc>::load(direction_sum + j) + sum);
  };
  int64_t j = 0;
  for (; j + kLanes<Acc> <= features; j += kLanes<Acc>) body(j, kLanes<Acc>);
  if (j < features) body(j, features - j);
}

// Calls call(count as a compile-time constant) for the largest group size up to `steps` there is.
template <int kCount>
struct GroupSize {
  static constexpr int value = kCount;
};
template <class Call>
GEODESIC_FAST_INLINE void with_group_size(int64_t steps, const Call& call) {
  if (kGroup >= 8 && steps >= 8) return call(GroupSize<kGroup>());
  if (steps >= 4) return call(GroupSize<4>());
  if (steps >= 2) return call(GroupSize<2>());
  call(GroupSize<1>());
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
