// SPDX-License-Identifier: MIT
// chord_deviation, forward and backward.
// Memory: forward reads the tracks once, backward reads them and writes the gradient once. What several loops
//         read of a group of points, and a few rows of d per track, stay in the cache.
// Work:   8 operations a value forward, 11 backward.
// Numbers: float32 lanes (float64 for float64 tracks), in units of the chord.
// Bound:  memory bandwidth.
#include "chord_deviation.h"

#include "kernels.h"
#include "track_blocks.h"
#include "track_groups.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

// One track: its first point, its chord and the row of the chord's direction.
template <class T, class Acc = typename AccOf<T>::type>
struct ChordRow {
  const T* first = nullptr;
  Acc* direction = nullptr;  // (d), padded with zeros
  Chord<Acc> chord;

  ChordRow() = default;
  ChordRow(const TracksView& tracks, int64_t track, Acc* direction_row)
      : first(row_of<T>(tracks, 0, tracks.offset(track))), direction(direction_row) {
    const int64_t features = tracks.features;
    const T* last = row_of<T>(tracks, tracks.steps(), tracks.offset(track));
    bool scaled;
    chord = Chord<Acc>(distance(last, first, direction, features, &scaled));
    if (scaled) return;  // the row holds the direction
    const Direction<Acc> unit(chord.length);
    const Vector<Acc> scale = broadcast(chord.scale);
    for_vectors<Acc>(features, [&, unit, scale](int64_t j, int, int64_t count) {
      const Vector<Acc> v = load_row(last, j, count) - load_row(first, j, count);
      SameType<Acc>::store(direction + j, unit(v * scale));
    });
  }

  // w_l of the points of a group, in units of the chord
  GEODESIC_FAST_INLINE Vector<Acc> offset(const T* point, int64_t j, int64_t count) const {
    return (load_row(point, j, count) - load_row(first, j, count)) * chord.scale;
  }
};

// w - along e: on a straight line the difference of two rounded products is zero.
template <class V, class Acc>
GEODESIC_FAST_INLINE V without(V w, Acc along, V e) {
  return w - rounded(along * e);
}

// One point in float64, in a unit of its own: where the chord's unit does not do.
template <class T, class Acc = typename AccOf<T>::type>
class ScaledPoint {
 public:
  ScaledPoint(const ChordRow<T>& row, const T* point, int64_t features) : row_(row), point_(point) {
    const double largest = largest_difference(point, row.first, 0.5, features);
    const int exponent = largest > 0 && largest <= kLargestDouble ? ilogb(largest) : 0;
    scale_ = ldexp(1.0, -(exponent < -1000 ? -1000 : exponent));
    along_ = sum_one_by_one(features, [&](int64_t j) { return w(j) * e(j); });
    rest_ = sum_one_by_one(features, [&](int64_t j) { return (w(j) - along_ * e(j)) * e(j); });
    length_ = std::sqrt(sum_one_by_one(features, [&](int64_t j) { return off(j) * off(j); }));
  }

  double deviation() const { return over_chord(length_); }
  double fraction() const { return over_chord(along_); }
  double direction(int64_t j) const { return length_ == 0 ? 0 : off(j) / length_; }

 private:
  double w(int64_t j) const {
    return (double(widen(point_[j])) * 0.5 - double(widen(row_.first[j])) * 0.5) * scale_;
  }
  double e(int64_t j) const { return row_.direction[j]; }
  double off(int64_t j) const { return w(j) - along_ * e(j) - rest_ * e(j); }
  double over_chord(double part) const {
    const Length c = row_.chord.true_length;
    return part / (c.value * scale_ * 0.5) / c.unit;
  }

  const ChordRow<T>& row_;
  const T* point_;
  double scale_ = 1, along_ = 0, rest_ = 0, length_ = 0;
};

