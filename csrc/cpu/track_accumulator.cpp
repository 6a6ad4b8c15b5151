// SPDX-License-Identifier: MIT
// One more layer for tracks that are measured while they arrive, and their numbers at the end.
// Memory: an update reads x^(l-1), x^(l), the last direction and the sum of directions and writes the last
//         two, 22 m d bytes for float32; what it reads twice stays in the cache; one row of d per thread.
// Work:   14 operations per value.
// Numbers: as in track_geometry: float32 sums in lanes (float64 for float64 tracks), float64 for what has one
//         value per track; the last direction in 24 bits.
// Bound:  memory bandwidth.
#include "track_accumulator.h"

#include "held_directions.h"
#include "kernels.h"
#include "parallel.h"
#include "track_blocks.h"
#include "track_rows.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

// One track's rows; `spare` is a row to work in.
template <class T>
struct Rows {
  using Acc = typename AccOf<T>::type;
  const T *before, *after;
  Acc *direction_sum, *spare;
  HeldDirection<Acc> held;
  int64_t features;

  Rows(const Accumulator& args, int64_t track, Acc* work)
      : direction_sum(static_cast<Acc*>(args.direction_sum) + track * args.tracks.features),
        spare(work),
        held(args, track),
        features(args.tracks.features) {
    const int64_t offset = args.tracks.offset(track);
    before = row_of<T>(args.tracks, 0, offset), after = row_of<T>(args.tracks, 1, offset);
  }

  GEODESIC_FAST_INLINE Vector<Acc> step(int64_t j, int64_t count) const {
    return load_row(after, j, count) - load_row(before, j, count);
  }
};

GEODESIC_FAST_INLINE void fetch(const void* address) { __builtin_prefetch(address, 1, 2); }

template <class Acc>
struct StepMeasures {
  Acc square;   // |v|^2
  Acc dot;      // <v, the row held>, where there is one
  Acc largest;  // of the features of v, in size
};

template <class Acc>
GEODESIC_FAST_INLINE Acc largest_lane(Vector<Acc> v) {
  Acc largest = 0;
  for (int lane = 0; lane < kLanes<Acc>; ++lane) largest = v[lane] > largest ? v[lane] : largest;
  return largest;
}

// Rows travel by value: pointers in registers, which no store can change.
template <class Acc, bool kDot, class T, class StepAt>
StepMeasures<Acc> measure_step(const Rows<T> rows, const StepAt step_at) {
  Acc sums[2];
  Vector<Acc> largest = {};
  sum_over_features(rows.features, sums, [&, rows, step_at](int64_t j, int64_t count, Vector<Acc>(&part)[2]) {
    const Vector<Acc> v = step_at(j, count), size = v < 0 ? -v : v;
    fetch(rows.direction_sum + j);
    part[0] += v * v;
    if (kDot) part[1] += v * rows.held.load(j, count);
    largest = size > largest ? size : largest;
  });
  return {sums[0], sums[1], largest_lane<Acc>(largest)};
}

// |u - w| of the direction of a step and the one held, or |u + w|.
template <class Acc, class T, class StepAt>
double measure_apart(const Rows<T> rows, Acc length, Acc row_length, bool opposite, const StepAt step_at) {
  const Direction<Acc> unit(length), held_unit(opposite ? -row_length : row_length);
  Acc square[1];
  sum_over_features(rows.features, square,
                    [rows, step_at, unit, held_unit](int64_t j, int64_t count, Vector<Acc>(&part)[1]) {
                      const Vector<Acc> off = unit(step_at(j, count)) - held_unit(rows.held.load(j, count));
                      part[0] += off * off;
                    });
  return std::sqrt(double(square[0]));
}

// Adds the direction of a step to the sum, or begins it, and holds it for the next step; returns the length
// of the row that is held.
template <class Acc, bool kFirst, class T, class StepAt>
Acc add_direction(const Rows<T> rows, Acc length, Acc largest, bool hold, const StepAt step_at) {
  const Direction<Acc> direction(length);
  const Vector<Acc> scale = broadcast(HeldDirection<Acc>::kLargest / (largest == 0 ? Acc(1) : largest));
  Acc square[1];
  sum_over_features(rows.features, square,
                    [rows, step_at, scale, direction, hold](int64_t j, int64_t count, Vector<Acc>(&part)[1]) {
                      const Vector<Acc> v = step_at(j, count), u = direction(v);
                      store_row(rows.direction_sum, j,
                                kFirst ? u : load_row(rows.direction_sum, j, count) + u, count);
                      if (!hold) return;
                      const Vector<Acc> held = rows.held.store(j, v * scale, count);
                      part[0] += held * held;
                    });
  return square[0] == 0 ? Acc(1) : std::sqrt(square[0]);
}

