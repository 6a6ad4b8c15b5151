// SPDX-License-Identifier: MIT
// step_geometry, forward and backward.
// Memory: forward reads the tracks once, backward reads them and writes the gradient once; what the steps of
// a
//         group, or neighbouring points, share stays in the cache.
// Work:   11 operations a value forward, 25 backward.
// Numbers: float32 lanes (float64 for float64 tracks); a step or a state whose square leaves their range is
//          taken again in float64, in units of its largest coordinate.
// Bound:  memory bandwidth.
#include "step_geometry.h"

#include "kernels.h"
#include "track_blocks.h"
#include "track_groups.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSteps = 4;  // at once: five sums each, as many as 32 vector registers hold
#else
constexpr int kSteps = 2;
#endif

constexpr int64_t kRun = kSumRun / 2;  // vectors added in a row: cosines near 1 show every rounding

enum Sum : int { kSquare = 0, kState, kStates, kUpdate, kTurn, kSums };

// One step: |v|^2, |x^(l)|^2, <x^(l-1), x^(l)>, <v, x^(l-1)>, <v, the step before>.
template <class T, int kCount, class Acc = typename AccOf<T>::type>
static inline void sum_steps(const T* const* point, const T* const* ahead, int64_t features,
                             Acc (*sums)[kSums]) {
  constexpr int64_t lanes = kLanes<Acc>;
  Vector<Acc> totals[kCount][kSums] = {};
  for (int64_t begin = 0; begin < features; begin += kRun * lanes) {
    const int64_t end = begin + kRun * lanes < features ? begin + kRun * lanes : features;
    Vector<Acc> run[kCount][kSums] = {};
    const auto body = [&](int64_t j, int64_t count) {
#pragma GCC unroll 4
      for (int k = 0; k < kCount; ++k) __builtin_prefetch(ahead[k] + j);
      Vector<Acc> previous = load_row(point[1], j, count);
      Vector<Acc> before = previous - load_row(point[0], j, count);
#pragma GCC unroll 4
      for (int k = 0; k < kCount; ++k) {
        const Vector<Acc> current = load_row(point[2 + k], j, count), v = current - previous;
        run[k][kSquare] += v * v;
        run[k][kState] += current * current;
        run[k][kStates] += current * previous;
        run[k][kUpdate] += v * previous;
        run[k][kTurn] += v * before;
        previous = current, before = v;
      }
    };
    int64_t j = begin;
    for (; j + lanes <= end; j += lanes) body(j, lanes);
    if (j < end) body(j, end - j);
    for (int k = 0; k < kCount; ++k) {
      for (int sum = 0; sum < kSums; ++sum) totals[k][sum] += run[k][sum];
    }
  }
  for (int k = 0; k < kCount; ++k) {
    for (int sum = 0; sum < kSums; ++sum) sums[k][sum] = sum_lanes<Acc>(totals[k][sum]);
  }
}

// A row, or the difference of two, in units of its largest coordinate: any magnitude, in float64.
template <class T>
struct ScaledRow {
  const T *now, *before;  // before: null for a state
  double factor = 1;      // of the row: a half where a difference would overflow
  double unit = 0, root = 0;

  ScaledRow(const T* now, const T* before, int64_t features) : now(now), before(before) {
    find_unit(features);
    if (std::isinf(unit)) {
      factor = 0.5;
      find_unit(features);
    }
    if (std::isinf(unit)) unit = NAN;
    if (unit == 0) return;
    root = std::sqrt(sum_one_by_one(features, [&](int64_t j) { return part(j) * part(j); }));
  }
  void find_unit(int64_t features) {
    unit = 0;
    for (int64_t j = 0; j < features && unit == unit; ++j) {
      const double size = std::fabs(value(j));
      if (!(size <= unit)) unit = size;
    }
  }
  double value(int64_t j) const {
    return double(widen(now[j])) * factor - (before == nullptr ? 0.0 : double(widen(before[j])) * factor);
  }
  double part(int64_t j) const { return value(j) / unit; }
  double direction(int64_t j) const { return unit == 0 ? 0.0 : part(j) / root; }
  double norm() const { return unit == 0 ? 0.0 : unit * root / factor; }
  // Its norm in units of another row's; NaN where either is zero.
  double over(const ScaledRow& other) const {
    return unit / other.unit * (root / other.root) * (other.factor / factor);
  }
  // The cosine with another row; NaN where either is zero.
  double cosine(const ScaledRow& other, int64_t features) const {
    const double dot = sum_one_by_one(features, [&](int64_t j) { return part(j) * other.part(j); });
    return within_one(dot / root / other.root);
  }
};

