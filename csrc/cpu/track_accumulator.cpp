// SPDX-License-Identifier: MIT
// One more layer for tracks that are measured while they arrive, and their numbers at the end.
// Memory: an update reads x^(l-1), x^(l), the step and the sum of directions and writes the last two, 6 m d
//         values; two rows of d per thread.
// Work:   9 operations per value.
// Numbers: as in track_geometry: float32 sums in lanes (float64 for float64 tracks), float64 for what has one
//         value per track.
// Bound:  memory bandwidth.
#include "track_accumulator.h"

#include "cpu_kernels.h"
#include "parallel.h"
#include "track_blocks.h"
#include "track_rows.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

template <class Acc>
GEODESIC_FAST_INLINE void store_row(Acc* row, int64_t j, Vector<Acc> v, int64_t count) {
  count == kLanes<Acc> ? SameType<Acc>::store(row + j, v) : store_tail(row + j, v, count);
}

// The new step takes the place of the one before, which joins the sum of directions and is kept in `before`.
template <class T, class Acc = typename AccOf<T>::type>
StepSums<Acc> exchange_step(const T* current, const T* previous, Acc* step, Acc* direction_sum, Acc* before,
                            Direction<Acc> pending, int64_t features) {
  Vector<Acc> squares[kUnroll] = {}, dots[kUnroll] = {};
  for_vectors<Acc>(features, [&, pending](int64_t j, int group, int64_t count) {
    const Vector<Acc> old = load_row(step, j, count);
    const Vector<Acc> v = load_row(current, j, count) - load_row(previous, j, count);
    store_row(direction_sum, j, load_row(direction_sum, j, count) + pending(old), count);
    store_row(step, j, v, count);
    SameType<Acc>::store(before + j, old);
    squares[group] += v * v;
    dots[group] += v * old;
  });
  return {sum_groups<Acc>(squares), sum_groups<Acc>(dots)};
}

template <class T, class Acc = typename AccOf<T>::type>
void update_track(const Accumulator& args, int64_t track, Acc* before, Acc* spare) {
  const int64_t features = args.tracks.features, offset = args.tracks.offset(track);
  const T *previous = row_of<T>(args.tracks, 0, offset), *current = row_of<T>(args.tracks, 1, offset);
  Acc* step = static_cast<Acc*>(args.step) + track * features;
  Acc* direction_sum = static_cast<Acc*>(args.direction_sum) + track * features;
  const HeldSums held{args.sums + track, args.tracks.tracks};
  GeometrySums sums = held.load();
  const Acc before_length = Acc(held.at(kSumRowLength));
  const Direction<Acc> pending(held.at(kSumPending) == 0 ? Acc(INFINITY) : before_length);
  const StepSums<Acc> got = exchange_step(current, previous, step, direction_sum, before, pending, features);
  double length, cosine;
  Acc row_length = 1;
  if (is_safe_square(got.square)) {
    row_length = std::sqrt(got.square);
    length = row_length;
    cosine = got.dot / (row_length * before_length);  // exactly 1 or -1 along an axis
  } else {
    length = scaled_direction(current, previous, spare, features);
    cosine = dot_rows(spare, before, features) / before_length;
    std::memcpy(step, spare, features * sizeof(Acc));
  }
  const bool directed = length != 0 || args.zero_step == ZeroStep::kKeep;
  if (directed && has_direction(sums, args.zero_step)) sums.add_cosine(cosine);
  if (!directed) std::memcpy(step, before, features * sizeof(Acc));  // still the last direction
  sums.add_length(length);
  held.store(sums);
  held.at(kSumPending) = length != 0 ? Acc(1) / row_length : Acc(0);
  if (directed) held.at(kSumRowLength) = row_length;
}

template <class T, class Acc = typename AccOf<T>::type>
void finish_track(const Accumulator& args, int64_t track, Acc* spare) {
  const int64_t features = args.tracks.features, offset = args.tracks.offset(track);
  const Acc* step = static_cast<const Acc*>(args.step) + track * features;
  const Acc* direction_sum = static_cast<const Acc*>(args.direction_sum) + track * features;
  const HeldSums held{args.sums + track, args.tracks.tracks};
  const GeometrySums sums = held.load();
  Vector<Acc> squares[kUnroll] = {};
  const Direction<Acc> pending(held.at(kSumPending) == 0 ? Acc(INFINITY) : Acc(held.at(kSumRowLength)));
  for_vectors<Acc>(features, [&, pending](int64_t j, int group, int64_t count) {
    const Vector<Acc> total = load_row(direction_sum, j, count) + pending(load_row(step, j, count));
    squares[group] += total * total;
  });
  const double resultant = std::sqrt(double(sum_groups<Acc>(squares)));
  const double chord =
      distance(row_of<T>(args.tracks, 1, offset), row_of<T>(args.tracks, 0, offset), spare, features);
  write_fields(sums, resultant, chord, args.zero_step, static_cast<Acc*>(args.fields) + track,
               args.tracks.tracks);
  args.zero_steps[track] = sums.zero_steps;
}

// Calls body(track, row, row) with two rows of scratch, for every track.
template <class Acc, class Body>
void for_tracks(const Accumulator& args, int threads, const Body& body) {
  const int64_t width = padded<Acc>(args.tracks.features),
                row_bytes = width * static_cast<int64_t>(sizeof(Acc));
  const int64_t chunk = kChunkBytes / (6 * row_bytes) + 1;
  threads = useful_threads((args.tracks.tracks + chunk - 1) / chunk, threads);
  const Scratch scratch(threads, 2 * row_bytes);
  parallel_for(args.tracks.tracks, chunk, threads, [&](int64_t begin, int64_t end, int thread) {
    Acc* rows = reinterpret_cast<Acc*>(scratch.part(thread));
    for (int64_t track = begin; track < end; ++track) body(track, rows, rows + width);
  });
}

}  // namespace

void track_accumulator_update(const Accumulator& args, int threads) {
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    using Acc = typename AccOf<T>::type;
    for_tracks<Acc>(args, threads, [&](int64_t track, Acc* before, Acc* spare) {
      update_track<T>(args, track, before, spare);
    });
  });
}

void track_accumulator_finish(const Accumulator& args, int threads) {
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    using Acc = typename AccOf<T>::type;
    for_tracks<Acc>(args, threads,
                    [&](int64_t track, Acc* spare, Acc*) { finish_track<T>(args, track, spare); });
  });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
