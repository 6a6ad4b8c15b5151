// SPDX-License-Identifier: MIT
// The unit steps of a few tracks side by side, a panel (n, columns) in the accumulation type: what products
// of directions are made from. Wide tracks are taken a slice of features at a time.
#pragma once

#include "track_blocks.h"
#include "track_groups.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {

constexpr int64_t kPanelBytes = 512 << 10;  // stays in the second-level cache
constexpr int64_t kMinColumns = 768, kMaxColumns = 1536;
constexpr int64_t kTeamSteps = 32;  // steps that a thread of a team takes at a time
constexpr int64_t kSharedSteps =
    512;  // from here on all threads share one panel: each its own would be too much

// How tracks are shared out: `parts` ranges of groups of tracks, each with its own panel and a team of
// threads.
struct PanelPlan {
  int64_t together = 1, slice = 1;  // tracks side by side, and features of each at a time
  int64_t groups = 0;
  int parts = 1, team = 1;
};

template <class Acc>
GEODESIC_FAST_INLINE PanelPlan plan_panels(const TracksView& tracks, bool one_by_one, int threads) {
  const int64_t fitting = kPanelBytes / (tracks.steps() * static_cast<int64_t>(sizeof(Acc)));
  const int64_t width = fitting < kMinColumns ? kMinColumns : fitting > kMaxColumns ? kMaxColumns : fitting;
  PanelPlan plan;
  plan.slice = tracks.features < width ? tracks.features : width / kLanes<Acc> * kLanes<Acc>;
  if (!one_by_one) plan.together = width / plan.slice;
  plan.groups = (tracks.tracks + plan.together - 1) / plan.together;
  const bool shared = tracks.steps() >= kSharedSteps;
  plan.team = shared ? threads : 1;
  const int64_t worth = tracks.tracks / chunk_of(tracks) + 1;  // threads that have enough to do
  plan.parts = shared ? 1 : useful_threads(worth < plan.groups ? worth : plan.groups, threads);
  return plan;
}

template <class T>
class TrackPanel {
 public:
  using Acc = typename AccOf<T>::type;

  TrackPanel(const TracksView& tracks, const PanelPlan& plan, char* scratch)
      : tracks_(tracks), plan_(plan), n_(tracks.steps()) {
    rows_ = reinterpret_cast<Acc*>(scratch);
    spare_ = rows_ + n_ * widest(plan);
    lengths_ = reinterpret_cast<Length*>(spare_ + plan.team * padded<Acc>(tracks.features));
    exact_ = reinterpret_cast<bool*>(lengths_ + plan.together * n_);
  }

  static int64_t widest(const PanelPlan& plan) { return padded<Acc>(plan.together * plan.slice); }
  static int64_t scratch_bytes(const TracksView& tracks, const PanelPlan& plan) {
    const int64_t values = tracks.steps() * widest(plan) + plan.team * padded<Acc>(tracks.features);
    const int64_t marks = plan.together * tracks.steps();
    return values * static_cast<int64_t>(sizeof(Acc)) + marks * static_cast<int64_t>(sizeof(Length) + 1);
  }

  // Takes the lengths of all steps of one group of tracks.
  void open(int64_t group) {
    first_ = group * plan_.together;
    count_ = tracks_.tracks - first_ < plan_.together ? tracks_.tracks - first_ : plan_.together;
    over_steps([&](int64_t begin, int64_t end, int) {
      for (int64_t t = 0; t < count_; ++t) measure(t, begin, end);
    });
  }

  // Fills the panel with features `feature`... of the group's directions, and corrects lengths that took
  // scaling.
  void fill(int64_t feature) {
    feature_ = feature;
    width_ = tracks_.features - feature < plan_.slice ? tracks_.features - feature : plan_.slice;
    columns_ = padded<Acc>(count_ * width_);
    over_steps([&](int64_t begin, int64_t end, int thread) {
      for (int64_t t = 0; t < count_; ++t)
        write(t, begin, end, spare_ + thread * padded<Acc>(tracks_.features));
      for (int64_t k = begin; k < end; ++k) {
        for (int64_t j = count_ * width_; j < columns_; ++j) row(k)[j] = 0;
      }
    });
  }

