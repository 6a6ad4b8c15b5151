// SPDX-License-Identifier: MIT
// Which implementation serves a place, and what was built.
#pragma once

#include "kernels.h"

namespace geodesic_fast {

const Kernels& kernels_at(const Place& place);  // throws where there are none
const char* instruction_set();                  // of the CPU kernels, chosen once
const char* cuda_architectures();               // "" in a build without CUDA

}  // namespace geodesic_fast
