// SPDX-License-Identifier: MIT
// The shape of a block that works on one row of products.
#pragma once

#include "launch.cuh"

namespace geodesic_fast {
namespace cuda {

constexpr int kWarpLanes = 32;
constexpr int kRowThreads = 256;
constexpr int kRowWarps = kRowThreads / kWarpLanes;
constexpr float kLowest = -3.0e38f;

}  // namespace cuda
}  // namespace geodesic_fast
