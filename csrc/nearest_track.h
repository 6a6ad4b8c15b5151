// SPDX-License-Identifier: MIT
// Nearest other track of each track: what its kernels take and return, on either device.
#pragma once

#include "track_distance.h"

namespace geodesic_fast {

// Looks at the pairs i < j with i in rows, j in columns, each once, for the nearest of i and of j. Calls on
// parts of the triangle add up, in any order, to the same answer: the smallest (distance, index, layer).
// Pairs at distance NaN are left out; the caller gives tracks that hold NaN their NaN.
// On a GPU each call looks for the nearest of its rows among all tracks instead, columns being all of them.
struct NearestTrack {
  TrackPairs pairs;  // symmetric
  int64_t row_begin = 0, row_end = 0;
  int64_t column_begin = 0, column_end = 0;
  const int64_t* labels = nullptr;  // (m): only pairs of unequal labels count; null: all do
  double* distance = nullptr;       // (m), in and out: the smallest so far, inf at first
  int64_t* index = nullptr;         // (m), in and out: whose it is, -1 at first
  int32_t* layer = nullptr;         // (m), in and out: at which layer, -1 at first
  void* workspace = nullptr;        // (rows, m) in the accumulation type on a GPU, else unused
};

inline int64_t workspace_bytes(const NearestTrack& args, int) {
  const TracksView& tracks = args.pairs.tracks;
  return (args.row_end - args.row_begin) * tracks.tracks * sum_bytes_of(tracks.dtype);
}

}  // namespace geodesic_fast
