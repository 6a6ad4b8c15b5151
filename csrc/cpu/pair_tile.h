// SPDX-License-Identifier: MIT
// A tile of pairs of tracks: lower bounds of their squared distances, the minimum over the layers taken while
// the tile's state stays in the second-level cache.
#pragma once

#include "pair_distance.h"
#include "transpose.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {

// As many sums as the vector registers hold, beside the vectors that are multiplied.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kPairRows = 8, kPairVectors = 3;
#else
constexpr int kPairRows = 6, kPairVectors = 2;
#endif
template <class Acc>
constexpr int64_t kPairPanel = kPairVectors * kLanes<Acc>;
template <class Acc>
constexpr int64_t kTilePairRows = sizeof(Acc) == 8 ? 96 : 192;
constexpr int64_t kTilePairColumns = 96;
constexpr int64_t kTilesPerThread = 4;
constexpr int64_t kPairSlice = 128;  // features at a time; longer runs of additions would round more
static_assert(kTilePairRows<float> % kPairRows == 0 && kTilePairRows<double> % kPairRows == 0, "whole");
static_assert(kTilePairColumns % kPairPanel<float> == 0, "whole panels");

// The height of the tiles that give each thread several, within what a tile holds.
template <class Acc>
GEODESIC_FAST_INLINE int64_t tile_rows(int64_t rows, int64_t columns, int threads) {
  const int64_t across = (columns + kTilePairColumns - 1) / kTilePairColumns;
  const int64_t down = (kTilesPerThread * threads + across - 1) / across;
  const int64_t height = ((rows + down - 1) / down + kPairRows - 1) / kPairRows * kPairRows;
  return height < kPairRows ? kPairRows : height < kTilePairRows<Acc> ? height : kTilePairRows<Acc>;
}

// Squared distances below this, in scaled coordinates, may have lost products that vanished.
template <class Acc>
constexpr Acc kLeastPairSquare = SafeSquare<Acc>::kMin;

// Bounds the rounding of |a|^2 + |b|^2 - 2 <a, b>, and of a and b, by this much of |a|^2 + |b|^2.
template <class Acc>
GEODESIC_FAST_INLINE Acc pair_rounding(int64_t features) {
  const Acc unit = sizeof(Acc) == 8 ? Acc(0x1p-52) : Acc(0x1p-23);
  return unit * Acc(kPairSlice + 16 + features / kPairSlice);
}

// The type of a layer's number in a vector beside Acc.
template <class Acc>
struct IndexOf {
  using type = int32_t;
};
template <>
struct IndexOf<double> {
  using type = int64_t;
};

// Without kLayers, the least of rigorous bounds alone. With kLayers, a square of at least half of
// |a|^2 + |b|^2, which lost no digits, is its own bound; and beside the least bound the tile keeps the layer
// it belongs to, its |a|^2 + |b|^2, and the least bound of the other layers.
template <class T, bool kLayers>
class PairTile {
 public:
  using Acc = typename AccOf<T>::type;
  using Index = typename IndexOf<Acc>::type;
  static constexpr int64_t kRows = kTilePairRows<Acc>, kColumns = kTilePairColumns;

  PairTile(const TrackPairs& pairs, char* scratch)
      : pairs_(pairs), state_(*reinterpret_cast<State*>(scratch)), scale_(Acc(*pairs.scale)) {
    slack_ = pair_rounding<Acc>(pairs.tracks.features);
    keep_ = kLayers ? Acc(1) : 1 - slack_;
  }
  static int64_t scratch_bytes() { return sizeof(State); }

  // Takes the pairs of rows row..row+rows of x and column..column+columns of y through all layers.
  void run(int64_t row, int64_t rows, int64_t column, int64_t columns) {
    row_ = row, rows_ = rows, column_ = column, columns_ = columns;
    for (int64_t r = 0; r < rows; ++r) state_.left_offset[r] = pairs_.tracks.offset(row + r);
    for (int64_t c = 0; c < columns; ++c) state_.right_offset[c] = pairs_.other.offset(column + c);
    for (int64_t k = 0; k < kRows * kColumns; ++k) state_.best[k] = Acc(INFINITY);
    if (kLayers) {
      std::memcpy(state_.second, state_.best, sizeof(state_.best));
      std::memset(state_.layer, 0, sizeof(state_.layer));
    }
    for (int64_t layer = 0; layer < pairs_.tracks.points; ++layer) {
      load_squares(layer);
      for (int64_t feature = 0; feature < pairs_.tracks.features; feature += kPairSlice) {
        multiply(layer, feature);
      }
    }
  }

