// SPDX-License-Identifier: MIT
// Minimum-cost perfect matching on a sparse bipartite graph, started from any duals and any partial matching.
#pragma once

#include <cstdint>

namespace geodesic_fast {

struct SparseAssignment {
  int64_t m;
  const int64_t* row_start;  // (m+1): row i owns edges row_start[i] .. row_start[i+1]
  const int32_t* col;        // (edges)
  const double* cost;        // (edges), finite
  double* u;                 // (m), out: u_i = min over the row's edges of cost - v
  double* v;                 // (m), in and out
  int32_t* match;         // (m), in and out: the column of row i, -1 for none; dropped where it is not tight
  double seconds;         // stop after this long; call again to go on from where it stopped
  int64_t reductions;     // out: steps of augmenting row reduction
  int64_t augmentations;  // out: shortest augmenting paths
  int64_t scanned;        // out: edges looked at by them
};

enum class SparseStatus : int { kSolved = 0, kOutOfTime = 1, kNoPerfectMatching = 2 };

SparseStatus solve_sparse_assignment(SparseAssignment& problem);

}  // namespace geodesic_fast