// sums[k] = the sum over the features of term(k, offset of point k, direction), and rests[k], if kRests, that
// of the same times the direction; in short runs.
template <int kCount, bool kRests, class T, class Acc, class Term>
static inline void sum_over_points(const ChordRow<T>& row, const T* const* point, int64_t features, Acc* sums,
                                   Acc* rests, const Term& term) {
  constexpr int64_t lanes = kLanes<Acc>;
  Vector<Acc> totals[kCount] = {}, rest_totals[kCount] = {};
  for (int64_t begin = 0; begin < features; begin += kSumRun * lanes) {
    const int64_t end = begin + kSumRun * lanes < features ? begin + kSumRun * lanes : features;
    Vector<Acc> run[kCount] = {}, rest_run[kCount] = {};
    for (int64_t j = begin; j < end; j += lanes) {
      const int64_t count = end - j < lanes ? end - j : lanes;
      const Vector<Acc> e = SameType<Acc>::load(row.direction + j);
#pragma GCC unroll 8
      for (int k = 0; k < kCount; ++k) {
        const Vector<Acc> part = term(k, row.offset(point[k], j, count), e);
        run[k] += part * (kRests ? part : e);
        if (kRests) rest_run[k] += part * e;
      }
    }
    for (int k = 0; k < kCount; ++k) totals[k] += run[k], rest_totals[k] += rest_run[k];
  }
  for (int k = 0; k < kCount; ++k) sums[k] = sum_lanes<Acc>(totals[k]);
  for (int k = 0; kRests && k < kCount; ++k) rests[k] = sum_lanes<Acc>(rest_totals[k]);
}

template <class T>
class ForwardPass {
  using Acc = typename AccOf<T>::type;

 public:
  static int64_t bytes_per_track(const ChordDeviation& args) {
    return args.tracks.features * static_cast<int64_t>(2 * sizeof(T) + sizeof(Acc));
  }
  static int64_t scratch_bytes(const ChordDeviation& args, int64_t block) {
    return block * padded<Acc>(args.tracks.features) * static_cast<int64_t>(sizeof(Acc));
  }

  ForwardPass(const ChordDeviation& args, char* scratch, int64_t)
      : args_(args), directions_(reinterpret_cast<Acc*>(scratch)) {}

  void run(int64_t begin, int64_t end) {
    const int64_t n = args_.tracks.steps(), width = padded<Acc>(args_.tracks.features);
    for (int64_t layer = 0; layer <= n;) {
      const int64_t inner = layer == 0 ? 0 : n - layer;  // points between the ends, from here on
      const int64_t count = inner < 1 ? 1 : inner < kGroup ? inner : kGroup;
      int64_t taken = 1;
      for (int64_t track = begin; track < end; ++track) {
        Acc* direction = directions_ + (track - begin) * width;
        if (layer == 0) rows_[track - begin] = ChordRow<T>(args_.tracks, track, direction);
        taken = inner < 1 ? write_end(layer, track, rows_[track - begin])
                          : write_points(layer, count, track, rows_[track - begin]);
      }
      layer += taken;
    }
  }

 private:
  int64_t write_end(int64_t layer, int64_t track, const ChordRow<T>& row) const {
    write(layer, track, row.chord.defined() ? Acc(0) : Acc(NAN), 0, 0);
    return 1;
  }

  int64_t write_points(int64_t layer, int64_t count, int64_t track, const ChordRow<T>& row) const {
    int64_t taken = 0;
    with_group_size(count, [&](auto size) {
      constexpr int kCount = decltype(size)::value;
      const T* point[kCount];
      Acc along[kCount], squares[kCount], rests[kCount];
      for (int k = 0; k < kCount; ++k) {
        point[k] = row_of<T>(args_.tracks, layer + k, args_.tracks.offset(track));
      }
      const int64_t features = args_.tracks.features;
      sum_over_points<kCount, false>(row, point, features, along, rests,
                                     [](int, Vector<Acc> w, Vector<Acc>) { return w; });
      sum_over_points<kCount, true>(
          row, point, features, squares, rests,
          [&along](int k, Vector<Acc> w, Vector<Acc> e) { return without(w, along[k], e); });
      for (int k = 0; k < kCount; ++k) {
        write_point(layer + k, track, row, point[k], along[k], squares[k], rests[k]);
      }
      taken = kCount;
    });
    return taken;
  }

