// SPDX-License-Identifier: MIT
// The line-shape score and the other per-track numbers: what the kernels of both devices take and return.
#pragma once

#include "tracks_view.h"

namespace geodesic_fast {

// The float fields of track_geometry, in the order of their rows in `fields`; lss alone writes row 0.
enum Field : int {
  kLss = 0,
  kLssNormalized,
  kPathLength,
  kChord,
  kStraightness,
  kAdjacentCosine,
  kTurningAngle,
  kStepCv,
  kAction,
  kFieldCount
};

// Tracks wider than this may need, on a GPU, memory for a few values per step.
constexpr int64_t kWideFeatures = 1024;

// Acc is float, or double for float64 tracks.
struct GeometryForward {
  TracksView tracks;
  ZeroStep zero_step = ZeroStep::kSkip;
  bool only_lss = true;
  void* fields = nullptr;         // (1 or kFieldCount, m) Acc
  int64_t* zero_steps = nullptr;  // (m), with all fields
  void* direction_sum = nullptr;  // (m, d) Acc: u_1 + ... + u_n, kept for backward; may be null
  void* lengths = nullptr;        // (n, m) Acc: the step lengths, kept for backward, on a GPU as
                                  // KeptLength has them; may be null
  void* workspace = nullptr;      // stands in for `lengths` on a GPU
};

inline int64_t workspace_bytes(const GeometryForward& args, int) {
  const TracksView& tracks = args.tracks;
  if (args.lengths != nullptr) return 0;
  return tracks.steps() * tracks.tracks * sum_bytes_of(tracks.dtype);
}

struct GeometryBackward {
  const void* grad_fields = nullptr;  // (1 or kFieldCount, m) Acc
  TracksView tracks;
  const void* direction_sum = nullptr;  // (m, d) Acc
  const void* lengths = nullptr;        // (n, m) Acc
  ZeroStep zero_step = ZeroStep::kSkip;
  bool only_lss = true;
  TracksView gradient;        // where dL/dx goes, of the shape and dtype of tracks
  void* workspace = nullptr;  // (5 n + 2, m) Acc beyond kWideFeatures on a GPU, else unused
};

inline int64_t workspace_bytes(const GeometryBackward& args, int) {
  const TracksView& tracks = args.tracks;
  if (tracks.features <= kWideFeatures) return 0;
  return (5 * tracks.steps() + 2) * tracks.tracks * sum_bytes_of(tracks.dtype);
}

}  // namespace geodesic_fast
