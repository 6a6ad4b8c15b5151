// SPDX-License-Identifier: MIT
// lss and track_geometry, forward.
// Memory: the tracks are read once, (n+1) m d values; per thread two or three rows of d for each track of a
//         block, small enough for the second-level cache.
// Work:   5 operations per value for lss, 7 for all fields.
// Numbers: float32 sums in lanes (float64 for float64 tracks), float64 for what has one value per step.
// Bound:  read bandwidth.
#include "cpu_kernels.h"
#include "geometry_sums.h"
#include "parallel.h"
#include "track_blocks.h"
#include "track_rows.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

constexpr int64_t kFlushSteps = 64;  // directions summed before they join the total: keeps long sums exact

template <class T, bool kAll>
class ForwardPass {
  using Acc = typename AccOf<T>::type;

 public:
  ForwardPass(const GeometryForward& args, char* scratch, int64_t block)
      : args_(args), width_(padded<Acc>(args.tracks.features)), rows_per_track_(rows_per_track(args)) {
    rows_ = reinterpret_cast<Acc*>(scratch);
    states_ = reinterpret_cast<State*>(scratch + block_row_bytes(args, block));
  }

  static int64_t scratch_bytes(const GeometryForward& args, int64_t block) {
    return block_row_bytes(args, block) + block * static_cast<int64_t>(sizeof(State));
  }

  static int64_t bytes_per_track(const GeometryForward& args) {
    return rows_per_track(args) * padded<Acc>(args.tracks.features) * static_cast<int64_t>(sizeof(Acc)) +
           static_cast<int64_t>(sizeof(State));
  }

  // Walks the tracks [begin, end) of one block layer by layer.
  void run(int64_t begin, int64_t end) {
    const int64_t points = args_.tracks.points;
    for (int64_t track = begin; track < end; ++track) start(track, track - begin);
    for (int64_t layer = 1; layer < points; ++layer) {
      for (int64_t slot = 0; slot < end - begin; ++slot) take_step(states_[slot], begin + slot, slot, layer);
    }
    for (int64_t slot = 0; slot < end - begin; ++slot) finish(states_[slot], begin + slot, slot);
  }

 private:
  struct State {
    GeometrySums sums;
    int64_t offset;      // of the track within a layer, bytes
    int64_t last_layer;  // where the step held in the step row ends, 0 before the first
    Acc pending;         // its length, or inf once it has joined the sum of directions
    Acc row_length;      // of the step row
  };

  static int64_t rows_per_track(const GeometryForward& args) {
    return args.tracks.steps() > kFlushSteps ? 3 : 2;
  }
  static int64_t block_row_bytes(const GeometryForward& args, int64_t block) {
    const int64_t rows = rows_per_track(args) * block + 1;  // and one spare row
    return rows * padded<Acc>(args.tracks.features) * static_cast<int64_t>(sizeof(Acc));
  }

  Acc* step_row(int64_t slot) { return rows_ + (1 + slot * rows_per_track_) * width_; }
  Acc* sum_row(int64_t slot) { return step_row(slot) + width_; }
  Acc* total_row(int64_t slot) { return step_row(slot) + 2 * width_; }
  const T* row(int64_t layer, int64_t offset) const { return row_of<T>(args_.tracks, layer, offset); }

  void start(int64_t track, int64_t slot) {
    states_[slot] = State{GeometrySums(), args_.tracks.offset(track), 0, Acc(INFINITY), Acc(1)};
    std::memset(step_row(slot), 0, rows_per_track_ * width_ * sizeof(Acc));
  }

