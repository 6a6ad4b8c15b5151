// SPDX-License-Identifier: MIT
// track_distance and nearest_track: what both need to know of the tracks beforehand.
// Memory: reads the tracks twice. Work: a few operations a value, against m / 2 multiply-adds behind it.
// Numbers: sums in float64. Bound: read bandwidth.
#include "kernels.h"
#include "pair_distance.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

constexpr int64_t kSlice = 512;         // features of a layer that a thread sums up at a time
constexpr double kSmall = 0x1p-40;      // keeps sums of the largest float64 finite
constexpr double kNotFinite = -0x1p90;  // a square no bound can pass over
template <class Acc>
constexpr int kLargestExponent = sizeof(Acc) == 8 ? 1000 : 126;

struct Part {
  double sums[kSlice];
  double largest;
};

GEODESIC_FAST_INLINE void add_values(Vector<float> v, double* sums) {
  HalfVector half[2];
  std::memcpy(half, &v, sizeof(v));
  for (int h = 0; h < 2; ++h, sums += kLanes<double>) {
    const Vector<double> sum =
        load_unaligned<Vector<double>>(sums) + __builtin_convertvector(half[h], Vector<double>) * kSmall;
    std::memcpy(sums, &sum, sizeof(sum));
  }
}
GEODESIC_FAST_INLINE void add_values(Vector<double> v, double* sums) {
  const Vector<double> sum = load_unaligned<Vector<double>>(sums) + v * kSmall;
  std::memcpy(sums, &sum, sizeof(sum));
}

// As add_row, value by value.
template <class T>
static inline uint8_t add_broken_row(const T* row, int64_t count, Part* part) {
  uint8_t seen = 0;
  for (int64_t j = 0; j < count; ++j) {
    const double value = double(widen(row[j])), size = std::fabs(value);
    if (size <= 1.7976931348623157e308) {
      part->sums[j] += value * kSmall;
      part->largest = size > part->largest ? size : part->largest;
    } else {
      seen |= value != value ? kNaNTrack : kInfiniteTrack;
    }
  }
  return seen;
}

// Adds the finite values of one row and raises `largest`; says what others were seen.
template <class T, class Acc = typename AccOf<T>::type>
static inline uint8_t add_row(const T* row, int64_t count, Part* part) {
  Vector<Acc> top = {}, off = {};
  for_vectors<Acc>(count, [&](int64_t j, int, int64_t lanes) {
    const Vector<Acc> v = load_row(row, j, lanes), size = v < 0 ? -v : v;
    top = size > top ? size : top;
    off += v - v;
  });
  if (sum_lanes<Acc>(off) != 0) return add_broken_row(row, count, part);
  Acc tops[kLanes<Acc>];
  std::memcpy(tops, &top, sizeof(top));
  for (Acc size : tops) part->largest = double(size) > part->largest ? double(size) : part->largest;
  for_vectors<Acc>(
      count, [&](int64_t j, int, int64_t lanes) { add_values(load_row(row, j, lanes), part->sums + j); });
  return 0;
}

template <class T>
void add_layer(const TracksView& tracks, int64_t layer, int64_t feature, int64_t count, uint8_t* kinds,
               Part* part) {
  for (int64_t i = 0; i < tracks.tracks; ++i) {
    const uint8_t seen = add_row(row_of<T>(tracks, layer, tracks.offset(i)) + feature, count, part);
    if (seen != 0) __atomic_fetch_or(kinds + i, seen, __ATOMIC_RELAXED);
  }
}

