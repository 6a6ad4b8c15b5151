// SPDX-License-Identifier: MIT
// lss and track_geometry, forward.
// Memory: the tracks are read once, (n+1) m d values; what a group of steps reads twice stays in the cache.
// Work:   7 operations per value for lss, 8 for all fields.
// Numbers: float32 sums in lanes (float64 for float64 tracks), float64 for what has one value per step.
// Bound:  read bandwidth.
#include "geometry_sums.h"
#include "kernels.h"
#include "track_blocks.h"
#include "track_groups.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

constexpr int64_t kFlushSteps = 64 * kGroup;  // directions summed before they join the total
constexpr int64_t kCacheBytes = 640 << 10;    // for the points of a group and of the next, per thread

template <class T, bool kAll>
class ForwardPass {
  using Acc = typename AccOf<T>::type;

 public:
  ForwardPass(const GeometryForward& args, char* scratch, int64_t block)
      : args_(args), features_(args.tracks.features), width_(padded<Acc>(features_)) {
    rows_ = reinterpret_cast<Acc*>(scratch);
    spare_ = rows_ + block * kRows * width_, other_ = spare_ + width_;
    states_ = reinterpret_cast<State*>(other_ + width_);
    const int64_t fitting = kCacheBytes / (features_ * static_cast<int64_t>(2 * sizeof(T))) - 1;
    group_ = fitting < 1 ? 1 : fitting < kGroup ? fitting : kGroup;
  }

  static int64_t bytes_per_track(const GeometryForward& args) {
    return scratch_bytes(args, 1) + (kGroup + 1) * args.tracks.features * static_cast<int64_t>(sizeof(T));
  }
  static int64_t scratch_bytes(const GeometryForward& args, int64_t block) {
    const int64_t row_bytes = padded<Acc>(args.tracks.features) * static_cast<int64_t>(sizeof(Acc));
    return (block * kRows + 2) * row_bytes + block * static_cast<int64_t>(sizeof(State));
  }

  void run(int64_t begin, int64_t end) {
    count_ = end - begin, next_ = end;
    for (int64_t slot = 0; slot < count_; ++slot) start(states_[slot], begin + slot, slot);
    for (int64_t layer = 1; layer < args_.tracks.points;) {
      const int64_t left = args_.tracks.points - layer;
      with_group_size(left < group_ ? left : group_, [&](auto size) {
        for (int64_t slot = 0; slot < count_; ++slot) take_steps(slot, layer, size);
        layer += size.value;
      });
    }
    for (int64_t slot = 0; slot < count_; ++slot) finish(states_[slot]);
  }

 private:
  static constexpr int64_t kRows = 2;
  struct State {
    int64_t track, offset;
    Acc *sum, *total;  // rows: directions summed lately, and before
    GeometrySums sums;
    int64_t last_layer, direct_layer;  // the last step counted as a direction; the last safe one
    Acc last_length;                   // of the former
  };

  const T* point(int64_t layer, const State& state) const {
    return row_of<T>(args_.tracks, layer, state.offset);
  }

  void start(State& state, int64_t track, int64_t slot) {
    state = State{};
    state.track = track;
    state.offset = args_.tracks.offset(track);
    state.sum = rows_ + slot * kRows * width_, state.total = state.sum + width_;
    std::memset(state.sum, 0, kRows * width_ * sizeof(Acc));
  }

  template <class Size>
  void take_steps(int64_t slot, int64_t layer, Size) {
    constexpr int kCount = Size::value;
    State& state = states_[slot];
    Group<T> group;
    group.point[0] = point(layer > 1 ? layer - 2 : 0, state);
    for (int k = 0; k <= kCount; ++k) group.point[1 + k] = point(layer - 1 + k, state);
    look_ahead(&group, slot, layer, kCount);
    GroupSums<Acc> got;
    measure_steps<T, kCount, kAll>(group, &got, features_);
    Acc lengths[kCount];
    bool safe = true;
    for (int k = 0; k < kCount; ++k) {
      lengths[k] = std::sqrt(got.squares[k]);
      safe = safe && is_safe_square(got.squares[k]);
    }
    if (safe) {
      add_directions<T, kCount>(group, lengths, state.sum, features_);
      for (int k = 0; k < kCount; ++k) count(state, layer + k, lengths[k], got.dots[k], true);
    } else {
      for (int k = 0; k < kCount; ++k) {
        take_one_step(state, layer + k, lengths[k], got.squares[k], got.dots[k]);
      }
    }
    if ((layer - 1 + kCount) / kFlushSteps != (layer - 1) / kFlushSteps) flush(state);
  }

  // The rows that are read next: of the next track, or the next layers of the block, or of the next block;
  // at the end, rows that are there.
  void look_ahead(Group<T>* group, int64_t slot, int64_t layer, int steps) const {
    const bool in_group = slot + 1 < count_, in_block = layer + steps < args_.tracks.points;
    const bool at_end = next_ == args_.tracks.tracks;
    const int64_t first = in_group ? layer : in_block ? layer + steps : 0;
    const int64_t offset = in_group             ? states_[slot + 1].offset
                           : in_block || at_end ? states_[0].offset
                                                : args_.tracks.offset(next_);
    for (int row = 0; row < steps; ++row) {
      const int64_t wanted = first + row, last = args_.tracks.points - 1;
      group->ahead[row] = row_of<T>(args_.tracks, wanted < last ? wanted : last, offset);
    }
  }