  void take_step(State& state, int64_t track, int64_t slot, int64_t layer) {
    const int64_t features = args_.tracks.features;
    const T *current = row(layer, state.offset), *previous = row(layer - 1, state.offset);
    Acc* step = step_row(slot);
    const StepSums<Acc> got =
        advance<T, kAll>(current, previous, step, sum_row(slot), Direction<Acc>(state.pending), features);
    double length, cosine;
    if (is_safe_square(got.square)) {
      const Acc root = std::sqrt(got.square);
      length = root;
      cosine = got.dot / (root * state.row_length);  // exactly 1 or -1 along an axis
      state.row_length = state.pending = root;
    } else {
      length = scaled_step(state, current, previous, step, &cosine);
    }
    if (args_.lengths != nullptr) {
      static_cast<Acc*>(args_.lengths)[(layer - 1) * args_.tracks.tracks + track] = Acc(length);
    }
    const bool directed = length != 0 || args_.zero_step == ZeroStep::kKeep;
    if (kAll && directed && state.last_layer > 0) state.sums.add_cosine(cosine);
    state.sums.add_length(length);
    if (directed) {
      state.last_layer = layer;
    } else if (kAll && state.last_layer > 0) {
      scaled_direction(row(state.last_layer, state.offset), row(state.last_layer - 1, state.offset), step,
                       features);
      state.pending = INFINITY;  // it has joined the sum already
      state.row_length = 1;
    }
    if (rows_per_track_ == 3 && layer % kFlushSteps == 0) flush(slot);
  }

  // A step too long, too short or too broken for its square: the step row becomes a unit vector.
  double scaled_step(State& state, const T* current, const T* previous, Acc* step, double* cosine) {
    const int64_t features = args_.tracks.features;
    const double length = scaled_direction(current, previous, step, features);
    *cosine = 0;
    if (kAll && state.last_layer > 0) {
      Acc* before = rows_;  // the spare row
      const int64_t last = state.last_layer;
      scaled_direction(row(last, state.offset), row(last - 1, state.offset), before, features);
      *cosine = dot_rows(step, before, features);
    }
    state.row_length = 1;
    state.pending = length != 0 ? Acc(1) : Acc(INFINITY);
    return length;
  }

  void flush(int64_t slot) {
    Acc *sum = sum_row(slot), *total = total_row(slot);
    for_vectors<Acc>(width_, [&](int64_t j, int, int64_t) {
      SameType<Acc>::store(total + j, SameType<Acc>::load(total + j) + SameType<Acc>::load(sum + j));
      SameType<Acc>::store(sum + j, Vector<Acc>{});
    });
  }

  void finish(const State& state, int64_t track, int64_t slot) {
    const TracksView& tracks = args_.tracks;
    Acc *step = step_row(slot), *sum = sum_row(slot);
    Vector<Acc> squares[kUnroll] = {};
    const Direction<Acc> direction(state.pending);
    for_vectors<Acc>(width_, [&](int64_t j, int group, int64_t) {
      Vector<Acc> s = SameType<Acc>::load(sum + j) + direction(SameType<Acc>::load(step + j));
      if (rows_per_track_ == 3) s += SameType<Acc>::load(total_row(slot) + j);
      SameType<Acc>::store(sum + j, s);
      squares[group] += s * s;
    });
    const double resultant = std::sqrt(double(sum_groups<Acc>(squares)));
    if (args_.direction_sum != nullptr) {
      std::memcpy(static_cast<Acc*>(args_.direction_sum) + track * tracks.features, sum,
                  tracks.features * sizeof(Acc));
    }
    Acc* fields = static_cast<Acc*>(args_.fields) + track;
    const GeometrySums& sums = state.sums;
    if (!kAll) {
      const double n = direction_count(sums.steps, sums.zero_steps, args_.zero_step);
      *fields = Acc(lss_of(n, sums.steps - sums.zero_steps, resultant));
      return;
    }
    const double chord =
        distance(row(tracks.points - 1, state.offset), row(0, state.offset), rows_, tracks.features);
    write_fields(sums, resultant, chord, args_.zero_step, fields, tracks.tracks);
    args_.zero_steps[track] = sums.zero_steps;
  }

  const GeometryForward& args_;
  int64_t width_, rows_per_track_;
  Acc* rows_;
  State* states_;
};

template <class T, bool kAll>
void forward(const GeometryForward& args, int threads) {
  using Pass = ForwardPass<T, kAll>;
  run_blocks<Pass>(args, args.tracks, threads);
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