template <class T>
class ForwardPass {
  using Acc = typename AccOf<T>::type;

 public:
  ForwardPass(const StepGeometry& args, char* scratch, int64_t)
      : args_(args),
        m_(args.tracks.tracks),
        n_(args.tracks.steps()),
        last_(reinterpret_cast<Last*>(scratch)) {}

  static int64_t bytes_per_track(const StepGeometry& args) {
    return (kSteps + 2) * args.tracks.features * static_cast<int64_t>(sizeof(T));
  }
  static int64_t scratch_bytes(const StepGeometry&, int64_t block) {
    return block * static_cast<int64_t>(sizeof(Last));
  }

  void run(int64_t begin, int64_t end) {
    begin_ = begin, end_ = end;
    for (int64_t track = begin; track < end; ++track) start(track);
    for (int64_t layer = 1; layer <= n_;) {
      const int64_t left = n_ + 1 - layer;
      with_group_size(left < kSteps ? left : kSteps, [&](auto size) {
        constexpr int kCount = decltype(size)::value < kSteps ? decltype(size)::value : kSteps;
        for (int64_t track = begin; track < end; ++track) take_steps<kCount>(layer, track);
        layer += kCount;
      });
    }
  }

 private:
  // Of the last point and the last step: their squares, and whether both are in the safe range.
  struct Last {
    Acc state, square;
    bool safe;
  };

  const T* point(int64_t layer, int64_t track) const {
    return row_of<T>(args_.tracks, layer, args_.tracks.offset(track));
  }

  void start(int64_t track) {
    const T* first = point(0, track);
    Acc sums[1];
    sum_over_features(args_.tracks.features, sums, [=](int64_t j, int64_t count, Vector<Acc>(&part)[1]) {
      const Vector<Acc> x = load_row(first, j, count);
      part[0] += x * x;
    });
    const Acc state = sums[0];
    last_[track - begin_] = {state, Acc(1), is_safe_square(state)};
    if (args_.kept == nullptr) return;
    const bool safe = is_safe_square(state);
    keep(kStateNorm, 0, track,
         safe ? std::sqrt(double(state)) : ScaledRow<T>(first, nullptr, args_.tracks.features).norm());
    keep(kKeptLength, 0, track, 0);
  }

  template <int kCount>
  void take_steps(int64_t layer, int64_t track) {
    const T *points[kCount + 2], *ahead[kCount];
    points[0] = point(layer > 1 ? layer - 2 : 0, track);
    for (int k = 0; k <= kCount; ++k) points[1 + k] = point(layer - 1 + k, track);
    const bool more = track + 1 < end_;  // in this block; else the layers behind, of its first track
    for (int k = 0; k < kCount; ++k) {
      const int64_t wanted = more ? layer + k : layer + kCount + k;
      ahead[k] = point(wanted < n_ ? wanted : n_, more ? track + 1 : begin_);
    }
    Acc sums[kCount][kSums];
    sum_steps<T, kCount>(points, ahead, args_.tracks.features, sums);
    Last& last = last_[track - begin_];
    for (int k = 0; k < kCount; ++k) {
      const Last now{sums[k][kState], sums[k][kSquare],
                     is_safe_square(sums[k][kState]) && is_safe_square(sums[k][kSquare])};
      if (last.safe && now.safe) {
        write_safe(layer + k, track, last, now, sums[k]);
      } else {
        write_scaled(layer + k, track);
      }
      last = now;
    }
  }