  // Where one length of a group leaves the safe range, each step is taken on its own.
  void take_one_step(State& state, int64_t layer, Acc length, Acc square, Acc dot) {
    if (is_safe_square(square)) {
      Group<T> group;
      group.point[1] = point(layer - 1, state), group.point[2] = group.ahead[0] = point(layer, state);
      add_directions<T, 1>(group, &length, state.sum, features_);
      return count(state, layer, length, dot, true);
    }
    const Length exact = scaled_direction(point(layer, state), point(layer - 1, state), spare_, features_);
    for (int64_t j = 0; j < width_; ++j) state.sum[j] += spare_[j];
    count(state, layer, exact, 0, false);
  }

  // `direct`: length^2 and dot are in the safe range.
  void count(State& state, int64_t layer, Length exact, Acc dot, bool direct) {
    const double length = exact.value;
    if (args_.lengths != nullptr) {  // inf: too long for the type
      static_cast<Acc*>(args_.lengths)[(layer - 1) * args_.tracks.tracks + state.track] =
          Acc(length * exact.unit);
    }
    if (!kAll) {
      ++state.sums.steps;
      state.sums.zero_steps += length == 0;
      return;
    }
    const bool directed = length != 0 || args_.zero_step == ZeroStep::kKeep;
    if (directed && state.last_layer > 0) {
      const bool plain = direct && state.direct_layer == layer - 1 && state.last_layer == layer - 1;
      if (plain) {
        const double cosine = dot / (Acc(length) * state.last_length);
        state.sums.add_cosine(cosine, is_flat(cosine) ? apart(state, layer, Acc(length), cosine < 0) : 0);
      } else {
        add_scaled_cosine(state, layer);
      }
    }
    state.sums.add_length(exact);
    if (direct) state.direct_layer = layer;
    if (directed) state.last_layer = layer, state.last_length = Acc(length);
  }

  // |u - w| of the directions of two neighbouring steps, or |u + w|, whose rows are still in the cache.
  double apart(const State& state, int64_t layer, Acc length, bool opposite) const {
    const T *now = point(layer, state), *middle = point(layer - 1, state), *before = point(layer - 2, state);
    const Direction<Acc> unit(length), unit_before(opposite ? -state.last_length : state.last_length);
    Acc square[1];
    sum_over_features(features_, square, [=](int64_t j, int64_t count, Vector<Acc>(&part)[1]) {
      const Vector<Acc> x = load_row(middle, j, count);
      const Vector<Acc> off = unit(load_row(now, j, count) - x) - unit_before(x - load_row(before, j, count));
      part[0] += off * off;
    });
    return std::sqrt(double(square[0]));
  }

  void add_scaled_cosine(State& state, int64_t layer) const {
    const int64_t earlier = state.last_layer;
    scaled_direction(point(layer, state), point(layer - 1, state), spare_, features_);
    scaled_direction(point(earlier, state), point(earlier - 1, state), other_, features_);
    const double cosine = dot_rows(spare_, other_, features_);
    state.sums.add_cosine(cosine, is_flat(cosine) ? apart_rows(spare_, other_, cosine < 0, features_) : 0);
  }

  void flush(State& state) {
    for (int64_t j = 0; j < width_; ++j) state.total[j] += state.sum[j];
    std::memset(state.sum, 0, width_ * sizeof(Acc));
  }

  void finish(State& state) {
    const TracksView& tracks = args_.tracks;
    flush(state);
    if (args_.direction_sum != nullptr) {
      std::memcpy(static_cast<Acc*>(args_.direction_sum) + state.track * features_, state.total,
                  features_ * sizeof(Acc));
    }
    const double resultant = std::sqrt(double(dot_rows(state.total, state.total, features_)));
    Acc* fields = static_cast<Acc*>(args_.fields) + state.track;
    const GeometrySums& sums = state.sums;
    if (!kAll) {
      const double n = direction_count(sums.steps, sums.zero_steps, args_.zero_step);
      *fields = Acc(lss_of(n, sums.steps - sums.zero_steps, resultant));
      return;
    }
    const Length chord = distance(point(tracks.points - 1, state), point(0, state), spare_, features_);
    write_fields(sums, resultant, chord, args_.zero_step, fields, tracks.tracks);
    args_.zero_steps[state.track] = sums.zero_steps;
  }

  const GeometryForward& args_;
  int64_t features_, width_, group_;
  Acc *rows_, *spare_, *other_;  // two rows for each track of a block, and two to work in
  State* states_;
  int64_t count_ = 0, next_ = 0;  // tracks in the block; the track behind it
};

}  // namespace

void track_geometry_forward(const GeometryForward& args, const Place& place) {
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    args.only_lss ? run_blocks<ForwardPass<T, false>>(args, args.tracks, place.threads)
                  : run_blocks<ForwardPass<T, true>>(args, args.tracks, place.threads);
  });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
