// SPDX-License-Identifier: MIT
// Assignments on a sparse bipartite graph of rows that supply whole units and columns that take them.
#pragma once

#include <cstdint>
#include <memory>

namespace geodesic_fast {

// Row i owns edges row_start[i] .. row_start[i+1], each to a column of its own; supply and demand add up to
// the same, and the graph holds a flow that meets both.
struct SparseGraph {
  int64_t rows, cols;
  const int64_t* row_start;  // (rows+1)
  const int32_t* col;        // (edges)
  const int32_t* supply;     // (rows), at least 1
  const int32_t* demand;     // (cols), at least 1
};

enum class SparseStatus : int { kSolved = 0, kOutOfTime = 1, kNoFlow = 2 };

// The cheapest flow, started from any duals and any part of a flow.
struct SparseAssignment {
  SparseGraph graph;
  const double* cost;         // (edges), finite
  double* u;                  // (rows), out: u_i = min over the row's edges of cost - v
  double* v;                  // (cols), in and out
  int32_t* flow;              // (edges), in and out: what is not tight is dropped at the start
  int64_t reductions = 0;     // out: steps of augmenting row reduction
  int64_t augmentations = 0;  // out: shortest augmenting paths
  int64_t scanned = 0;        // out: edges looked at by them
};

// Holds its place from one run to the next.
class AssignmentSolver {
 public:
  explicit AssignmentSolver(const SparseAssignment& problem);
  ~AssignmentSolver();
  SparseStatus run(double seconds);  // go on for this long
  const SparseAssignment& problem() const;

 private:
  class State;
  std::unique_ptr<State> state_;
};

// The flow with the most units that stay: of edge e, as many as stay[e].
struct MostFixed {
  SparseGraph graph;
  const int32_t* stay;  // (edges)
  int32_t* flow;        // (edges), in and out: begin with all 0
  int32_t* row_price;   // (rows), in and out: begin with all 0
  int32_t* col_price;   // (cols), in and out: begin with all 0
  double seconds;       // stop after this long; call again to go on from where it stopped
  int64_t phases;       // out
};

SparseStatus solve_most_fixed(MostFixed& problem);

}  // namespace geodesic_fast
