// SPDX-License-Identifier: MIT
// nearest_track: one part of the triangle of pairs.
// Memory: the tracks, and about 0.4 MB a thread. Work: (n+1) d multiply-adds a pair, each pair once.
// Numbers: products of centred points in float32 (float64 for float64 tracks) only rule pairs out, with a
//          bound on their rounding; the others are measured in float64 from the coordinates.
// Bound: multiply-adds.
#include "nearest_track.h"

#include "kernels.h"
#include "pair_tile.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

// The nearest of one track so far.
struct Neighbour {
  double distance;
  int64_t index;
  int32_t layer;

  GEODESIC_FAST_INLINE bool loses_to(double other, int64_t other_index) const {
    return other < distance || (other == distance && (index < 0 || other_index < index));
  }
};

template <class T>
class NearestInTile {
 public:
  using Acc = typename AccOf<T>::type;
  using Tile = PairTile<T, false>;

  NearestInTile(const NearestTrack& args, char* scratch)
      : args_(args), pairs_(args.pairs), tile_(args.pairs, scratch), scale_(*args.pairs.scale) {
    rows_ = reinterpret_cast<Neighbour*>(scratch + (Tile::scratch_bytes() + 63) / 64 * 64);
    columns_ = rows_ + Tile::kRows;
    limit_ = reinterpret_cast<Acc*>(columns_ + Tile::kColumns);
  }
  static int64_t scratch_bytes() {
    return Tile::scratch_bytes() + 64 + (Tile::kRows + Tile::kColumns) * int64_t(sizeof(Neighbour)) +
           Tile::kColumns * int64_t(sizeof(Acc));
  }

  // `lock` guards what the tiles of all threads lower.
  void run(int64_t row, int64_t rows, int64_t column, int64_t columns, char* lock) {
    tile_.run(row, rows, column, columns);
    with_lock(lock, [&] {
      for (int64_t r = 0; r < rows; ++r) rows_[r] = known(row + r);
      for (int64_t c = 0; c < columns; ++c) columns_[c] = known(column + c);
    });
    for (int64_t c = 0; c < columns; ++c) limit_[c] = limit_of(columns_[c]);
    for (int64_t r = 0; r < rows; ++r) scan(r, column > row + r ? 0 : row + r + 1 - column);
    with_lock(lock, [&] {
      for (int64_t r = 0; r < rows; ++r) merge(row + r, rows_[r]);
      for (int64_t c = 0; c < columns; ++c) merge(column + c, columns_[c]);
    });
  }

 private:
  template <class Work>
  static void with_lock(char* lock, const Work& work) {
    while (__atomic_test_and_set(lock, __ATOMIC_ACQUIRE)) {
    }
    work();
    __atomic_clear(lock, __ATOMIC_RELEASE);
  }

  Neighbour known(int64_t i) const { return {args_.distance[i], args_.index[i], args_.layer[i]}; }
  void merge(int64_t i, const Neighbour& found) const {
    if (found.index < 0 || !known(i).loses_to(found.distance, found.index)) return;
    args_.distance[i] = found.distance;
    args_.index[i] = found.index;
    args_.layer[i] = found.layer;
  }

  // What a bound must not exceed for the pair to be looked at: ties are, and what is too small to bound.
  Acc limit_of(const Neighbour& nearest) const {
    const double scaled = nearest.distance * scale_, square = scaled * scaled * (1 + 1e-6);
    return square > double(kLeastPairSquare<Acc>) ? Acc(square) : kLeastPairSquare<Acc>;
  }

  void scan(int64_t r, int64_t from) {
    const Acc* bound = tile_.best(r);
    Acc mine = limit_of(rows_[r]);
    bool any = false;
    for (int64_t c = from; c < tile_.columns(); ++c) any |= bound[c] <= (mine > limit_[c] ? mine : limit_[c]);
    for (int64_t c = from; any && c < tile_.columns(); ++c) {
      if (bound[c] > (mine > limit_[c] ? mine : limit_[c])) continue;
      measure(r, c);
      mine = limit_of(rows_[r]);
      limit_[c] = limit_of(columns_[c]);
    }
  }

  void measure(int64_t r, int64_t c) {
    const int64_t i = tile_.row() + r, j = tile_.column() + c;
    if (args_.labels != nullptr && args_.labels[i] == args_.labels[j]) return;
    if (!rows_[r].loses_to(0, j) && !columns_[c].loses_to(0, i)) return;  // both have an equal already
    const uint8_t kind = pairs_.kinds[i] | pairs_.kinds[j];
    if (kind >= kNaNTrack) return;
    const double most = rows_[r].distance > columns_[c].distance ? rows_[r].distance : columns_[c].distance;
    const ClosestLayer found = closest_layer<T>(pairs_.tracks, tile_.left_offset(r), pairs_.other,
                                                tile_.right_offset(c), {most, -1}, kind != kFiniteTrack);
    if (found.layer < 0) return;
    if (rows_[r].loses_to(found.distance, j)) rows_[r] = {found.distance, j, found.layer};
    if (columns_[c].loses_to(found.distance, i)) columns_[c] = {found.distance, i, found.layer};
  }

  const NearestTrack& args_;
  const TrackPairs& pairs_;
  Tile tile_;
  double scale_;
  Neighbour *rows_, *columns_;
  Acc* limit_;
};

template <class T>
void run_part(const NearestTrack& args, int threads) {
  const int64_t all_rows = args.row_end - args.row_begin, all_columns = args.column_end - args.column_begin;
  const int64_t height = tile_rows<typename AccOf<T>::type>(all_rows, all_columns, threads);
  const int64_t down = (all_rows + height - 1) / height;
  const int64_t across = (all_columns + kTilePairColumns - 1) / kTilePairColumns;
  threads = useful_threads(down * across, threads);
  const Scratch scratch(threads, NearestInTile<T>::scratch_bytes());
  char lock = 0;
  parallel_for(down * across, 1, threads, [&](int64_t item, int64_t, int thread) {
    const int64_t row = args.row_begin + item / across * height;
    const int64_t column = args.column_begin + item % across * kTilePairColumns;
    const int64_t rows = args.row_end - row < height ? args.row_end - row : height;
    const int64_t rest = args.column_end - column;
    const int64_t columns = rest < kTilePairColumns ? rest : kTilePairColumns;
    if (column + columns - 1 <= row) return;
    NearestInTile<T>(args, scratch.part(thread)).run(row, rows, column, columns, &lock);
  });
}

}  // namespace

void nearest_track(const NearestTrack& args, const Place& place) {
  with_dtype(args.pairs.tracks.dtype, [&](auto zero) { run_part<decltype(zero)>(args, place.threads); });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
