// SPDX-License-Identifier: MIT
// The loops over the features of one step, shared by the forward and backward pass over tracks.
#pragma once

#include <cmath>

#include "length.h"
#include "simd.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {

constexpr int kUnroll = 4;  // independent sums, to cover the latency of an addition

// Squared lengths outside this range are recomputed with scaling: float32 coordinates of 1e30 overflow when
// squared, those of 1e-30 vanish.
template <class Acc>
struct SafeSquare;
template <>
struct SafeSquare<float> {
  static constexpr float kMin = 1e-26f, kMax = 1e36f;
};
template <>
struct SafeSquare<double> {
  static constexpr double kMin = 1e-280, kMax = 1e300;
};
template <class Acc>
GEODESIC_FAST_INLINE bool is_safe_square(Acc square) {
  return square >= SafeSquare<Acc>::kMin && square <= SafeSquare<Acc>::kMax;  // false for NaN
}

template <class Acc>
GEODESIC_FAST_INLINE int64_t padded(int64_t features) {
  return (features + kLanes<Acc> - 1) / kLanes<Acc> * kLanes<Acc>;
}

// Calls body(j, lane_group, is_tail, count) over the vectors of one row; scratch rows are padded, rows of
// the caller are not.
template <class Acc, class Body>
GEODESIC_FAST_INLINE void for_vectors(int64_t features, const Body& body) {
  constexpr int64_t lanes = kLanes<Acc>;
  int64_t j = 0;
  for (; j + kUnroll * lanes <= features; j += kUnroll * lanes) {
#pragma GCC unroll 4
    for (int group = 0; group < kUnroll; ++group) body(j + group * lanes, group, lanes);
  }
  for (; j + lanes <= features; j += lanes) body(j, 0, lanes);
  if (j < features) body(j, 0, features - j);
}

template <class T>
GEODESIC_FAST_INLINE Vector<typename AccOf<T>::type> load_row(const T* row, int64_t j, int64_t count) {
  return count == kLanes<typename AccOf<T>::type> ? Memory<T>::load(row + j) : load_tail(row + j, count);
}

// Turns rows of a step into its direction, to the last bit: unit steps along an axis must cancel exactly.
// Without a length it gives zero. A copy lives in registers, so each loop takes its own.
template <class Acc>
class Direction {
 public:
  Direction() : Direction(INFINITY, 0) {}
  explicit Direction(Acc length) : Direction(length, 1 / length) {}

  GEODESIC_FAST_INLINE Vector<Acc> operator()(Vector<Acc> v) const {
#if defined(GEODESIC_FAST_FUSED)
    const Vector<Acc> u = v * inverse_;
    return fused(fused(-u, length_, v), inverse_, u);
#else
    return v / length_;
#endif
  }

 private:
  GEODESIC_FAST_INLINE Direction(Acc length, Acc inverse)
#if defined(GEODESIC_FAST_FUSED)
      : length_(broadcast(inverse == 0 ? Acc(1) : length)), inverse_(broadcast(inverse)) {
#else
      : length_(broadcast(length)), inverse_(broadcast(inverse)) {
#endif
  }
  Vector<Acc> length_, inverse_;
};

constexpr int64_t kSumRun = 32;  // vectors added in a row before they join the total: keeps long sums exact

// sums[i] = the sum over the features of what body(j, count, part) adds to part[i]; rows may be padded.
template <class Acc, int kCount, class Body>
GEODESIC_FAST_INLINE void sum_over_features(int64_t features, Acc (&sums)[kCount], const Body& body) {
  constexpr int64_t run = kSumRun * kUnroll * kLanes<Acc>;
  Vector<Acc> totals[kCount] = {};
  for (int64_t begin = 0; begin < features; begin += run) {
    Vector<Acc> parts[kUnroll][kCount] = {};
    for_vectors<Acc>(features - begin < run ? features - begin : run,
                     [&](int64_t j, int group, int64_t count) { body(begin + j, count, parts[group]); });
    for (int i = 0; i < kCount; ++i) totals[i] += (parts[0][i] + parts[1][i]) + (parts[2][i] + parts[3][i]);
  }
  for (int i = 0; i < kCount; ++i) sums[i] = sum_lanes<Acc>(totals[i]);
}

// The sum of term(j) over the features, one by one.
template <class Term>
static inline double sum_one_by_one(int64_t features, const Term& term) {
  double total = 0;
  for (int64_t begin = 0; begin < features; begin += kSumRun) {
    const int64_t end = begin + kSumRun < features ? begin + kSumRun : features;
    double part = 0;
    for (int64_t j = begin; j < end; ++j) part += term(j);
    total += part;
  }
  return total;
}

// The largest |current - previous| of a row times `factor`; NaN if any is.
template <class T>
static inline double largest_difference(const T* current, const T* previous, double factor,
                                        int64_t features) {
  double largest = 0;
  for (int64_t j = 0; j < features; ++j) {
    const double size = std::fabs(double(widen(current[j])) * factor - double(widen(previous[j])) * factor);
    if (!(size <= largest)) largest = size;
    if (size != size) break;
  }
  return largest;
}

// The unit step and its length, for lengths whose square leaves the range of the accumulation type.
// NaN or inf in the row: NaN throughout.
template <class T, class Acc = typename AccOf<T>::type>
static inline Length scaled_direction(const T* current, const T* previous, Acc* direction, int64_t features) {
  double factor = 1, largest = largest_difference(current, previous, factor, features);
  if (largest > kLargestDouble) {  // a difference overflowed, of halves it does not
    factor = 0.5;
    largest = largest_difference(current, previous, factor, features);
  }
  const bool finite = largest <= kLargestDouble;
  const auto part_at = [=](int64_t j) {
    return (double(widen(current[j])) * factor - double(widen(previous[j])) * factor) / largest;
  };
  const double root =
      finite && largest > 0
          ? std::sqrt(sum_one_by_one(features, [&](int64_t j) { return part_at(j) * part_at(j); }))
          : 0;
  for (int64_t j = 0; j < features; ++j) {
    direction[j] = !finite ? Acc(NAN) : largest > 0 ? Acc(part_at(j) / root) : Acc(0);
  }
  for (int64_t j = features; j < padded<Acc>(features); ++j) direction[j] = 0;
  return finite ? Length::product(largest, root, 1 / factor) : Length(NAN);
}

template <class Acc>
static inline Acc dot_rows(const Acc* a, const Acc* b, int64_t features) {
  Acc dot[1];
  sum_over_features(features, dot, [=](int64_t j, int64_t count, Vector<Acc>(&part)[1]) {
    part[0] += load_row(a, j, count) * load_row(b, j, count);
  });
  return dot[0];
}

// |a - b| of two directions, or |a + b| where their cosine is below 0.
template <class Acc>
static inline double apart_rows(const Acc* a, const Acc* b, bool opposite, int64_t features) {
  const Vector<Acc> sign = broadcast(opposite ? Acc(-1) : Acc(1));
  Acc square[1];
  sum_over_features(features, square, [=](int64_t j, int64_t count, Vector<Acc>(&part)[1]) {
    const Vector<Acc> off = load_row(a, j, count) - sign * load_row(b, j, count);
    part[0] += off * off;
  });
  return std::sqrt(double(square[0]));
}

// |a - b|, any magnitude; `spare` is a row to work in, and holds the direction where `scaled` is set.
template <class T, class Acc = typename AccOf<T>::type>
static inline Length distance(const T* a, const T* b, Acc* spare, int64_t features, bool* scaled = nullptr) {
  Acc square[1];
  sum_over_features(features, square, [=](int64_t j, int64_t count, Vector<Acc>(&part)[1]) {
    const Vector<Acc> v = load_row(a, j, count) - load_row(b, j, count);
    part[0] += v * v;
  });
  const bool safe = is_safe_square(square[0]);
  if (scaled != nullptr) *scaled = !safe;
  return safe ? Length(std::sqrt(double(square[0]))) : scaled_direction(a, b, spare, features);
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
