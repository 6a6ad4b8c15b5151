// SPDX-License-Identifier: MIT
// What becomes of the products of a tile of pairs: bounds of squared distances, and at the end distances.
#pragma once

#include "pair_distance.cuh"

namespace geodesic_fast {
namespace cuda {

template <class T>
struct PairEnd {
  using Acc = typename AccOf<T>::type;
  const DeviceTracks &tracks, &other;
  const DistanceRows& work;

  __device__ __forceinline__ Acc square_of_row(int64_t layer, int64_t i) const {
    return i < work.row_end ? static_cast<const Acc*>(work.pairs.squares)[layer * tracks.view.tracks + i]
                            : Acc(0);
  }
  __device__ __forceinline__ Acc square_of_column(int64_t layer, int64_t j) const {
    const Acc* squares = static_cast<const Acc*>(work.pairs.other_squares);
    return j < other.view.tracks ? squares[layer * other.view.tracks + j] : Acc(0);
  }

  // A square of at least half of |a|^2 + |b|^2, which lost no digits, is its own bound.
  static __device__ __forceinline__ Acc bound_of(Acc total, Acc product, Acc slack) {
    const Acc square = total - 2 * product, doubtful = square + (2 * square - total) * slack;
    return doubtful < square ? doubtful : square;
  }

  // Whether two bounds, of which `least` is the lower one, may belong to equal distances.
  static __device__ __forceinline__ bool may_tie(Acc least, Acc other, Acc slack) {
    return other <= least + 8 * slack * least;  // each |a|^2 + |b|^2 is at most twice the square
  }

  // Writes the distance of a pair from its least bound. Those that lost too many digits are measured, one
  // after another, by the warp, all of whose lanes come here; and those with `tied` layers, if layers are
  // asked for.
  __device__ __forceinline__ void finish(int64_t i, int64_t j, Acc square, int32_t layer, bool tied) const {
    const bool exists = i < work.row_end && j < other.view.tracks && (!work.mirrored || i <= j);
    const Acc total = square_of_row(layer, i) + square_of_column(layer, j);
    const bool sound =
        !(tied && work.layer != nullptr) && square >= total * Acc(0.5) && square >= kLeastPairSquare<Acc>;
    ClosestLayer found{0, layer};
    if (sound) found.distance = static_cast<double>(sqrt(square) * static_cast<Acc>(1 / *work.pairs.scale));
    unsigned doubtful = __ballot_sync(0xffffffffu, exists && !sound);
    while (doubtful != 0) {
      const int lane = __ffs(static_cast<int>(doubtful)) - 1;
      doubtful &= doubtful - 1;
      const ClosestLayer measured =
          measure(__shfl_sync(0xffffffffu, i, lane), __shfl_sync(0xffffffffu, j, lane),
                  __shfl_sync(0xffffffffu, layer, lane));
      if (static_cast<int>(threadIdx.x) % kWarp == lane) found = measured;
    }
    if (!exists) return;
    write(i - work.first_written, j, found);
    if (work.mirrored && i != j) write(j, i, found);
  }

 private:
  __device__ __forceinline__ ClosestLayer measure(int64_t i, int64_t j, int32_t layer) const {
    const uint8_t kind = work.pairs.kinds[i] | work.pairs.other_kinds[j];
    if (kind >= kNaNTrack && work.layer == nullptr) return {NAN, -1};
    const TrackPair<T> pair{tracks, other, tracks.view.offset(i), other.view.offset(j)};
    if (kind != kFiniteTrack) return pair.closest({INFINITY, -1}, true);
    return pair.closest({pair.distance(layer, INFINITY), layer}, false);
  }

  __device__ __forceinline__ void write(int64_t i, int64_t j, const ClosestLayer& found) const {
    const int64_t at = i * other.view.tracks + j;
    static_cast<Acc*>(work.distance)[at] = static_cast<Acc>(found.distance);
    if (work.layer != nullptr) work.layer[at] = found.layer;
  }
};

}  // namespace cuda
}  // namespace geodesic_fast