  int64_t row() const { return row_; }
  int64_t rows() const { return rows_; }
  int64_t column() const { return column_; }
  int64_t columns() const { return columns_; }
  int64_t left_offset(int64_t r) const { return state_.left_offset[r]; }
  int64_t right_offset(int64_t c) const { return state_.right_offset[c]; }
  Acc* best(int64_t r) { return state_.best + r * kColumns; }  // times scale^2, as `second` and `total`
  const Acc* second(int64_t r) const { return state_.second + r * kColumns; }
  const Acc* total(int64_t r) const { return state_.total + r * kColumns; }
  Index* layer(int64_t r) { return state_.layer + r * kColumns; }

 private:
  struct State {
    alignas(64) Acc left[kRows * kPairSlice];      // row by row
    alignas(64) Acc right[kColumns * kPairSlice];  // panels of columns, feature by feature
    alignas(64) Acc sums[kRows * kColumns];        // products of the features before
    alignas(64) Acc best[kRows * kColumns];
    alignas(64) Acc second[kLayers ? kRows * kColumns : 1];
    alignas(64) Acc total[kLayers ? kRows * kColumns : 1];
    alignas(64) Index layer[kLayers ? kRows * kColumns : 1];
    alignas(64) Acc left_square[kRows], right_square[kColumns];
    int64_t left_offset[kRows], right_offset[kColumns];
  };

  void load_squares(int64_t layer) {
    const Acc* left = static_cast<const Acc*>(pairs_.squares) + layer * pairs_.tracks.tracks + row_;
    const Acc* right = static_cast<const Acc*>(pairs_.other_squares) + layer * pairs_.other.tracks + column_;
    for (int64_t r = 0; r < kRows; ++r) state_.left_square[r] = r < rows_ ? left[r] * keep_ : Acc(0);
    for (int64_t c = 0; c < kColumns; ++c) state_.right_square[c] = c < columns_ ? right[c] * keep_ : Acc(0);
  }

  // One vector of a centred point; zeros instead of a track that is not finite.
  GEODESIC_FAST_INLINE Vector<Acc> centred(const T* row, const Acc* centre, int64_t j, int64_t count,
                                           bool finite) const {
    if (!finite) return Vector<Acc>{};
    return load_row(row, j, count) * broadcast(scale_) - load_row(centre, j, count);
  }

  void pack_left(int64_t layer, int64_t feature, int64_t width) {
    const Acc* centre = static_cast<const Acc*>(pairs_.centre) + layer * pairs_.tracks.features + feature;
    for (int64_t r = 0; r < rows_; ++r) {
      const T* row = row_of<T>(pairs_.tracks, layer, state_.left_offset[r]) + feature;
      const bool finite = pairs_.kinds[row_ + r] == kFiniteTrack;
      Acc* to = state_.left + r * kPairSlice;
      for_vectors<Acc>(width, [&](int64_t j, int, int64_t count) {
        SameType<Acc>::store(to + j, centred(row, centre, j, count, finite));
      });
    }
  }

  void pack_right(int64_t layer, int64_t feature, int64_t width) {
    constexpr int64_t lanes = kLanes<Acc>;
    const Acc* centre = static_cast<const Acc*>(pairs_.centre) + layer * pairs_.tracks.features + feature;
    for (int64_t c = 0; c < columns_; c += lanes) {
      const T* row[lanes];
      bool finite[lanes];
      for (int64_t k = 0; k < lanes; ++k) {  // a short last group repeats its last column
        const int64_t at = c + k < columns_ ? c + k : columns_ - 1;
        row[k] = row_of<T>(pairs_.other, layer, state_.right_offset[at]) + feature;
        finite[k] = pairs_.other_kinds[column_ + at] == kFiniteTrack;
      }
      Acc* to = state_.right + c / kPanel * kPanel * kPairSlice + c % kPanel;
      for (int64_t j = 0; j < width; j += lanes) {
        const int64_t count = width - j < lanes ? width - j : lanes;
        Vector<Acc> block[lanes];
#pragma GCC unroll 16
        for (int64_t k = 0; k < lanes; ++k) block[k] = centred(row[k], centre, j, count, finite[k]);
        transpose<Acc>(block);
#pragma GCC unroll 16
        for (int64_t k = 0; k < lanes; ++k) SameType<Acc>::store(to + (j + k) * kPanel, block[k]);
      }
    }
  }

  void multiply(int64_t layer, int64_t feature) {
    const int64_t rest = pairs_.tracks.features - feature, width = rest < kPairSlice ? rest : kPairSlice;
    pack_left(layer, feature, width);
    pack_right(layer, feature, width);
    for (int64_t c = 0; c < columns_; c += kPanel) {
      for (int64_t r = 0; r < rows_; r += kPairRows) {
        if (pairs_.symmetric && column_ + c + kPanel - 1 <= row_ + r) continue;  // below the diagonal
        const Acc* left = state_.left + r * kPairSlice;
        const Acc* right = state_.right + c * kPairSlice;
        if (feature == 0 && rest <= kPairSlice) {
          product<true, true>(left, right, width, r * kColumns + c, layer);
        } else if (feature == 0) {
          product<true, false>(left, right, width, r * kColumns + c, layer);
        } else if (rest > kPairSlice) {
          product<false, false>(left, right, width, r * kColumns + c, layer);
        } else {
          product<false, true>(left, right, width, r * kColumns + c, layer);
        }
      }
    }
  }

  template <bool kFirst, bool kLast>
  void product(const Acc* left, const Acc* right, int64_t width, int64_t at, int64_t layer) {
    Vector<Acc> sums[kPairRows][kPairVectors] = {};
    for (int64_t j = 0; j < width; ++j, right += kPanel) {
      Vector<Acc> b[kPairVectors];
#pragma GCC unroll 3
      for (int v = 0; v < kPairVectors; ++v) b[v] = SameType<Acc>::load(right + v * kLanes<Acc>);
#pragma GCC unroll 8
      for (int r = 0; r < kPairRows; ++r) {
        const Vector<Acc> a = broadcast(left[r * kPairSlice + j]);
#pragma GCC unroll 3
        for (int v = 0; v < kPairVectors; ++v) sums[r][v] += a * b[v];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kPairRows; ++r) {
#pragma GCC unroll 3
      for (int v = 0; v < kPairVectors; ++v) {
        const int64_t to = at + r * kColumns + v * kLanes<Acc>;
        if (!kFirst) sums[r][v] += SameType<Acc>::load(state_.sums + to);
        if (kLast) {
          lower(to, sums[r][v], layer);
        } else {
          SameType<Acc>::store(state_.sums + to, sums[r][v]);
        }
      }
    }
  }

  // Lowers the bounds of one vector of pairs to those of this layer.
  GEODESIC_FAST_INLINE void lower(int64_t at, Vector<Acc> product, int64_t layer) {
    const Vector<Acc> total = broadcast(state_.left_square[at / kColumns]) +
                              SameType<Acc>::load(state_.right_square + at % kColumns);
    const Vector<Acc> best = SameType<Acc>::load(state_.best + at);
    Vector<Acc> bound = total - (product + product);
    if constexpr (kLayers) {
      const Vector<Acc> doubtful = bound + ((bound + bound) - total) * slack_;
      bound = doubtful < bound ? doubtful : bound;
    }
    auto closer = bound < best;
    SameType<Acc>::store(state_.best + at, closer ? bound : best);
    if constexpr (kLayers) {
      const Vector<Acc> second = SameType<Acc>::load(state_.second + at), other = closer ? best : bound;
      SameType<Acc>::store(state_.second + at, other < second ? other : second);
      const Vector<Acc> before = SameType<Acc>::load(state_.total + at);
      SameType<Acc>::store(state_.total + at, closer ? total : before);
      const auto index = load_unaligned<decltype(closer)>(state_.layer + at);
      const auto chosen = closer ? static_cast<Index>(layer) - decltype(closer){} : index;
      std::memcpy(state_.layer + at, &chosen, sizeof(chosen));
    }
  }

  static constexpr int64_t kPanel = kPairPanel<Acc>;
  const TrackPairs& pairs_;
  State& state_;
  Acc scale_, slack_, keep_;
  int64_t row_ = 0, rows_ = 0, column_ = 0, columns_ = 0;
};

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