template <bool kFirst, class T>
void update_track(const Rows<T>& rows, ZeroStep zero_step, const HeldSums& held) {
  using Acc = typename AccOf<T>::type;
  GeometrySums sums = held.load();
  const bool turns = !kFirst && has_direction(sums, zero_step);
  const auto measure = [&](const auto& step_at) {
    return turns ? measure_step<Acc, true>(rows, step_at) : measure_step<Acc, false>(rows, step_at);
  };
  const auto step_at = [rows](int64_t j, int64_t count) { return rows.step(j, count); };
  StepMeasures<Acc> got = measure(step_at);
  Acc root = std::sqrt(got.square), row_length;
  Length length(root);
  bool directed = true;
  // Exactly 1 or -1 along an axis.
  const auto add_cosine = [&](const auto& of_step) {
    const Acc held_length = static_cast<Acc>(held.at(kSumRowLength));
    const double cosine = got.dot / (root * held_length);
    const bool flat = is_flat(cosine);
    sums.add_cosine(cosine, flat ? measure_apart<Acc>(rows, root, held_length, cosine < 0, of_step) : 0);
  };
  if (is_safe_square(got.square)) {
    if (turns) add_cosine(step_at);
    row_length = add_direction<Acc, kFirst>(rows, root, got.largest, true, step_at);
  } else {
    length = scaled_direction(rows.after, rows.before, rows.spare, rows.features);
    const auto unit_at = [rows](int64_t j, int64_t) { return SameType<Acc>::load(rows.spare + j); };
    got = measure(unit_at);
    root = 1;
    directed = length.value != 0 || zero_step == ZeroStep::kKeep;
    if (turns && directed) add_cosine(unit_at);
    row_length = add_direction<Acc, kFirst>(rows, root, got.largest, directed, unit_at);
  }
  if (directed) held.at(kSumRowLength) = row_length;
  sums.add_length(length);
  held.store(sums);
}

template <class T, class Acc = typename AccOf<T>::type>
void finish_track(const Accumulator& args, const Rows<T>& rows, int64_t track) {
  const GeometrySums sums = HeldSums{args.sums + track, args.tracks.tracks}.load();
  const double resultant = std::sqrt(double(dot_rows(rows.direction_sum, rows.direction_sum, rows.features)));
  const Length chord = distance(rows.after, rows.before, rows.spare, rows.features);
  write_fields(sums, resultant, chord, args.zero_step, static_cast<Acc*>(args.fields) + track,
               args.tracks.tracks);
  args.zero_steps[track] = sums.zero_steps;
}

// Calls body(rows, track) for every track.
template <class T, class Body>
void for_tracks(const Accumulator& args, int threads, const Body& body) {
  using Acc = typename AccOf<T>::type;
  const int64_t row_bytes = padded<Acc>(args.tracks.features) * static_cast<int64_t>(sizeof(Acc));
  const int64_t chunk = kChunkBytes / (6 * row_bytes) + 1;
  threads = useful_threads((args.tracks.tracks + chunk - 1) / chunk, threads);
  const Scratch scratch(threads, row_bytes);
  parallel_for(args.tracks.tracks, chunk, threads, [&](int64_t begin, int64_t end, int thread) {
    Acc* spare = reinterpret_cast<Acc*>(scratch.part(thread));
    for (int64_t track = begin; track < end; ++track) body(Rows<T>(args, track, spare), track);
  });
}

}  // namespace

void track_accumulator_update(const Accumulator& args, const Place& place) {
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_tracks<T>(args, place.threads, [&](const Rows<T>& rows, int64_t track) {
      const HeldSums held{args.sums + track, args.tracks.tracks};
      held.at(kSumSteps) == 0 ? update_track<true>(rows, args.zero_step, held)
                              : update_track<false>(rows, args.zero_step, held);
    });
  });
}

void track_accumulator_finish(const Accumulator& args, const Place& place) {
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_tracks<T>(args, place.threads,
                  [&](const Rows<T>& rows, int64_t track) { finish_track<T>(args, rows, track); });
  });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
