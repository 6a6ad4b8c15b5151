// SPDX-License-Identifier: MIT
// Potentials on a directed graph: the differences that a proof of optimality leaves to choose.
#pragma once

#include <cstdint>

namespace geodesic_fast {

// Node i owns arcs start[i] .. start[i+1], each to a head.
struct NodePotentials {
  int64_t nodes;
  const int64_t* start;  // (nodes+1)
  const int32_t* head;   // (arcs)
  const double* length;  // (arcs), finite, of either sign
  double* potential;     // (nodes), in and out: only ever lowered
  int64_t most_looks;    // at arcs, then stop: a cycle of negative length has no potentials
};

// Lowers potentials until potential[head] <= potential[tail] + length on each arc; returns whether they are.
bool lower_potentials(const NodePotentials& problem);

}  // namespace geodesic_fast
