// SPDX-License-Identifier: MIT
// What Python builds of addresses and hands to several kernels: tracks, and pairs of them.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <vector>

#include "track_distance.h"
#include "tracks_view.h"

namespace geodesic_fast {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Owns the table of layer addresses that its view points to.
struct Tracks {
  std::vector<char*> table;
  TracksView held;

  TracksView view() {
    held.table = table.empty() ? nullptr : table.data();
    return held;
  }
};

inline Tracks make_tracks(const std::vector<uintptr_t>& addresses, int64_t layer_stride, int64_t points,
                          const std::vector<int64_t>& batch_size, const std::vector<int64_t>& batch_stride,
                          int64_t features, int dtype) {
  const size_t listed = addresses.size();
  if ((listed != 1 && listed != static_cast<size_t>(points)) || listed > kMaxListedLayers || points < 1 ||
      features < 1 || dtype < 0 || dtype > 3 || batch_size.size() != batch_stride.size() ||
      batch_size.size() > kMaxBatchDims) {
    throw std::invalid_argument("layout out of range");
  }
  Tracks tracks;
  TracksView& view = tracks.held;
  view.dtype = static_cast<DType>(dtype);
  const int64_t bytes = bytes_of(view.dtype);
  view.base = pointer<char>(addresses[0]);
  view.layer_stride = layer_stride * bytes;
  view.points = points;
  view.features = features;
  view.tracks = 1;
  view.batch_dims = static_cast<int>(batch_size.size());
  for (size_t axis = 0; axis < batch_size.size(); ++axis) {
    view.batch_size[axis] = batch_size[axis];
    view.batch_stride[axis] = batch_stride[axis] * bytes;
    view.tracks *= batch_size[axis];
  }
  if (listed > 1) {
    for (uintptr_t address : addresses) tracks.table.push_back(pointer<char>(address));
  }
  return tracks;
}

// Keeps the tables of layer addresses alive beside the views of them.
struct Pairs {
  Tracks tracks, other;
  TrackPairs held;

  TrackPairs view() {
    held.tracks = tracks.view();
    held.other = other.view();
    return held;
  }
};

inline Pairs make_pairs(const Tracks& tracks, const Tracks& other, bool symmetric, uintptr_t scale,
                        uintptr_t centre, uintptr_t squares, uintptr_t other_squares, uintptr_t kinds,
                        uintptr_t other_kinds) {
  const TracksView &x = tracks.held, &y = other.held;
  if (x.points != y.points || x.features != y.features || x.dtype != y.dtype || x.tracks < 1 ||
      y.tracks < 1 || (symmetric && x.tracks != y.tracks)) {
    throw std::invalid_argument("tracks cannot be paired");
  }
  Pairs pairs{tracks, other, {}};
  pairs.held.symmetric = symmetric;
  pairs.held.scale = pointer<double>(scale);
  pairs.held.centre = pointer<void>(centre);
  pairs.held.squares = pointer<void>(squares);
  pairs.held.other_squares = pointer<void>(other_squares);
  pairs.held.kinds = pointer<uint8_t>(kinds);
  pairs.held.other_kinds = pointer<uint8_t>(other_kinds);
  return pairs;
}

}  // namespace geodesic_fast
