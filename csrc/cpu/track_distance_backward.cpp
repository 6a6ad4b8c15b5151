// SPDX-License-Identifier: MIT
// track_distance, backward.
// Memory: gradients, distances and layers once, and for each pair one row of either track; writes the
// gradient
//         once.
// Work:   two operations a pair and feature. Numbers: differences and sums in float32 (float64 for float64).
// Bound:  the cache that holds the tracks.
#include "kernels.h"
#include "track_blocks.h"
#include "track_rows.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

template <class T>
class Gradient {
 public:
  using Acc = typename AccOf<T>::type;

  Gradient(const TrackDistanceBackward& args, char* scratch)
      : args_(args),
        own_(args.of_other ? args.other : args.tracks),
        against_(args.of_other ? args.tracks : args.other) {
    sum_ = reinterpret_cast<Acc*>(scratch);
    direction_ = sum_ + padded<Acc>(own_.features);
    start_ = reinterpret_cast<int64_t*>(direction_ + padded<Acc>(own_.features));
    sorted_ = start_ + own_.points + 1;
  }
  static int64_t scratch_bytes(const TrackDistanceBackward& args) {
    const int64_t most = args.tracks.tracks > args.other.tracks ? args.tracks.tracks : args.other.tracks;
    return 2 * padded<Acc>(args.tracks.features) * static_cast<int64_t>(sizeof(Acc)) +
           (args.tracks.points + 1 + most) * static_cast<int64_t>(sizeof(int64_t));
  }

  void run(int64_t i) {
    sort_by_layer(i);
    const int64_t offset = own_.offset(i), to = args_.gradient.offset(i);
    for (int64_t layer = 0; layer < own_.points; ++layer) {
      std::memset(sum_, 0, padded<Acc>(own_.features) * sizeof(Acc));
      for (int64_t k = layer == 0 ? 0 : start_[layer - 1]; k < start_[layer]; ++k) {
        add(row_of<T>(own_, layer, offset), row_of<T>(against_, layer, against_.offset(sorted_[k])),
            pair(i, sorted_[k]));
      }
      T* row = row_of<T>(args_.gradient, layer, to);
      for_vectors<Acc>(own_.features, [&](int64_t j, int, int64_t count) {
        const Vector<Acc> v = SameType<Acc>::load(sum_ + j);
        count == kLanes<Acc> ? Memory<T>::store(row + j, v) : store_tail(row + j, v, count);
      });
    }
  }

 private:
  int64_t at(int64_t i, int64_t j) const {
    return args_.of_other ? j * args_.other.tracks + i : i * args_.other.tracks + j;
  }
  PairGradient<Acc> pair(int64_t i, int64_t j) const { return {args_, at(i, j)}; }

  // Lists the tracks on the other side by the layer of the pair; layer l ends at start_[l].
  void sort_by_layer(int64_t i) {
    std::memset(start_, 0, (own_.points + 1) * sizeof(int64_t));
    for (int64_t j = 0; j < against_.tracks; ++j) {
      if (pair(i, j).counts) ++start_[args_.layer[at(i, j)] + 1];
    }
    for (int64_t layer = 1; layer <= own_.points; ++layer) start_[layer] += start_[layer - 1];
    for (int64_t j = 0; j < against_.tracks; ++j) {
      if (pair(i, j).counts) sorted_[start_[args_.layer[at(i, j)]]++] = j;
    }
  }

  void add(const T* a, const T* b, const PairGradient<Acc>& pair) {
    if (pair.is_plain()) {
      add_row(pair.weight(),
              [=](int64_t j, int64_t count) { return load_row(a, j, count) - load_row(b, j, count); });
    } else {
      scaled_direction(a, b, direction_, own_.features);
      add_row(pair.grad, [this](int64_t j, int64_t) { return SameType<Acc>::load(direction_ + j); });
    }
  }

  template <class Row>
  void add_row(Acc weight, const Row& row) {
    for_vectors<Acc>(own_.features, [&](int64_t j, int, int64_t count) {
      SameType<Acc>::store(sum_ + j, SameType<Acc>::load(sum_ + j) + row(j, count) * broadcast(weight));
    });
  }

  const TrackDistanceBackward& args_;
  const TracksView &own_, &against_;
  Acc *sum_, *direction_;
  int64_t *start_, *sorted_;
};

}  // namespace

void track_distance_backward(const TrackDistanceBackward& args, const Place& place) {
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t count = args.of_other ? args.other.tracks : args.tracks.tracks;
    const Scratch scratch(useful_threads(count, place.threads), Gradient<T>::scratch_bytes(args));
    parallel_for(count, 1, place.threads,
                 [&](int64_t i, int64_t, int thread) { Gradient<T>(args, scratch.part(thread)).run(i); });
  });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast
