// SPDX-License-Identifier: MIT
// track_distance, forward.
// Memory: the distances, and about 0.6 MB a thread; each tile of pairs reads its own tracks once.
// Work:   (n+1) d / 2 multiply-adds a pair of the m^2, (n+1) d where two sets of tracks are compared.
// Numbers: products of centred points in float32 (float64 for float64 tracks); where they cancel, the
//          distance is taken anew in float64 from the coordinates, at every layer that the rounding of the
//          products leaves in question.
// Bound:  multiply-adds.
#include "kernels.h"
#include "pair_tile.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

template <class T>
class Distances {
 public:
  using Acc = typename AccOf<T>::type;
  using Tile = PairTile<T, true>;

  Distances(const TrackDistance& args, char* scratch)
      : args_(args), pairs_(args.pairs), tile_(args.pairs, scratch), scale_(*args.pairs.scale) {}

  void run(int64_t row, int64_t rows, int64_t column, int64_t columns) {
    tile_.run(row, rows, column, columns);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t from = !pairs_.symmetric || column >= row + r ? 0 : row + r - column;
      if (args_.layer != nullptr) settle_ties(r, from);
      if (take_roots(r, from)) take_anew(r, from);
      for (int64_t c = from; c < columns; ++c)
        write(row + r, column + c, tile_.best(r)[c], tile_.layer(r)[c]);
    }
    if (!pairs_.symmetric) return;
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = 0; r < rows && row + r < column + c; ++r) {
        write(column + c, row + r, tile_.best(r)[c], tile_.layer(r)[c]);
      }
    }
  }

 private:
  void write(int64_t i, int64_t j, Acc distance, int64_t layer) const {
    static_cast<Acc*>(args_.distance)[i * pairs_.other.tracks + j] = distance;
    if (args_.layer != nullptr) args_.layer[i * pairs_.other.tracks + j] = static_cast<int32_t>(layer);
  }

  // Where rounding leaves more than one layer in question, the lowest of the nearest is named.
  void settle_ties(int64_t r, int64_t from) {
    const Acc more = 1 + in_question();
    const Acc *best = tile_.best(r), *second = tile_.second(r);
    for (int64_t c = from; c < tile_.columns(); ++c) {
      if (second[c] <= best[c] * more && is_sound(r, c)) tile_.layer(r)[c] = closest(r, c, {}).layer;
    }
  }

  // How far apart two squares that lost no digits may be and yet belong to equal distances.
  Acc in_question() const { return 4 * pair_rounding<Acc>(pairs_.tracks.features); }

  bool is_sound(int64_t r, int64_t c) {
    const Acc square = tile_.best(r)[c];
    return square >= tile_.total(r)[c] * Acc(0.5) && square >= kLeastPairSquare<Acc>;
  }

  ClosestLayer closest(int64_t r, int64_t c, ClosestLayer known) {
    return closest_layer<T>(pairs_.tracks, tile_.left_offset(r), pairs_.other, tile_.right_offset(c), known,
                            false);
  }

  // Turns bounds into distances, -1 where too many digits were lost; says whether there are any of those.
  bool take_roots(int64_t r, int64_t from) {
    Acc* best = tile_.best(r);
    const Acc* total = tile_.total(r);
    const Acc inverse = Acc(1 / scale_);
    Acc least = 0;
    for (int64_t c = from; c < tile_.columns(); ++c) {
      const Acc square = best[c];
      const bool sound = square >= total[c] * Acc(0.5) && square >= kLeastPairSquare<Acc>;
      best[c] = sound ? std::sqrt(sound ? square : Acc(1)) * inverse : Acc(-1);
      least = best[c] < least ? best[c] : least;
    }
    return least < 0;
  }

  void take_anew(int64_t r, int64_t from) {
    for (int64_t c = from; c < tile_.columns(); ++c) {
      if (tile_.best(r)[c] >= 0) continue;
      const ClosestLayer found = exact(r, c);
      tile_.best(r)[c] = Acc(found.distance);
      tile_.layer(r)[c] = found.layer;
    }
  }

  ClosestLayer exact(int64_t r, int64_t c) {
    const uint8_t kind = pairs_.kinds[tile_.row() + r] | pairs_.other_kinds[tile_.column() + c];
    if (kind >= kNaNTrack && args_.layer == nullptr) return {NAN, -1};
    const int64_t left = tile_.left_offset(r), right = tile_.right_offset(c);
    if (kind != kFiniteTrack) return closest_layer<T>(pairs_.tracks, left, pairs_.other, right, {}, true);
    const int32_t layer = static_cast<int32_t>(tile_.layer(r)[c]);
    const double distance =
        distance_within(row_of<T>(pairs_.tracks, layer, left), row_of<T>(pairs_.other, layer, right),
                        pairs_.tracks.features, INFINITY);
    const double square = distance * scale_ * (distance * scale_) * kBitMore;
    const double second = tile_.second(r)[c] * double(1 - in_question());  // no other layer is closer
    if (second > square && second >= kLeastPairSquare<Acc>) return {distance, layer};
    return closest(r, c, {distance, layer});
  }

  const TrackDistance& args_;
  const TrackPairs& pairs_;
  Tile tile_;
  double scale_;
};

template <class T>
void run_tiles(const TrackDistance& args, int threads) {
  const TrackPairs& pairs = args.pairs;
  const int64_t row_end = args.row_end < 0 ? pairs.tracks.tracks : args.row_end;
  const int64_t first = pairs.symmetric ? args.row_begin : 0;
  const int64_t all_rows = row_end - args.row_begin, all_columns = pairs.other.tracks - first;
  const int64_t height = tile_rows<typename AccOf<T>::type>(all_rows, all_columns, threads);
  const int64_t down = (all_rows + height - 1) / height;
  const int64_t across = (all_columns + kTilePairColumns - 1) / kTilePairColumns;
  threads = useful_threads(down * across, threads);
  const Scratch scratch(threads, Distances<T>::Tile::scratch_bytes());
  parallel_for(down * across, 1, threads, [&](int64_t item, int64_t, int thread) {
    const int64_t row = args.row_begin + item / across * height;
    const int64_t column = first + item % across * kTilePairColumns;
    const int64_t rows = row_end - row < height ? row_end - row : height;
    const int64_t rest = pairs.other.tracks - column;
    const int64_t columns = rest < kTilePairColumns ? rest : kTilePairColumns;
    if (pairs.symmetric && column + columns <= row) return;
    Distances<T>(args, scratch.part(thread)).run(row, rows, column, columns);
  });
}

}  // namespace

void track_distance_forward(const TrackDistance& args, const Place& place) {
  with_dtype(args.pairs.tracks.dtype, [&](auto zero) { run_tiles<decltype(zero)>(args, place.threads); });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