  void write_point(int64_t layer, int64_t track, const ChordRow<T>& row, const T* point, Acc along,
                   Acc square, Acc rest) const {
    if (!row.chord.defined()) return write(layer, track, NAN, NAN, NAN);
    constexpr Acc unit = sizeof(Acc) == 8 ? Acc(0x1p-52) : Acc(0x1p-23);
    const Acc rounding = along * along * unit * unit;  // what is smaller than that is zero for all we know
    if (is_safe_square(along * along + square) && (is_safe_square(square) || is_safe_square(rounding))) {
      const Acc off = square - rest * rest;
      return write(layer, track, off > 0 ? std::sqrt(off) / row.chord.length : Acc(0), along, rest);
    }
    const ScaledPoint<T> scaled(row, point, args_.tracks.features);
    write(layer, track, Acc(scaled.deviation()), NAN, NAN);
  }

  void write(int64_t layer, int64_t track, Acc deviation, Acc along, Acc rest) const {
    const int64_t m = args_.tracks.tracks, at = layer * m + track;
    static_cast<Acc*>(args_.deviation)[at] = deviation;
    if (args_.along == nullptr) return;
    static_cast<Acc*>(args_.along)[at] = along;
    static_cast<Acc*>(args_.along)[args_.tracks.points * m + at] = rest;
  }

  const ChordDeviation& args_;
  Acc* directions_;
  ChordRow<T> rows_[kMaxBlock];
};

template <class T>
class BackwardPass {
  using Acc = typename AccOf<T>::type;
  static constexpr int64_t kRows = 3;

 public:
  BackwardPass(const ChordDeviationBackward& args, char* scratch, int64_t)
      : args_(args), m_(args.tracks.tracks), width_(padded<Acc>(args.tracks.features)) {
    direction_ = reinterpret_cast<Acc*>(scratch);
    shift_ = direction_ + width_;
    turn_ = shift_ + width_;
  }

  static int64_t bytes_per_track(const ChordDeviationBackward&) { return kBlockBytes; }  // one at a time
  static int64_t scratch_bytes(const ChordDeviationBackward& args, int64_t) {
    return kRows * padded<Acc>(args.tracks.features) * static_cast<int64_t>(sizeof(Acc));
  }

  void run(int64_t begin, int64_t end) {
    for (int64_t track = begin; track < end; ++track) write_track(track);
  }

 private:
  Acc at(const void* values, int64_t layer, int64_t track) const {
    return static_cast<const Acc*>(values)[layer * m_ + track];
  }
  T* target(int64_t layer, int64_t track) const {
    return row_of<T>(args_.gradient, layer, args_.gradient.offset(track));
  }

  void write_track(int64_t track) {
    const int64_t n = args_.tracks.steps();
    bool nothing = true;
    for (int64_t layer = 1; layer < n; ++layer) nothing = nothing && at(args_.grad, layer, track) == 0;
    if (nothing) {
      const size_t bytes = args_.tracks.features * sizeof(T);
      for (int64_t layer = 0; layer <= n; ++layer) std::memset(target(layer, track), 0, bytes);
      return;
    }
    const ChordRow<T> row(args_.tracks, track, direction_);
    std::memset(shift_, 0, 2 * width_ * sizeof(Acc));
    double stretch = 0;  // sum g_l deviation_l
    for (int64_t layer = 1; layer < n; ++layer) {
      const double g = at(args_.grad, layer, track), deviation = at(args_.deviation, layer, track);
      if (g != 0) stretch += g * deviation;
      if (g == 0 || deviation == 0) {
        std::memset(target(layer, track), 0, args_.tracks.features * sizeof(T));
      } else if (rest_at(layer, track) == rest_at(layer, track)) {
        write_point(row, layer, track);
      } else {
        write_scaled_point(row, layer, track);
      }
    }
    write_ends(row, Acc(over_chord(row, stretch)), track);
  }

