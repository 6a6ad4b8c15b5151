// SPDX-License-Identifier: MIT
// Where a kernel runs.
#pragma once

namespace geodesic_fast {

struct Place {
  int threads = 1;
  int device = -1;  // a GPU, or -1: the CPU
  void* stream = nullptr;
};

}  // namespace geodesic_fast