// Leaves the mean of the points as they are in `centre`, and returns their largest coordinate.
template <class T, class Acc = typename AccOf<T>::type>
double measure(const TrackPairs& pairs, int threads) {
  const TracksView& tracks = pairs.tracks;
  const int64_t slices = (tracks.features + kSlice - 1) / kSlice;
  const int64_t count = tracks.tracks + (pairs.symmetric ? 0 : pairs.other.tracks);
  threads = useful_threads(slices * tracks.points, threads);
  const Scratch scratch(threads, sizeof(Part));
  for (int t = 0; t < threads; ++t) reinterpret_cast<Part*>(scratch.part(t))->largest = 0;
  parallel_for(slices * tracks.points, 1, threads, [&](int64_t item, int64_t, int thread) {
    Part* part = reinterpret_cast<Part*>(scratch.part(thread));
    const int64_t layer = item / slices, feature = item % slices * kSlice;
    const int64_t width = tracks.features - feature < kSlice ? tracks.features - feature : kSlice;
    std::memset(part->sums, 0, sizeof(part->sums));
    add_layer<T>(tracks, layer, feature, width, pairs.kinds, part);
    if (!pairs.symmetric) add_layer<T>(pairs.other, layer, feature, width, pairs.other_kinds, part);
    Acc* centre = static_cast<Acc*>(pairs.centre) + layer * tracks.features + feature;
    for (int64_t j = 0; j < width; ++j) centre[j] = Acc(part->sums[j] / double(count) / kSmall);
  });
  double largest = 0;
  for (int t = 0; t < threads; ++t) {
    const double mine = reinterpret_cast<Part*>(scratch.part(t))->largest;
    largest = mine > largest ? mine : largest;
  }
  return largest;
}

template <class T, class Acc = typename AccOf<T>::type>
void measure_squares(const TracksView& tracks, const Acc* centre, Acc scale, uint8_t* kinds, Acc* squares,
                     int threads) {
  parallel_for(tracks.tracks, 64, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      if (kinds[i] >= kNaNTrack) kinds[i] = kNaNTrack;
    }
    for (int64_t layer = 0; layer < tracks.points; ++layer) {
      const Acc* middle = centre + layer * tracks.features;
      for (int64_t i = begin; i < end; ++i) {
        const T* row = row_of<T>(tracks, layer, tracks.offset(i));
        Vector<double> sums[kUnroll][2] = {};
        for_vectors<Acc>(tracks.features, [&](int64_t j, int group, int64_t count) {
          const Vector<Acc> v = load_row(row, j, count) * broadcast(scale) - load_row(middle, j, count);
          add_squares(v, Vector<Acc>{}, sums[group]);
        });
        Vector<double> sum = sums[0][0] + sums[0][1];
        for (int group = 1; group < kUnroll; ++group) sum += sums[group][0] + sums[group][1];
        const double square = kinds[i] == kFiniteTrack ? sum_lanes<double>(sum) : kNotFinite;
        squares[layer * tracks.tracks + i] = Acc(square);
      }
    }
  });
}

template <class T, class Acc = typename AccOf<T>::type>
void prepare(const TrackPairs& pairs, int threads) {
  std::memset(pairs.kinds, 0, pairs.tracks.tracks);
  if (!pairs.symmetric) std::memset(pairs.other_kinds, 0, pairs.other.tracks);
  const double largest = measure<T>(pairs, threads);
  constexpr int most = kLargestExponent<Acc>;
  int exponent = 0;
  (void)std::frexp(largest, &exponent);
  exponent = exponent > most ? most : exponent < -most ? -most : exponent;
  const Acc scale = Acc(*pairs.scale = std::ldexp(1.0, -exponent));
  Acc* centre = static_cast<Acc*>(pairs.centre);
  for (int64_t j = 0; j < pairs.tracks.points * pairs.tracks.features; ++j) centre[j] *= scale;
  measure_squares<T>(pairs.tracks, centre, scale, pairs.kinds, static_cast<Acc*>(pairs.squares), threads);
  if (pairs.symmetric) return;
  measure_squares<T>(pairs.other, centre, scale, pairs.other_kinds, static_cast<Acc*>(pairs.other_squares),
                     threads);
}

}  // namespace

void track_pairs_prepare(const TrackPairs& pairs, const Place& place) {
  with_dtype(pairs.tracks.dtype, [&](auto zero) { prepare<decltype(zero)>(pairs, place.threads); });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