  Acc rest_at(int64_t layer, int64_t track) const {
    return at(args_.along, args_.tracks.points + layer, track);
  }
  static double over_chord(const ChordRow<T>& row, double value) {
    return value / row.chord.true_length.value / row.chord.true_length.unit;
  }

  // g_l r_l / c, which joins `shift`, and times along_l `turn`
  void write_point(const ChordRow<T>& row, int64_t layer, int64_t track) {
    const T* point = row_of<T>(args_.tracks, layer, args_.tracks.offset(track));
    T* out = target(layer, track);
    const Acc along = at(args_.along, layer, track), rest = rest_at(layer, track);
    const Acc fraction = (along + rest) / row.chord.length;
    const Acc unit = 1 / (at(args_.deviation, layer, track) * row.chord.length);
    const Acc weight = Acc(over_chord(row, at(args_.grad, layer, track)));
    for_vectors<Acc>(args_.tracks.features, [&](int64_t j, int, int64_t count) {
      const Vector<Acc> e = SameType<Acc>::load(row.direction + j);
      const Vector<Acc> g = (without(row.offset(point, j, count), along, e) - rest * e) * unit * weight;
      SameType<Acc>::store(shift_ + j, SameType<Acc>::load(shift_ + j) + g);
      SameType<Acc>::store(turn_ + j, SameType<Acc>::load(turn_ + j) + fraction * g);
      count == kLanes<Acc> ? Memory<T>::store(out + j, g) : store_tail(out + j, g, count);
    });
  }

  void write_scaled_point(const ChordRow<T>& row, int64_t layer, int64_t track) {
    constexpr int64_t lanes = kLanes<Acc>;
    const int64_t features = args_.tracks.features;
    const ScaledPoint<T> point(row, row_of<T>(args_.tracks, layer, args_.tracks.offset(track)), features);
    const double weight = over_chord(row, at(args_.grad, layer, track)), fraction = point.fraction();
    T* out = target(layer, track);
    for (int64_t j = 0; j < features; j += lanes) {
      const int64_t count = features - j < lanes ? features - j : lanes;
      Vector<Acc> g = {};
      for (int64_t lane = 0; lane < count; ++lane) g[lane] = Acc(point.direction(j + lane) * weight);
      for (int64_t lane = 0; lane < count; ++lane) {
        shift_[j + lane] += g[lane];
        turn_[j + lane] += Acc(fraction * double(g[lane]));
      }
      count == lanes ? Memory<T>::store(out + j, g) : store_tail(out + j, g, count);
    }
  }

  void write_ends(const ChordRow<T>& row, Acc stretch, int64_t track) {
    T *first = target(0, track), *last = target(args_.tracks.steps(), track);
    for_vectors<Acc>(args_.tracks.features, [&](int64_t j, int, int64_t count) {
      const Vector<Acc> on_last =
          -SameType<Acc>::load(turn_ + j) - stretch * SameType<Acc>::load(row.direction + j);
      const Vector<Acc> on_first = -SameType<Acc>::load(shift_ + j) - on_last;
      count == kLanes<Acc> ? Memory<T>::store(last + j, on_last) : store_tail(last + j, on_last, count);
      count == kLanes<Acc> ? Memory<T>::store(first + j, on_first) : store_tail(first + j, on_first, count);
    });
  }

  const ChordDeviationBackward& args_;
  int64_t m_, width_;
  Acc *direction_, *shift_, *turn_;
};

}  // namespace

void chord_deviation_forward(const ChordDeviation& args, const Place& place) {
  with_dtype(args.tracks.dtype,
             [&](auto zero) { run_blocks<ForwardPass<decltype(zero)>>(args, args.tracks, place.threads); });
}

void chord_deviation_backward(const ChordDeviationBackward& args, const Place& place) {
  with_dtype(args.tracks.dtype,
             [&](auto zero) { run_blocks<BackwardPass<decltype(zero)>>(args, args.tracks, place.threads); });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
