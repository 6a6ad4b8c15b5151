// SPDX-License-Identifier: MIT
// The blocks of a graph of rows and columns: two edges share a block where a simple cycle holds both.
#pragma once

#include <cstdint>

namespace geodesic_fast {

struct CycleBlocks {
  int64_t rows, cols, edges;
  const int64_t* row;  // (edges)
  const int64_t* col;  // (edges)
  int64_t* block;      // (edges), out: the number of its block, -1 for an edge on no cycle
};

// Returns the number of blocks, numbered from 0.
int64_t find_cycle_blocks(const CycleBlocks& problem);

}  // namespace geodesic_fast
