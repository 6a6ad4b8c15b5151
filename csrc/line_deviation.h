// SPDX-License-Identifier: MIT
// Line deviation of pairs of steps: what its kernels take and return, on either device.
// dev_kl = 1 - <u_k, u_l>, u_k the direction of step k of a track; a step of length zero has none.
#pragma once

#include "tracks_view.h"

namespace geodesic_fast {

// Either the sums over all tracks (`sums` set) or each track's own matrix (`deviation` set).
struct LineDeviation {
  TracksView tracks;
  ZeroStep zero_step = ZeroStep::kSkip;  // for `deviation` alone
  double* sums = nullptr;  // (n, n), out: sum of <u_k, u_l> over the tracks that have both; on the diagonal
                           // a whole number, how many have the one
  int64_t* counts = nullptr;  // (n, n), out: how many have both
  void* deviation = nullptr;  // (m, n, n), out, in the accumulation type; pairs without a direction: 1 under
                              // kKeep, NaN otherwise
  void* workspace = nullptr;  // on a GPU, as many bytes as it asks for
};

// h_k = sum_l weights_kl u_l, g_k = (h_k - <h_k, u_k> u_k) / s_k, gradient of x^(l): g_l - g_(l+1).
struct LineDeviationBackward {
  const void* weights = nullptr;  // (n, n), or (m, n, n) if `each`; symmetric, in the accumulation type
  TracksView tracks;
  bool each = false;
  TracksView gradient;
  void* workspace =
      nullptr;  // (2, m, n) in the accumulation type on a GPU, else unused: lengths, projections
};

inline int64_t workspace_bytes(const LineDeviationBackward& args, int) {
  return 2 * args.tracks.tracks * args.tracks.steps() * sum_bytes_of(args.tracks.dtype);
}

}  // namespace geodesic_fast