  void write_safe(int64_t layer, int64_t track, const Last& last, const Last& now, const Acc (&sums)[kSums]) {
    const double length = std::sqrt(double(now.square)), before = std::sqrt(double(last.state)),
                 after = std::sqrt(double(now.state));
    write(kStepLength, layer, track, length);
    write(kRelativeLength, layer, track, length / before);
    write(kStateCosine, layer, track, within_one(sums[kStates] / (before * after)));
    write(kUpdateCosine, layer, track, within_one(sums[kUpdate] / (length * before)));
    if (layer > 1) {
      const double turn = sums[kTurn] / (length * std::sqrt(double(last.square)));
      write(kTurningCosine, layer - 1, track, within_one(turn));
    }
    finish(layer, track, after, length);
  }

  void write_scaled(int64_t layer, int64_t track) {
    const int64_t d = args_.tracks.features;
    const T *from = point(layer - 1, track), *to = point(layer, track);
    const ScaledRow<T> before(from, nullptr, d), after(to, nullptr, d), step(to, from, d);
    const double finite = before.unit + after.unit == before.unit + after.unit ? 1.0 : NAN;
    write(kStepLength, layer, track, step.norm() * finite);
    write(kRelativeLength, layer, track, step.over(before) * finite);
    if (before.unit == 0 && step.unit != 0) write(kRelativeLength, layer, track, INFINITY * finite);
    if (before.unit != 0 && step.unit == 0) write(kRelativeLength, layer, track, 0 * finite);
    write(kStateCosine, layer, track, before.cosine(after, d));
    write(kUpdateCosine, layer, track, step.cosine(before, d));
    if (layer > 1) {
      const ScaledRow<T> earlier(from, point(layer - 2, track), d);
      write(kTurningCosine, layer - 1, track, step.cosine(earlier, d));
    }
    finish(layer, track, after.norm(), step.norm());
  }

  void finish(int64_t layer, int64_t track, double norm, double length) {
    if (layer == n_) write(kTurningCosine, n_, track, 0);
    if (args_.kept == nullptr) return;
    keep(kStateNorm, layer, track, norm);
    keep(kKeptLength, layer, track, length);
  }
  void write(int field, int64_t layer, int64_t track, double value) {
    static_cast<Acc*>(args_.fields)[(field * n_ + layer - 1) * m_ + track] = Acc(value);
  }
  void keep(int row, int64_t layer, int64_t track, double value) {
    args_.kept[(row * (n_ + 1) + layer) * m_ + track] = value;
  }

  const StepGeometry& args_;
  int64_t m_, n_, begin_ = 0, end_ = 0;
  Last* last_;
};

template <class T>
class BackwardPass {
  using Acc = typename AccOf<T>::type;

 public:
  BackwardPass(const StepGeometryBackward& args, char*, int64_t)
      : args_(args), m_(args.tracks.tracks), n_(args.tracks.steps()) {}

  static int64_t bytes_per_track(const StepGeometryBackward& args) {
    return 6 * args.tracks.features * static_cast<int64_t>(sizeof(T));
  }
  static int64_t scratch_bytes(const StepGeometryBackward&, int64_t) { return 0; }

  void run(int64_t begin, int64_t end) {
    for (int64_t layer = 0; layer <= n_; ++layer) {
      for (int64_t track = begin; track < end; ++track) write_point(layer, track);
    }
  }

 private:
  // The five points around one, and the sizes that make unit vectors of them and of the four steps between.
  struct Around {
    const T* point[5];
    double norm[5], length[5];  // length[k]: of the step that ends in point[k]
    bool plain;                 // all that is asked for is in the range where squares are safe
  };

