// SPDX-License-Identifier: MIT
// lss and track_geometry, forward.
// Memory: the tracks are read once, (n+1) m d values; what a group of steps reads twice stays in the cache.
// Work:   7 operations per value for lss, 8 for all fields.
// Numbers: float32 sums in lanes (float64 for float64 tracks), float64 for what has one value per step.
// Bound:  read bandwidth.
#include "cpu_kernels.h"
#include "geometry_sums.h"
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
  ForwardPass(const GeometryForward& args, char* scratch)
      : args_(args), features_(args.tracks.features), width_(padded<Acc>(features_)) {
    sum_ = reinterpret_cast<Acc*>(scratch);
    total_ = sum_ + width_, spare_ = sum_ + 2 * width_, other_ = sum_ + 3 * width_;
    const int64_t fitting = kCacheBytes / (features_ * static_cast<int64_t>(2 * sizeof(T))) - 1;
    group_ = fitting < 1 ? 1 : fitting < kGroup ? fitting : kGroup;
  }

  static int64_t scratch_bytes(const GeometryForward& args) {
    return 4 * padded<Acc>(args.tracks.features) * static_cast<int64_t>(sizeof(Acc));
  }

  void run(int64_t begin, int64_t end) {
    for (track_ = begin; track_ < end; ++track_) {
      offset_ = args_.tracks.offset(track_);
      next_offset_ = track_ + 1 < end ? args_.tracks.offset(track_ + 1) : -1;
      sums_ = GeometrySums();
      last_layer_ = direct_layer_ = 0;
      std::memset(sum_, 0, 2 * width_ * sizeof(Acc));
      for (int64_t layer = 1; layer < args_.tracks.points;) {
        const int64_t left = args_.tracks.points - layer;
        with_group_size(left < group_ ? left : group_, [&](auto size) { take_steps(&layer, size); });
      }
      finish();
    }
  }

 private:
  const T* point(int64_t layer) const { return row_of<T>(args_.tracks, layer, offset_); }

  template <class Size>
  void take_steps(int64_t* layer, Size) {
    constexpr int kCount = Size::value;
    Group<T> group;
    group.point[0] = point(*layer > 1 ? *layer - 2 : 0);
    for (int k = 0; k <= kCount; ++k) group.point[1 + k] = point(*layer - 1 + k);
    look_ahead(&group, *layer + kCount, kCount);
    GroupSums<Acc> got;
    measure_steps<T, kCount, kAll>(group, &got, features_);
    Acc lengths[kCount];
    bool safe = true;
    for (int k = 0; k < kCount; ++k) {
      lengths[k] = std::sqrt(got.squares[k]);
      safe = safe && is_safe_square(got.squares[k]);
    }
    if (safe) {
      add_directions<T, kCount>(group, lengths, sum_, features_);
      for (int k = 0; k < kCount; ++k) count(*layer + k, lengths[k], got.dots[k], true);
    } else {
      for (int k = 0; k < kCount; ++k) take_one_step(*layer + k, lengths[k], got.squares[k], got.dots[k]);
    }
    *layer += kCount;
    if ((*layer - 1) / kFlushSteps != (*layer - 1 - kCount) / kFlushSteps) flush();
  }

  // The rows that the next group reads, of this track or of the next one.
  void look_ahead(Group<T>* group, int64_t layer, int count) const {
    const bool here = layer < args_.tracks.points;
    if (!here && next_offset_ < 0) return;
    const int64_t first = here ? layer : 0, left = args_.tracks.points - first;
    group->fetched = static_cast<int>(left < count ? left : count);
    for (int row = 0; row < group->fetched; ++row) {
      group->ahead[row] = row_of<T>(args_.tracks, first + row, here ? offset_ : next_offset_);
    }
  }

  // Where one length of a group leaves the safe range, each step is taken on its own.
  void take_one_step(int64_t layer, Acc length, Acc square, Acc dot) {
    if (is_safe_square(square)) {
      Group<T> group;
      group.point[1] = point(layer - 1), group.point[2] = point(layer);
      add_directions<T, 1>(group, &length, sum_, features_);
      return count(layer, length, dot, true);
    }
    const double exact = scaled_direction(point(layer), point(layer - 1), spare_, features_);
    for (int64_t j = 0; j < width_; ++j) sum_[j] += spare_[j];
    count(layer, exact, 0, false);
  }

  // `direct`: length^2 and dot are in the safe range.
  void count(int64_t layer, double length, Acc dot, bool direct) {
    if (args_.lengths != nullptr) {
      static_cast<Acc*>(args_.lengths)[(layer - 1) * args_.tracks.tracks + track_] = Acc(length);
    }
    if (!kAll) {
      ++sums_.steps;
      sums_.zero_steps += length == 0;
      return;
    }
    const bool directed = length != 0 || args_.zero_step == ZeroStep::kKeep;
    if (directed && last_layer_ > 0) {
      const bool plain = direct && direct_layer_ == layer - 1 && last_layer_ == layer - 1;
      sums_.add_cosine(plain ? double(dot / (Acc(length) * last_length_))
                             : scaled_cosine(layer, last_layer_));
    }
    sums_.add_length(length);
    if (direct) direct_layer_ = layer;
    if (directed) last_layer_ = layer, last_length_ = Acc(length);
  }

  double scaled_cosine(int64_t layer, int64_t earlier) const {
    scaled_direction(point(layer), point(layer - 1), spare_, features_);
    scaled_direction(point(earlier), point(earlier - 1), other_, features_);
    return dot_rows(spare_, other_, features_);
  }

  void flush() {
    for (int64_t j = 0; j < width_; ++j) total_[j] += sum_[j];
    std::memset(sum_, 0, width_ * sizeof(Acc));
  }

  void finish() {
    const TracksView& tracks = args_.tracks;
    flush();
    if (args_.direction_sum != nullptr) {
      std::memcpy(static_cast<Acc*>(args_.direction_sum) + track_ * features_, total_,
                  features_ * sizeof(Acc));
    }
    const double resultant = std::sqrt(double(dot_rows(total_, total_, features_)));
    Acc* fields = static_cast<Acc*>(args_.fields) + track_;
    if (!kAll) {
      const double n = direction_count(sums_.steps, sums_.zero_steps, args_.zero_step);
      *fields = Acc(lss_of(n, sums_.steps - sums_.zero_steps, resultant));
      return;
    }
    const double chord = distance(point(tracks.points - 1), point(0), spare_, features_);
    write_fields(sums_, resultant, chord, args_.zero_step, fields, tracks.tracks);
    args_.zero_steps[track_] = sums_.zero_steps;
  }

  const GeometryForward& args_;
  int64_t features_, width_, group_;
  Acc *sum_, *total_, *spare_, *other_;  // rows: directions summed lately, before, and two to work in
  GeometrySums sums_;
  int64_t track_ = 0, offset_ = 0, next_offset_ = -1;
  int64_t last_layer_ = 0, direct_layer_ = 0;  // the last step counted as a direction; the last safe one
  Acc last_length_ = 0;                        // of the former
};

template <class T, bool kAll>
void forward(const GeometryForward& args, int threads) {
  using Pass = ForwardPass<T, kAll>;
  const int64_t chunk = chunk_of(args.tracks);
  threads = useful_threads((args.tracks.tracks + chunk - 1) / chunk, threads);
  const Scratch scratch(threads, Pass::scratch_bytes(args));
  parallel_for(args.tracks.tracks, chunk, threads, [&](int64_t begin, int64_t end, int thread) {
    Pass(args, scratch.part(thread)).run(begin, end);
  });
}

}  // namespace

void track_geometry_forward(const GeometryForward& args, int threads) {
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    args.only_lss ? forward<T, false>(args, threads) : forward<T, true>(args, threads);
  });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