  template <class Work>
  void over_steps(const Work& work) const {
    parallel_for(n_, plan_.team > 1 ? kTeamSteps : n_, plan_.team, work);
  }

  int64_t steps() const { return n_; }
  int64_t columns() const { return columns_; }
  int64_t width() const { return width_; }  // columns of one track
  int64_t first_track() const { return first_; }
  int64_t tracks() const { return count_; }  // in this group
  const Acc* rows() const { return rows_; }
  Acc* row(int64_t step) const { return rows_ + step * columns_; }
  Length length(int64_t t, int64_t step) const { return lengths_[t * n_ + step]; }  // after `fill`

 private:
  const T* point(int64_t layer, int64_t t) const {
    return row_of<T>(tracks_, layer, tracks_.offset(first_ + t));
  }

  // The points of some steps, and the same ones of the next group of tracks, if any, to fetch meanwhile.
  Group<T> points_of(int64_t t, int64_t step, int count) const {
    Group<T> group;
    const bool more = first_ + t + plan_.together < tracks_.tracks && n_ < kSharedSteps;
    const int64_t next = more ? t + plan_.together : t;
    for (int k = 0; k < count; ++k) group.ahead[k] = point(step + 1 + k, next);
    for (int k = 0; k <= count; ++k) group.point[1 + k] = point(step + k, t);
    group.point[0] = group.point[1];
    return group;
  }

  void measure(int64_t t, int64_t begin, int64_t end) {
    for (int64_t step = begin; step < end;) {
      with_group_size(end - step < kGroup ? end - step : kGroup, [&](auto size) {
        constexpr int kCount = decltype(size)::value;
        GroupSums<Acc> got;
        measure_steps<T, kCount, false>(points_of(t, step, kCount), &got, tracks_.features);
        for (int k = 0; k < kCount; ++k) {
          lengths_[t * n_ + step + k] = Length(std::sqrt(got.squares[k]));
          exact_[t * n_ + step + k] = !is_safe_square(got.squares[k]);
        }
        step += kCount;
      });
    }
  }

  void write(int64_t t, int64_t begin, int64_t end, Acc* spare) {
    for (int64_t step = begin; step < end;) {
      with_group_size(end - step < kGroup ? end - step : kGroup, [&](auto size) {
        constexpr int kCount = decltype(size)::value;
        write_directions<kCount>(points_of(t, step, kCount), t, step);
        step += kCount;
      });
    }
    for (int64_t step = begin; step < end; ++step) {
      if (!exact_[t * n_ + step]) continue;
      lengths_[t * n_ + step] = scaled_direction(point(step + 1, t), point(step, t), spare, tracks_.features);
      std::memcpy(row(step) + t * width_, spare + feature_, width_ * sizeof(Acc));
    }
  }

  template <int kCount>
  void write_directions(const Group<T>& group, int64_t t, int64_t step) {
    Direction<Acc> direction[kCount];
    for (int k = 0; k < kCount; ++k) direction[k] = Direction<Acc>(Acc(lengths_[t * n_ + step + k].value));
    Acc* to = row(step) + t * width_;
    int64_t j = 0;
    for (; j + kLanes<Acc> <= width_; j += kLanes<Acc>) {
      Vector<Acc> previous = Memory<T>::load(group.point[1] + feature_ + j);
#pragma GCC unroll 8
      for (int k = 0; k < kCount; ++k) {
        const Vector<Acc> current = Memory<T>::load(group.point[2 + k] + feature_ + j);
        __builtin_prefetch(group.ahead[k] + feature_ + j);
        SameType<Acc>::store(to + k * columns_ + j, direction[k](current - previous));
        previous = current;
      }
    }
    for (int k = 0; k < kCount && j < width_; ++k) {
      const Vector<Acc> v = load_tail(group.point[2 + k] + feature_ + j, width_ - j) -
                            load_tail(group.point[1 + k] + feature_ + j, width_ - j);
      store_tail(to + k * columns_ + j, direction[k](v), width_ - j);
    }
  }

  const TracksView& tracks_;
  const PanelPlan& plan_;
  int64_t n_, first_ = 0, count_ = 0, feature_ = 0, width_ = 0, columns_ = 0;
  Acc *rows_, *spare_;
  Length* lengths_;
  bool* exact_;
};

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