  Around around(int64_t layer, int64_t track, const PointTerms<Acc>& terms) const {
    Around found;
    found.plain = true;
    for (int k = 0; k < 5; ++k) {
      const int64_t l = layer - 2 + k, there = l < 0 ? 0 : l > n_ ? n_ : l;
      found.point[k] = row_of<T>(args_.tracks, there, args_.tracks.offset(track));
      found.norm[k] = args_.kept[there * m_ + track];
      found.length[k] = l < 1 || l > n_ ? 0 : args_.kept[(n_ + 1 + l) * m_ + track];
      const Acc state = Acc(found.norm[k] * found.norm[k]), step = Acc(found.length[k] * found.length[k]);
      found.plain = found.plain && is_near(found.norm[k]);
      if (k > 0 && terms.on[kOnStepBefore + k - 1] != 0) {
        found.plain =
            found.plain && is_safe_square(step) && is_safe(terms.on[kOnStepBefore + k - 1], found.length[k]);
      }
      if (k > 0 && k < 4 && terms.on[kOnStateBefore + k - 1] != 0) {
        found.plain =
            found.plain && is_safe_square(state) && is_safe(terms.on[kOnStateBefore + k - 1], found.norm[k]);
      }
    }
    return found;
  }

  // Whether differences with other such points stay in the range, so that 0 times one of them is 0.
  static bool is_near(double norm) { return norm < (sizeof(Acc) == 4 ? 0x1p126 : 0x1p1022); }

  void write_point(int64_t layer, int64_t track) const {
    const PointTerms<Acc> terms(args_, layer, track);
    T* out = row_of<T>(args_.gradient, layer, args_.gradient.offset(track));
    bool nothing = true;
    for (double term : terms.on) nothing = nothing && term == 0;
    if (nothing) {
      std::memset(out, 0, args_.tracks.features * sizeof(T));
      return;
    }
    const Around at = around(layer, track, terms);
    at.plain ? write_plain(at, terms, out) : write_careful(at, terms, out);
  }

  void write_plain(const Around& at, const PointTerms<Acc>& terms, T* out) const {
    Acc step[4], state[3];
    for (int k = 0; k < 4; ++k) step[k] = factor(terms.on[kOnStepBefore + k], at.length[k + 1]);
    for (int k = 0; k < 3; ++k) state[k] = factor(terms.on[kOnStateBefore + k], at.norm[k + 1]);
    for_vectors<Acc>(args_.tracks.features, [&](int64_t j, int, int64_t count) {
      Vector<Acc> x[5], total = {};
#pragma GCC unroll 5
      for (int k = 0; k < 5; ++k) x[k] = load_row(at.point[k], j, count);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) total += (x[k + 1] - x[k]) * step[k];
#pragma GCC unroll 3
      for (int k = 0; k < 3; ++k) total += x[k + 1] * state[k];
      count == kLanes<Acc> ? Memory<T>::store(out + j, total) : store_tail(out + j, total, count);
    });
  }
  // Whether a factor keeps its digits in the accumulation type.
  static bool is_safe(double term, double size) { return is_safe_square(Acc(std::fabs(term / size))); }
  static Acc factor(double term, double size) { return term == 0 ? Acc(0) : Acc(term / size); }

  // Whatever the sizes, and without touching what is not asked for, which may be NaN.
  void write_careful(const Around& at, const PointTerms<Acc>& terms, T* out) const {
    const int64_t d = args_.tracks.features;
    const T* const* x = at.point;
    const ScaledRow<T> rows[kStepTermCount] = {{x[1], x[0], d},   {x[2], x[1], d},    {x[3], x[2], d},
                                               {x[4], x[3], d},   {x[1], nullptr, d}, {x[2], nullptr, d},
                                               {x[3], nullptr, d}};
    for (int64_t j = 0; j < d; ++j) {
      double total = 0;
      for (int k = 0; k < kStepTermCount; ++k) {
        if (terms.on[k] != 0) total += terms.on[k] * rows[k].direction(j);
      }
      store_tail(out + j, broadcast(Acc(total)), 1);
    }
  }

  const StepGeometryBackward& args_;
  int64_t m_, n_;
};

}  // namespace

void step_geometry_forward(const StepGeometry& args, const Place& place) {
  with_dtype(args.tracks.dtype,
             [&](auto zero) { run_blocks<ForwardPass<decltype(zero)>>(args, args.tracks, place.threads); });
}

void step_geometry_backward(const StepGeometryBackward& args, const Place& place) {
  with_dtype(args.tracks.dtype,
             [&](auto zero) { run_blocks<BackwardPass<decltype(zero)>>(args, args.tracks, place.threads); });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
